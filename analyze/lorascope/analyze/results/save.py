"""Results on disk: datasets and trees as Zarr or NetCDF, tables also as CSV, Parquet and JSON."""

import dataclasses
import hashlib
import json
import math
import warnings
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd  # type: ignore[import-untyped]
import xarray as xr
from zarr.codecs import Crc32cCodec, ZstdCodec

from lorascope.stores.places.files import atomic_write
from lorascope.stores.reading.labels import TOKEN_INDEXES, token_coordinates, with_component_indexes

from .digests import DIGESTS, DONE, add_digests, is_changed
from .options import RESULT_FORMATS, TABLE_FORMATS, refuse_target
from .tree import CHUNK_COMPONENTS, CHUNK_TOKENS

COMPRESSORS = (ZstdCodec(level=0), Crc32cCodec())
"""Codecs of the chunks of a Zarr result: Zarr's default, and a checksum that is compared whenever a chunk is read."""
LABEL_TABLE = "labels"
"""Attribute of a label that is stored as codes: the name of the table that the codes are places in."""


def save(result: xr.Dataset | xr.DataTree, path: str | Path) -> Path:
    """Write a result as Zarr (`.zarr`) or NetCDF (`.nc`), with its attributes and digests, and return the path.

    The file appears under its name only when it is complete. The sample, text and role of each token are stored as
    codes into the tables `sample_labels`, `text_labels` and `role_labels`, which contain each label once.

    Raises
    ------
    ValueError
        If the name has another suffix.
    FileExistsError
        If the path exists.
    """
    target = refuse_target(Path(path))
    tree = encode_labels(result)
    with atomic_write(target) as partial:
        if target.suffix == ".zarr":
            tree.to_zarr(partial, mode="w", zarr_format=3, consolidated=False)
        else:
            tree.to_netcdf(partial, engine="netcdf4")
        add_digests(partial)
    return target


def open_result(path: str | Path) -> xr.DataTree:
    """Return a saved result as an xarray.DataTree; large arrays are read from disk only when they are used.

    Results of `miub` and `qualify` come back as they were. Another dataset is the root of a tree without nodes, and
    `to_dataset()` returns it. The attribute `digest` is that of what was written.

    Warns
    -----
    UserWarning
        If the result isn't what was written. For this, a NetCDF file is read through (about 1 s a GB); of a Zarr result
        only metadata and the sizes of chunks are compared. A chunk's checksum is compared when it is read, with a
        ValueError if it differs; `verify_result` compares all bytes.
    """
    is_netcdf = Path(path).suffix == ".nc"
    if "://" not in str(path) and is_changed(Path(path)):
        message = "isn't what was written: it was damaged, or changed and saved again by something other than lorascope"
        warnings.warn(f"`{path}` {message}", UserWarning, stacklevel=2)
    options: dict[str, Any] = {"engine": "netcdf4"} if is_netcdf else {"engine": "zarr", "consolidated": False}
    stored = xr.open_datatree(path, cache=False, drop_variables=[DONE], **options)
    tree = decode_labels(stored)
    tree.set_close(stored.close)
    return tree


def encode_labels(result: xr.Dataset | xr.DataTree) -> xr.DataTree:
    """Return the tree as it is saved: text labels of tokens as codes into a table of labels, chunks with checksums."""
    tree = xr.DataTree(result) if isinstance(result, xr.Dataset) else result
    nodes = {node.path: _encode_dataset(node.to_dataset(inherit=False)) for node in tree.subtree}
    for name in DIGESTS:  # those of the result that this one was made from
        nodes[tree.path].attrs.pop(name, None)
    return xr.DataTree.from_dict(nodes)


def _encode_dataset(dataset: xr.Dataset) -> xr.Dataset:
    """Return a dataset with its text labels by token as integer codes, and a table of labels for each."""
    for name in [
        str(name)
        for name, coordinate in dataset.coords.items()
        if coordinate.dims == ("token",) and coordinate.dtype == object
    ]:
        table = f"{name}_{LABEL_TABLE}"
        codes, labels = pd.factorize(dataset[name].values)
        columns = {name: ("token", codes.astype(np.int32), {LABEL_TABLE: table}), table: (table, labels)}
        dataset = dataset.drop_vars(name).assign_coords(columns)
    dataset = dataset.copy()
    for variable in dataset.variables.values():  # each format takes its own and ignores the others
        is_table = variable.ndim == 2 and variable.size  # larger chunks of NetCDF take ten times as long
        chunks = tuple(map(min, variable.shape, (CHUNK_TOKENS, CHUNK_COMPONENTS))) if is_table else None
        own = {"contiguous": False, "chunksizes": chunks, "fletcher32": True, "compressors": COMPRESSORS}
        variable.encoding = {**variable.encoding, **own}
    return dataset


def decode_labels(tree: xr.DataTree) -> xr.DataTree:
    """Return the tree that `encode_labels` was given: labels in place of codes and their tables, and with indexes."""
    nodes = {node.path: _decode_dataset(node.to_dataset(inherit=False)) for node in tree.subtree}
    return xr.DataTree.from_dict(nodes)


