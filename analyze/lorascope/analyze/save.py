"""Results on disk: Zarr or NetCDF, whichever the name asks for."""

import os
import shutil
from pathlib import Path
from typing import Any

import xarray as xr

from .measuring.partial import CHUNK_TOKENS, DONE, partial_path

__all__ = ["finish", "open_result", "refuse_inside_store", "refuse_target", "require_writable", "save"]


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
    try:
        _remove(partial)
        if target.suffix == ".zarr":
            result.to_zarr(partial, mode="w", zarr_format=3, consolidated=False)
        else:
            result.to_netcdf(partial, engine="netcdf4")
        return partial.rename(target)
    finally:
        _remove(partial)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def finish(result: xr.Dataset, target: Path) -> xr.Dataset:
    """Make the part that was written beside `target` the result itself; returns it as it is on disk.

    Raises what `save` raises.
    """
    partial = partial_path(target)
    large = [name for name, values in result.data_vars.items() if values.dims == ("token", "component")]
    if target.suffix == ".zarr":
        result.drop_vars(large).to_zarr(partial, mode="a", zarr_format=3, consolidated=False)
        partial.rename(target)
        shutil.rmtree(target / DONE)  # afterwards: without it what was computed would be taken for nothing
    else:
        save(result.assign({name: result[name].chunk({"token": CHUNK_TOKENS}) for name in large}), target)
        shutil.rmtree(partial)
    return open_result(target)


def open_result(path: Path) -> xr.Dataset:
    """A saved result; what is large stays on the disk until it is looked at."""
    options: dict[str, Any] = (
        {"engine": "netcdf4"} if path.suffix == ".nc" else {"engine": "zarr", "consolidated": False}
    )
    return xr.open_dataset(path, cache=False, drop_variables=[DONE], **options)


def refuse_target(target: Path) -> Path:
    """The same name; raises unless a result may be saved under it, see `save`."""
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
