"""Results on disk: Zarr or NetCDF, whichever the name asks for."""

from pathlib import Path
from typing import Any

import xarray as xr

from lorascope.stores.places.atomic_write import atomic_write

from .targets import refuse_target

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
