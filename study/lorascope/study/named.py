"""Names of studies, resolved before the libraries that read it are imported."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

CellSet = Literal["as printed", "repaired", "without collapsed"]
PAPER: dict[str, CellSet] = {
    "paper": "as printed",
    "paper:repaired": "repaired",
    "paper:without-collapsed": "without collapsed",
}
"""Word -> which cells of the paper's table 1."""
SUFFIXES = (".csv", ".tsv")
"""Endings of the names of files that hold a table."""
TABLE = "study.csv"
"""File of a study's folder that is taken in place of its runs."""


def require_there(paths: Sequence[str | Path]) -> None:
    """Raise FileNotFoundError if one of these is neither there nor a word for the paper's table."""
    for path in paths:
        table_of(path)


def table_of(name: str | Path) -> str | Path | None:
    """The file that is the table, or the word for the paper's; None for runs."""
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
    """Whether a folder is a Zarr store."""
    return (path / "zarr.json").is_file()
