"""Results on disk: Zarr or NetCDF, whichever the name asks for."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd  # type: ignore[import-untyped]
import xarray as xr

from lorascope.stores.places.atomic_write import atomic_write
from lorascope.stores.reading.labels import TOKEN_INDEXES, role_names, token_coordinates, with_indexes

from .reduce import token_blocks, token_sums
from .targets import refuse_target
from .tree import result_tree

DONE = "done"
"""Name of an array that only an unfinished result has: which components are done."""
LABELS = "labels"
"""Attribute of a token's label that is stored as a number: the name of the table in which the number is a place."""
UNIT_OF_SYMBOL = {"nat": "nat", "bit": "bit", "nat^0.5": "sqrt"}
"""Units as results are asked for, by their symbols: results that were saved before they named both have the symbol."""


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

    That of `miub` or `qualify` is as they return it, also where an earlier version saved it; other datasets are the
    root of a tree without nodes, and `to_dataset()` gives them back.
    """
    is_netcdf = Path(path).suffix == ".nc"
    options: dict[str, Any] = {"engine": "netcdf4"} if is_netcdf else {"engine": "zarr", "consolidated": False}
    stored = xr.open_datatree(path, cache=False, drop_variables=[DONE], **options)
    nodes = {node.path: _unpacked(node.to_dataset(inherit=False)) for node in stored.subtree}
    tree = _of_flat(nodes["/"]) if "js_sample" in nodes["/"] else xr.DataTree.from_dict(nodes)
    tree.set_close(stored.close)
    return tree


def packed(result: xr.Dataset | xr.DataTree) -> xr.DataTree:
    """The tree as it is stored."""
    tree = xr.DataTree(result) if isinstance(result, xr.Dataset) else result
    return xr.DataTree.from_dict({node.path: _packed(node.to_dataset(inherit=False)) for node in tree.subtree})


def _packed(dataset: xr.Dataset) -> xr.Dataset:
    for name in [str(name) for name, one in dataset.coords.items() if one.dims == ("token",) and one.dtype == object]:
        table = f"{name}_{LABELS}"
        codes, labels = pd.factorize(dataset[name].values)
        columns = {name: ("token", codes.astype(np.int32), {LABELS: table}), table: (table, labels)}
        dataset = dataset.drop_vars(name).assign_coords(columns)
    return dataset


def _unpacked(dataset: xr.Dataset) -> xr.Dataset:
    texts = {name: one.astype(object) for name, one in dataset.variables.items() if one.dtype.kind in "TU"}
    dataset = dataset.assign_coords({name: texts[name] for name in dataset.coords if name in texts})
    dataset = dataset.assign({name: texts[name] for name in dataset.data_vars if name in texts})
    tables = {str(name): one.attrs[LABELS] for name, one in dataset.coords.items() if LABELS in one.attrs}
    labels = {name: dataset[table].values[dataset[name].values] for name, table in tables.items()}
    if "role" in dataset.coords and "role" not in tables:  # an earlier version's
        labels["role"] = role_names(dataset["role"].values)
    plain = {str(name): one.values for name, one in dataset.coords.items() if one.dims == ("token",)}
    labels |= {name: plain[name] for name in TOKEN_INDEXES if name in plain and name not in labels}
    dataset = dataset.drop_vars([*tables.values(), *labels]).assign_coords(token_coordinates(labels))
    return with_indexes(dataset)


def _of_flat(result: xr.Dataset) -> xr.DataTree:
    """The tree of what an earlier version saved as one dataset; its js is read once, for its sums by token."""
    attrs = dict(result.attrs)
    if "over_tokens" not in attrs:
        attrs["over_tokens"] = attrs["reduction"].removeprefix("tokens: ").partition(";")[0].removeprefix("weighted ")
        attrs["unit"] = UNIT_OF_SYMBOL[attrs["units"]]
    by_token = {name for name, one in result.variables.items() if "token" in one.dims}
    by_sample = {name for name, one in result.variables.items() if "sample" in one.dims}
    samples = result.drop_vars(set(result.variables) - by_sample | by_token).rename(js_sample="js", miub_sample="miub")
    ids = result["sample"].values[result["sample_of_token"].values]
    tokens = result[["js"]].assign_coords(token_coordinates({"sample": ids}))
    sums = [token_sums(block, attrs["unit"]) for _, block in token_blocks(tokens["js"].variable)]
    tokens["miub"] = ("token", np.concatenate(sums), {"units": attrs["units"]})
    tree = result_tree(tokens, samples)
    qualifiers = {name: result.variables[name] for name in result.data_vars if result[name].dims == ("component",)}
    tree.update({name: one for name, one in qualifiers.items() if name not in tree})
    tree.attrs = attrs
    return tree
