"""Results on disk: Zarr or NetCDF, whichever the name asks for."""

import os
import shutil
from pathlib import Path

import xarray as xr

__all__ = ["refuse_target", "require_writable", "save"]


def save(result: xr.Dataset, path: str | Path) -> Path:
    """Write a result as Zarr (`.zarr`) or NetCDF (`.nc`), with its attributes; returns the path.

    It appears under its name only when it is whole.

    Raises
    ------
    ValueError
        If the name ends otherwise.
    FileExistsError
        If something of that name is there.
    """
    target = Path(path)
    refuse_target(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.partial")
    if partial.is_dir():
        shutil.rmtree(partial)
    if target.suffix == ".zarr":
        result.to_zarr(partial, mode="w", zarr_format=3, consolidated=False)
    else:
        result.to_netcdf(partial, engine="netcdf4")
    return partial.rename(target)


def refuse_target(target: Path) -> None:
    """Raise unless a result may be saved under this name; see `save`."""
    if target.suffix not in {".zarr", ".nc"}:
        raise ValueError(f"`out` is {str(target)!r}; its name must end in .zarr (Zarr) or .nc (NetCDF)")
    if target.exists():
        raise FileExistsError(f"`{target}` is there already; name another, or delete it first")
    require_writable(target)


def require_writable(target: Path) -> None:
    """Raise PermissionError before any work if a file of this name couldn't be made."""
    parent = next(folder for folder in target.absolute().parents if folder.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        what = "can't be written to" if parent.is_dir() else "is a file"
        raise PermissionError(f"`{target}` can't be made: `{parent}` {what}; name another place")
