"""Where a result may be saved, looked at before any work."""

import os
from pathlib import Path


def refuse_target(target: Path) -> Path:
    """The name itself; raises unless a result may be saved under it, see `save`."""
    if "://" in str(target) or ":/" in target.as_posix()[1:]:
        raise ValueError(f"`out` is {str(target)!r}; a result goes to a folder of this machine")
    if target.suffix not in {".zarr", ".nc"}:
        raise ValueError(f"`out` is {str(target)!r}; its name must end in .zarr (Zarr) or .nc (NetCDF)")
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
