"""Results on disk: Zarr or NetCDF, whichever the name asks for."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd  # type: ignore[import-untyped]
import xarray as xr

from lorascope.stores.places.atomic_write import atomic_write
from lorascope.stores.reading.labels import TOKEN_INDEXES, token_coordinates, with_indexes

from .targets import refuse_target

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
    plain = {str(name): variable.values for name, variable in dataset.coords.items() if variable.dims == ("token",)}
    labels |= {name: plain[name] for name in TOKEN_INDEXES if name in plain and name not in labels}
    dataset = dataset.drop_vars([*tables.values(), *labels]).assign_coords(token_coordinates(labels))
    return with_indexes(dataset)
