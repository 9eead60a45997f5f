"""Names of studies on the command line: files, folders, runs, or words for the paper's table. Imports nothing heavy."""

from pathlib import Path
from typing import Literal

CellSet = Literal["as printed", "repaired", "without collapsed"]
PAPER: dict[str, CellSet] = {
    "paper": "as printed",
    "paper:repaired": "repaired",
    "paper:without-collapsed": "without collapsed",
}
"""Word for a study -> version of the paper's table 1."""
SUFFIXES = (".csv", ".tsv")
"""Endings of the names of table files."""
TABLE = "study.csv"
"""File in a study's folder that is read instead of its runs."""


def find_table(name: str | Path) -> str | Path | None:
    """Return the path of a study's table file, the word that means the paper's table, or None for runs.

    Raises FileNotFoundError for a path that doesn't exist; urls and words such as `paper` need no file.
    """
    if isinstance(name, str) and (name in PAPER or "://" in name):
        return name if name in PAPER else None
    path = Path(name)
    if path.is_dir():
        return path / TABLE if (path / TABLE).is_file() and not is_store(path) else None
    if not path.exists():
        words = ", ".join(map(repr, PAPER))
        raise FileNotFoundError(
            f"`{path}` is not there; name a table ({', '.join(SUFFIXES)}), a folder of runs, runs, or {words}"
        )
    return path


def is_store(path: Path) -> bool:
    """Return whether a folder is a Zarr store, by its `zarr.json`."""
    return (path / "zarr.json").is_file()
