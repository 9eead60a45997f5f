"""Setting a run up: every group, array and table, before the first row."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from .check import may_be_absent
from .codec import compressors
from .digest import combine, flush_directory, hash_file, replace_file
from .errors import StoreError
from .layout import FORMAT, FORMAT_VERSION, ArraySpec, RunSpec, array_specs
from .tables import TABLES
from .write import RunWriter

__all__ = ["create_run"]

Tables = Mapping[str, Mapping[str, Any]]


def create_run(path: str | Path, spec: RunSpec, *, tables: Tables, weights: Mapping[str, np.ndarray]) -> RunWriter:
    """Set up an empty run on disk and return the writer of its rows.

    Parameters
    ----------
    path
        Folder of the run; it may exist if it is empty.
    spec
        What the run holds.
    tables
        `samples`, `choices` and `tokens`, each as column name -> one value an entry. Columns of scores without the
        adapter (`base_...`) may be left out; every other one is needed.
    weights
        `lora_B/<component>` (feature, rank) of each factored component, and `lora_bias/<component>` (feature,) where
        there is one, under `adapters/<name>/`.

    Raises
    ------
    StoreError
        If the folder isn't empty, or a table or weight doesn't fit the specification.
    """
    root = Path(path)
    refuse_used(root)
    values = {**_table_values(spec, tables), **_adapter_values(spec), **weights}
    # A column that was left out isn't made, so that one whose chunk is gone was lost.
    specs = [entry for entry in array_specs(spec) if entry.path in values or not may_be_absent(entry.path)]
    _check_values(specs, values)
    root.mkdir(parents=True, exist_ok=True)
    group = zarr.create_group(root, attributes=_attributes(spec))
    arrays = {entry.path: _create_array(group, entry, spec) for entry in specs}
    for entry in specs:
        if not entry.by_row and entry.path in values:
            arrays[entry.path][...] = np.asarray(values[entry.path], dtype=_numpy_dtype(entry))
    _flush_tree(root)
    # Written last: a run without it was interrupted while it was being set up.
    content = json.loads((root / "zarr.json").read_bytes())
    content["attributes"]["static_digest"] = static_digest(root, specs).hex()
    replace_file(root / "zarr.json", json.dumps(content, indent=2).encode())
    return RunWriter(root, arrays={e.path: arrays[e.path] for e in specs if e.by_row}, digests=arrays["rows/digest"])


def refuse_used(root: Path) -> None:
    """Raise unless a run may be set up here."""
    if root.is_file():
        raise StoreError(f"`{root}` is a file; name a folder that is new or empty")
    if not root.is_dir() or not any(root.iterdir()):
        return
    what = "holds another run" if (root / "zarr.json").is_file() else "isn't empty"
    raise StoreError(f"`{root}` {what}; name a new folder, or delete this one first")


def static_digest(root: Path, specs: list[ArraySpec]) -> bytes:
    """Digest of everything that is written once: tables and weights."""
    folders = [entry.path for entry in specs if not entry.by_row and entry.path != "rows/digest"]
    keys = [f"{folder}/{file.name}" for folder in folders for file in sorted((root / folder).glob("c.*"))]
    return combine((key, hash_file(root / key)) for key in keys)


def _attributes(spec: RunSpec) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "stream": spec.stream,
        "states": spec.states,
        "n_tokens": spec.n_tokens,
        "n_rows": spec.n_rows,
        "adapters": [adapter.name for adapter in spec.adapters],
        "finished": False,
        **spec.attributes,
    }


def _create_array(group: zarr.Group, entry: ArraySpec, spec: RunSpec) -> zarr.Array[Any]:
    return group.create_array(
        entry.path,
        shape=entry.shape,
        chunks=entry.chunks,
        shards=entry.shards,
        dtype=entry.dtype,
        fill_value=entry.fill,
        dimension_names=entry.dims,
        compressors=compressors(entry.dtype, spec.codec),
        # One file a chunk beside its metadata: half the folders, and half of what has to be flushed.
        chunk_key_encoding={"name": "default", "separator": "."},
        attributes=dict(entry.attributes, written="by row" if entry.by_row else "once"),  # type: ignore[arg-type]  # JSON
        # Without it an all-NaN chunk leaves no file, and couldn't be told from a lost one.
        config={"write_empty_chunks": True},
    )


def _table_values(spec: RunSpec, tables: Tables) -> dict[str, Any]:
    values: dict[str, Any] = {}
    components = [
        {
            "path": c.path,
            "kind": c.kind,
            "layer": c.layer,
            "d_in": c.d_in,
            "d_out": c.d_out,
            "dtype": c.dtype,
            "stored_dtype": c.stored_dtype,
            "fused": json.dumps(c.fused) if c.fused else "",
        }
        for c in spec.components
    ]
    known = {
        **tables,
        "components": {column.name: [row[column.name] for row in components] for column in TABLES["components"]},
    }
    for table, columns in TABLES.items():
        given = known.get(table, {})
        for column in columns:
            if column.name in given:
                values[f"{table}/{column.name}"] = given[column.name]
            elif (
                not column.by_row and not column.name.startswith("base_") and (column.name != "text" or spec.token_text)
            ):
                raise StoreError(f"table `{table}` lacks the column {column.name!r}")
        extra = sorted(set(given) - {column.name for column in columns})
        if extra:
            raise StoreError(f"table `{table}` has columns that the format doesn't know: {extra}")
    return values


def _adapter_values(spec: RunSpec) -> dict[str, Any]:
    return {
        f"adapters/{adapter.name}/{name}": values
        for adapter in spec.adapters
        for name, values in (
            ("rank", adapter.rank),
            ("scaling", adapter.scaling),
            ("factor_start", adapter.factor_start),
        )
    }


def _check_values(specs: list[ArraySpec], values: Mapping[str, Any]) -> None:
    once = {entry.path: entry for entry in specs if not entry.by_row}
    unknown = sorted(set(values) - set(once))
    if unknown:
        raise StoreError(
            f"no place in this run for {unknown[0]!r} ({len(unknown)} such); check components and adapters"
        )
    for path, entry in once.items():
        if "/lora_" in path and path not in values:
            raise StoreError(f"weight {path!r} is missing; a factor is of no use without it")
        if path in values and np.shape(values[path]) != entry.shape:
            raise StoreError(f"{path!r} has shape {np.shape(values[path])}; the run needs {entry.shape}")


def _numpy_dtype(entry: ArraySpec) -> Any:
    return np.dtypes.StringDType() if entry.dtype == "string" else np.dtype(entry.dtype)


def _flush_tree(root: Path) -> None:
    for folder, _, files in os.walk(root):
        for file in files:
            hash_file(Path(folder) / file, flush=True)
        flush_directory(Path(folder))
