"""Where a result may be saved, looked at before any work."""

import os
from collections.abc import Mapping
from pathlib import Path

RESULTS = {".zarr": "Zarr", ".nc": "NetCDF"}
"""What names of results end in, and what that is."""
TABLES = {".csv": "CSV", ".parquet": "Parquet", ".json": "JSON", **RESULTS}
"""What names of tables end in."""


def refuse_target(target: Path, formats: Mapping[str, str] = RESULTS) -> Path:
    """The name itself; raises unless a result, or a table of `TABLES`, may be saved under it."""
    if "://" in str(target) or ":/" in target.as_posix()[1:]:
        raise ValueError(f"`out` is {str(target)!r}; a result goes to a folder of this machine")
    if target.suffix not in formats:
        *others, last = (f"{suffix} ({name})" for suffix, name in formats.items())
        raise ValueError(f"`out` is {str(target)!r}; its name must end in {', '.join(others)} or {last}")
    if target.exists():
        raise FileExistsError(f"`{target}` is there already; name another, or delete it first")
    refuse_inside_store(target, "out")
    require_writable(target)
    return target


def refuse_inside_store(target: Path, option: str) -> None:
    """Raise ValueError, which names the option, if this place lies inside a store."""
    inside = next((folder for folder in target.absolute().parents if (folder / "zarr.json").exists()), None)
    if inside is not None:
        raise ValueError(f"`{option}` is {str(target)!r}, inside the store `{inside}`; name a place outside of it")


def require_writable(target: Path) -> None:
    """Raise PermissionError before any work if a file of this name couldn't be made."""
    parent = next(folder for folder in target.absolute().parents if folder.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        what = "can't be written to" if parent.is_dir() else "is a file"
        raise PermissionError(f"`{target}` can't be made: `{parent}` {what}; name another place")
