"""Results on disk: datasets and trees as Zarr or NetCDF, tables also as CSV, Parquet and JSON."""

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd  # type: ignore[import-untyped]
import xarray as xr

from lorascope.stores.places.files import atomic_write
from lorascope.stores.reading.labels import TOKEN_INDEXES, token_coordinates, with_component_indexes

from .options import RESULTS, TABLES, refuse_target

DONE = "done"
"""Name of an array that only an unfinished result has: which components are done."""
LABELS = "labels"
"""Attribute of a token's label that is stored as a number: the name of the table in which the number is a place."""


def save(result: xr.Dataset | xr.DataTree, path: str | Path) -> Path:
    """Write a result as Zarr (`.zarr`) or NetCDF (`.nc`), with its attributes; returns the path.

    The file appears under its name only when it is complete. What tells a token's sample, text and role is stored as
    numbers that are places in `sample_labels`, `text_labels` and `role_labels`: every name is there once.

    Raises
    ------
    ValueError
        If the name has another ending.
    FileExistsError
        If something of that name is there.
    """
    target = refuse_target(Path(path))
    tree = packed(result)
    with atomic_write(target) as partial:
        if target.suffix == ".zarr":
            tree.to_zarr(partial, mode="w", zarr_format=3, consolidated=False)
        else:
            tree.to_netcdf(partial, engine="netcdf4")
    return target


def open_result(path: str | Path) -> xr.DataTree:
    """Open a saved result; large arrays are read from disk only when they are used.

    That of `miub` or `qualify` is as they return it; other datasets are the root of a tree without nodes, and
    `to_dataset()` gives them back.
    """
    is_netcdf = Path(path).suffix == ".nc"
    options: dict[str, Any] = {"engine": "netcdf4"} if is_netcdf else {"engine": "zarr", "consolidated": False}
    stored = xr.open_datatree(path, cache=False, drop_variables=[DONE], **options)
    nodes = {node.path: _unpacked(node.to_dataset(inherit=False)) for node in stored.subtree}
    tree = xr.DataTree.from_dict(nodes)
    tree.set_close(stored.close)
    return tree


def packed(result: xr.Dataset | xr.DataTree) -> xr.DataTree:
    """The tree with texts by token as codes and a table of labels, as it is saved."""
    tree = xr.DataTree(result) if isinstance(result, xr.Dataset) else result
    return xr.DataTree.from_dict({node.path: _packed(node.to_dataset(inherit=False)) for node in tree.subtree})


def _packed(dataset: xr.Dataset) -> xr.Dataset:
    for name in [
        str(name)
        for name, coordinate in dataset.coords.items()
        if coordinate.dims == ("token",) and coordinate.dtype == object
    ]:
        table = f"{name}_{LABELS}"
        codes, labels = pd.factorize(dataset[name].values)
        columns = {name: ("token", codes.astype(np.int32), {LABELS: table}), table: (table, labels)}
        dataset = dataset.drop_vars(name).assign_coords(columns)
    return dataset


def _unpacked(dataset: xr.Dataset) -> xr.Dataset:
    texts = {
        name: variable.astype(object) for name, variable in dataset.variables.items() if variable.dtype.kind in "TU"
    }
    dataset = dataset.assign_coords({name: texts[name] for name in dataset.coords if name in texts})
    dataset = dataset.assign({name: texts[name] for name in dataset.data_vars if name in texts})
    tables = {
        str(name): variable.attrs[LABELS] for name, variable in dataset.coords.items() if LABELS in variable.attrs
    }
    labels = {name: dataset[table].values[dataset[name].values] for name, table in tables.items()}
    by_token = {str(name): variable.values for name, variable in dataset.coords.items() if variable.dims == ("token",)}
    labels |= {name: by_token[name] for name in TOKEN_INDEXES if name in by_token and name not in labels}
    dataset = dataset.drop_vars([*tables.values(), *labels]).assign_coords(token_coordinates(labels))
    return with_component_indexes(dataset)


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


SHAPING = ("lorascope", "numpy", "scipy", "pandas")
"""Packages whose versions may move a number."""


def provenance(frame: pd.DataFrame, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Versions, settings and a hash of the rows that a result was made of."""
    return {
        "data_sha256": data_hash(frame),
        "n_rows": len(frame),
        "settings": plain(settings),
        "versions": {name: version(name) for name in SHAPING},
    }


def data_hash(frame: pd.DataFrame) -> str:
    """SHA-256 of a table's columns and rows as CSV with shortest exact numbers; its index doesn't count."""
    return hashlib.sha256(frame.to_csv(index=False, lineterminator="\n").encode()).hexdigest()


def plain(value: Any) -> Any:
    """A value as JSON has it: NaN is null, an infinity `inf` or `-inf`; tables are lists of rows, sets are sorted."""
    if isinstance(value, pd.DataFrame):
        value = value.to_dict(orient="records")
    elif dataclasses.is_dataclass(value):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    elif hasattr(value, "_asdict"):
        value = value._asdict()
    elif isinstance(value, np.ndarray | np.generic | pd.Index):
        value = value.tolist()
    if isinstance(value, Mapping | pd.Series):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, set | frozenset):
        value = sorted(value, key=repr)
    if isinstance(value, list | tuple | range):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    if value is None or isinstance(value, str | int | float | bool):
        return value
    return None if value is pd.NA or value is pd.NaT else str(value)


def to_json(value: Any) -> str:
    """Indented JSON of a result, every float with the digits that give it back."""
    return json.dumps(plain(value), indent=2, allow_nan=False, ensure_ascii=False) + "\n"
