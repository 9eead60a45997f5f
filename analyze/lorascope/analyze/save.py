"""Results on disk: Zarr or NetCDF, whichever the name asks for."""

import os
from pathlib import Path
from typing import Any

import xarray as xr

from lorascope.stores.places.atomic_write import atomic_write

DONE = "done"
"""Name of an array that only an unfinished result has: which components are done."""
UNIT_OF_SYMBOL = {"nat": "nat", "bit": "bit", "nat^0.5": "sqrt"}
"""Units as results are asked for, by their symbols: results that were saved before they named both have the symbol."""


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
    target = refuse_target(Path(path))
    with atomic_write(target) as partial:
        if target.suffix == ".zarr":
            result.to_zarr(partial, mode="w", zarr_format=3, consolidated=False)
        else:
            result.to_netcdf(partial, engine="netcdf4")
    return target


def open_result(path: str | Path) -> xr.Dataset:
    """A saved result; what is large stays on the disk until it is looked at."""
    is_netcdf = Path(path).suffix == ".nc"
    options: dict[str, Any] = {"engine": "netcdf4"} if is_netcdf else {"engine": "zarr", "consolidated": False}
    result = xr.open_dataset(path, cache=False, drop_variables=[DONE], **options)
    if "over_tokens" not in result.attrs and str(result.attrs.get("reduction")).startswith("tokens: "):
        over_tokens = result.attrs["reduction"].removeprefix("tokens: ").partition(";")[0].removeprefix("weighted ")
        return result.assign_attrs(over_tokens=over_tokens, unit=UNIT_OF_SYMBOL[result.attrs["units"]])
    return result


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