def _decode_dataset(dataset: xr.Dataset) -> xr.Dataset:
    """Return a dataset as it was before saving: labels in place of codes and their tables, and with indexes."""
    texts = {
        name: variable.astype(object) for name, variable in dataset.variables.items() if variable.dtype.kind in "TU"
    }
    dataset = dataset.assign_coords({name: texts[name] for name in dataset.coords if name in texts})
    dataset = dataset.assign({name: texts[name] for name in dataset.data_vars if name in texts})
    tables = {
        str(name): variable.attrs[LABEL_TABLE]
        for name, variable in dataset.coords.items()
        if LABEL_TABLE in variable.attrs
    }
    labels = {name: dataset[table].values[dataset[name].values] for name, table in tables.items()}
    by_token = {str(name): variable.values for name, variable in dataset.coords.items() if variable.dims == ("token",)}
    labels |= {name: by_token[name] for name in TOKEN_INDEXES if name in by_token and name not in labels}
    dataset = dataset.drop_vars([*tables.values(), *labels]).assign_coords(token_coordinates(labels))
    return with_component_indexes(dataset)


def dataset_to_table(result: xr.Dataset) -> pd.DataFrame:
    """Return a dataset as one DataFrame: dimensions and coordinates as columns, attributes and units in `attrs`."""
    frame = result.to_dataframe().reset_index()
    units = {
        str(name): str(variable.attrs["units"])
        for name, variable in result.variables.items()
        if "units" in variable.attrs
    }
    return with_units(frame, units, result.attrs)


def with_units(frame: pd.DataFrame, units: Mapping[str, str], about: Mapping[Any, Any]) -> pd.DataFrame:
    """Return a copy of a table whose `attrs` have the attributes `about`, and `units` of its columns."""
    table = frame.copy()
    own_units = {name: unit for name, unit in units.items() if name in frame.columns and unit not in ("", "1")}
    table.attrs = {**json_value(about), "units": own_units}
    return table


def save_table(table: pd.DataFrame | xr.Dataset, path: str | Path) -> Path:
    """Write a table in the format of its file name's suffix, and return the path; it appears only when complete.

    Parameters
    ----------
    table
        A dataset, or a table whose `attrs` may hold `units`: column -> unit.
    path
        `.csv`: units in the names of columns, as `js (nat)`. `.parquet`: units and attributes in `attrs` of the table
        that `pandas.read_parquet` returns. `.json`: an object of `attributes`, `units` and `rows`, NaN as null. `.nc`
        and `.zarr`: a dataset, units as attributes of its variables.

    Raises
    ------
    ValueError
        If the name has another suffix, or is inside a store.
    FileExistsError
        If the path exists.
    """
    target = refuse_target(Path(path), TABLE_FORMATS)
    if target.suffix in RESULT_FORMATS:
        return save(table if isinstance(table, xr.Dataset) else _table_to_dataset(table), target)
    frame = dataset_to_table(table) if isinstance(table, xr.Dataset) else table
    with atomic_write(target) as partial:
        if target.suffix == ".parquet":
            frame.to_parquet(partial, index=False)
        elif target.suffix == ".json":
            partial.write_text(to_json(table_to_json_object(frame)), encoding="utf-8")
        else:
            units = frame.attrs.get("units", {})
            named = frame.rename(columns={name: f"{name} ({unit})" for name, unit in units.items()})
            named.to_csv(partial, index=False, lineterminator="\n")
    return target


def table_to_json_object(frame: pd.DataFrame) -> dict[str, Any]:
    """Return a table as the JSON object that is written: `attributes`, `units` by column, and `rows`."""
    about = {name: value for name, value in frame.attrs.items() if name != "units"}
    return {"attributes": about, "units": frame.attrs.get("units", {}), "rows": frame}


def _table_to_dataset(frame: pd.DataFrame) -> xr.Dataset:
    """Return a table as a dataset over `row`, with units; attributes that NetCDF can't store become JSON."""
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


NUMERIC_PACKAGES = ("lorascope", "numpy", "scipy", "pandas")
"""Packages whose versions may change a number."""


def result_provenance(frame: pd.DataFrame, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings, package versions, and number and hash of the rows that a result was computed from."""
    return {
        "data_sha256": data_hash(frame),
        "n_rows": len(frame),
        "settings": json_value(settings),
        "versions": {name: version(name) for name in NUMERIC_PACKAGES},
    }


def data_hash(frame: pd.DataFrame) -> str:
    """Return the SHA-256 of a table written as CSV with exact numbers and without its index."""
    return hashlib.sha256(frame.to_csv(index=False, lineterminator="\n").encode()).hexdigest()


def json_value(value: Any) -> Any:
    """Return a value made of JSON types: NaN as None, infinity as `inf` or `-inf`, a table as a list of its rows."""
    if isinstance(value, pd.DataFrame):
        value = value.to_dict(orient="records")
    elif dataclasses.is_dataclass(value):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    elif hasattr(value, "_asdict"):
        value = value._asdict()
    elif isinstance(value, np.ndarray | np.generic | pd.Index):
        value = value.tolist()
    if isinstance(value, Mapping | pd.Series):
        return {str(key): json_value(item) for key, item in value.items()}
    if isinstance(value, set | frozenset):
        value = sorted(value, key=repr)
    if isinstance(value, list | tuple | range):
        return [json_value(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    if value is None or isinstance(value, str | int | float | bool):
        return value
    return None if value is pd.NA or value is pd.NaT else str(value)


def to_json(value: Any) -> str:
    """Return a result as indented JSON text, with floats in full precision."""
    return json.dumps(json_value(value), indent=2, allow_nan=False, ensure_ascii=False) + "\n"
