"""Tables as files, for whatever reads them next."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd  # type: ignore[import-untyped]
import xarray as xr

from lorascope.stores.places.atomic_write import atomic_write

from .record import plain, to_json
from .save import save
from .targets import RESULTS, TABLES, refuse_target


def table_of(result: xr.Dataset) -> pd.DataFrame:
    """A dataset as one table: its dimensions and coordinates as columns, its attributes and units under `attrs`."""
    frame = result.to_dataframe().reset_index()
    units = {
        str(name): str(variable.attrs["units"])
        for name, variable in result.variables.items()
        if "units" in variable.attrs
    }
    return with_units(frame, units, result.attrs)


def with_units(frame: pd.DataFrame, units: Mapping[str, str], about: Mapping[Any, Any]) -> pd.DataFrame:
    """The table with the unit of each of its columns that has one, and what else is to be known, under `attrs`."""
    table = frame.copy()
    own_units = {name: unit for name, unit in units.items() if name in frame.columns and unit not in ("", "1")}
    table.attrs = {**plain(about), "units": own_units}
    return table


def save_table(table: pd.DataFrame | xr.Dataset, path: str | Path) -> Path:
    """Write a table in the format that its name ends in; it appears only when it is whole. Returns the path.

    Parameters
    ----------
    table
        A dataset, or a table whose `attrs` may hold `units`: column -> unit.
    path
        `.csv`: units in the names of columns, as `js (nat)`. `.parquet`: units and attributes in `attrs` of what
        `pandas.read_parquet` returns. `.json`: an object of `attributes`, `units` and `rows`, NaN as null. `.nc` and
        `.zarr`: a dataset, units as attributes of its variables.

    Raises
    ------
    ValueError
        If the name ends otherwise, or lies inside a store.
    FileExistsError
        If something of that name is there.
    """
    target = refuse_target(Path(path), TABLES)
    if target.suffix in RESULTS:
        return save(table if isinstance(table, xr.Dataset) else _dataset(table), target)
    frame = table_of(table) if isinstance(table, xr.Dataset) else table
    with atomic_write(target) as partial:
        if target.suffix == ".parquet":
            frame.to_parquet(partial, index=False)
        elif target.suffix == ".json":
            partial.write_text(to_json(json_of(frame)), encoding="utf-8")
        else:
            units = frame.attrs.get("units", {})
            named = frame.rename(columns={name: f"{name} ({unit})" for name, unit in units.items()})
            named.to_csv(partial, index=False, lineterminator="\n")
    return target


def json_of(frame: pd.DataFrame) -> dict[str, Any]:
    """A table as JSON has it: `attributes`, `units` by column, and `rows`."""
    about = {name: value for name, value in frame.attrs.items() if name != "units"}
    return {"attributes": about, "units": frame.attrs.get("units", {}), "rows": frame}


def _dataset(frame: pd.DataFrame) -> xr.Dataset:
    """The columns of a table along `row`, with their units; attributes that a file can't hold as they are, as JSON."""
    units = frame.attrs.get("units", {})
    columns = {}
    for name, column in frame.items():
        is_text = not pd.api.types.is_numeric_dtype(column.dtype)
        values = column.astype(object).where(column.notna(), "") if is_text else column
        columns[str(name)] = ("row", values.to_numpy(), {"units": units[name]} if name in units else {})
    about = {
        name: value if isinstance(value, str | int | float) else json.dumps(value)
        for name, value in frame.attrs.items()
        if name != "units"
    }
    return xr.Dataset(columns, attrs=about)
