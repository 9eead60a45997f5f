"""Set up a run: every group, array and table, before the first row."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from zarr.codecs import BytesCodec, ShardingCodec, VLenUTF8Codec
from zarr.core.group import ConsolidatedMetadata, GroupMetadata
from zarr.core.metadata import ArrayV3Metadata
from zarr.dtype import parse_dtype

from ..errors import StoreError
from ..format.codec import compressors, encode_chunk
from ..format.digests import chunk_digest, combine_digests, with_fingerprint
from ..format.layout import DIGEST_ARRAYS, GROUPS, ArraySpec, array_specs, require_rows_fit_chunks
from ..format.spec import FORMAT, FORMAT_VERSION, ROW_TOKENS, Codec, RunSpec
from ..format.stored_array import StoredArray, max_text_bytes
from ..format.tables import TABLES, TOKEN_TEXT
from ..json_document import MAX_BYTES
from ..places.file_lock import this_process
from ..places.place import Place, open_place
from ..reading.read import checked_run, open_root
from ..reading.root import MAX_NODES, read_root, require_root_digest
from ..reading.state import WRITER_ATTRIBUTE, run_state
from ..size import format_size
from .write import RunWriter, collect_results, write_document

N_THREADS = 16
"""Number of writing threads: each mostly waits for the disk or the network."""
RESERVED_ROOT_BYTES = 2**20
"""Space in the root's metadata that is reserved for attributes of the finished run."""

Tables = Mapping[str, Mapping[str, Any]]


def create_run(
    path: str | Path | Place,
    spec: RunSpec,
    *,
    tables: Tables,
    weights: Mapping[str, np.ndarray],
    decode_back: bool = False,
) -> RunWriter:
    """Create a run on disk with its tables and weights but no rows yet, and return the writer of its rows.

    Parameters
    ----------
    path
        Folder of the run; it may exist if it is empty.
    spec
        Specification of the run.
    tables
        `samples`, `choices` and `tokens`, each as column name -> values. Columns of scores without the adapter
        (`base_...`) and of answers (`written...`) are optional; every other one is needed.
    weights
        `lora_B/<component>` (feature, rank) of each factored component, `lora_bias/<component>` (feature,) if there
        is one, and `replies/<column>` (reply,), `importance/<column>` and `nulls/<column>`, under `adapters/<name>/`,
        and `vocabulary/text`, as far as the specification has them.
    decode_back
        Whether each chunk, also of rows, is decoded and compared with its values before it is written.

    Raises
    ------
    StoreError
        If the folder isn't empty, a table or weight doesn't fit the specification, or the run would have more metadata
        than readers accept.
    ValueError
        If a component is so wide that a row of it doesn't fit a chunk.
    """
    place = open_place(path)
    _require_unused(place)
    require_rows_fit_chunks(spec)
    values = _static_values(spec, tables, weights)
    # A column without values isn't created, so that a missing chunk was lost; text is created if it is specified.
    made = {*values, f"tokens/{TOKEN_TEXT.name}"}
    specs = [e for e in array_specs(spec) if e.by_row or e.path in made or not e.optional]
    _require_matching_values(specs, values)
    specs = [_with_text_chunks(e, values[e.path]) if e.dtype == "string" and e.path in values else e for e in specs]
    place.delete(list(place.temporary_files()))
    arrays = {entry.path: _array_metadata(entry, spec.codec) for entry in specs}
    documents = _node_documents(spec, arrays)
    contents = {f"{path}/zarr.json": json.dumps(node, indent=2).encode() for path, node in documents.items()}
    _require_root_size(contents)
    del contents["/zarr.json"]  # the root, which is written apart
    attributes = {**documents[""]["attributes"], WRITER_ATTRIBUTE: this_process()._asdict()}
    mine = json.dumps({**documents[""], "attributes": attributes}).encode()
    _require_unused(place)  # another process may have written meanwhile
    # First, so that if this is interrupted, the place is known to be a run that is being set up.
    place.write("zarr.json", mine)
    place.flush("")
    once = [StoredArray.from_metadata(path, arrays[path]) for path in values]
    with ThreadPoolExecutor(N_THREADS) as threads:
        collect_results([threads.submit(place.write, key, content) for key, content in contents.items()])
        written = collect_results(
            [
                threads.submit(_write_static_array, place, array, values[array.path], decode_back=decode_back)
                for array in once
            ]
        )
        collect_results([threads.submit(place.flush, path) for path in documents if path])
    # Last: a run without this digest was interrupted while it was set up.
    digests = {
        "static_digest": combine_digests(part for parts in written for part in parts).hex(),
        "metadata_digest": combine_digests((k, hashlib.sha256(node).digest()) for k, node in contents.items()).hex(),
    }
    _require_unchanged_root(place, mine)
    write_document(place, _consolidated_root(documents, digests))
    return resume_run(place, decode_back=decode_back)


def resume_run(path: str | Path | Place, *, decode_back: bool = False) -> RunWriter:
    """Open an unfinished run, and return the writer of its missing rows; `decode_back` is as in `create_run`.

    Raises
    ------
    StoreError
        If there is no run at `path`, it is finished, it was interrupted while it was set up, its layout isn't that of
        the format, or its root was changed.
    """
    place, root = open_root(path)
    run = checked_run(place, root)
    if run.finished:
        raise StoreError(f"`{place.name}` is finished; there is no row to write")
    require_root_digest(root)
    return RunWriter(run, decode_back=decode_back)


def _require_unused(place: Place) -> None:
    """Raise StoreError if a run or anything else is at this place."""
    if run_state(place) != "absent":
        raise StoreError(f"`{place.name}` holds another run; name a new folder, or delete this one first")


def _require_root_size(contents: Mapping[str, bytes]) -> None:
    """Raise StoreError if the root `zarr.json` with all these `zarr.json` would exceed what readers accept."""
    n_bytes = sum(100 + len(key) + len(re.sub(rb"\n *", b" ", content)) for key, content in contents.items())
    if n_bytes > MAX_BYTES - RESERVED_ROOT_BYTES or len(contents) > MAX_NODES:
        raise StoreError(
            f"{len(contents)} arrays and groups take {format_size(n_bytes)} of metadata, where at most {MAX_NODES} in "
            f"{format_size(MAX_BYTES - RESERVED_ROOT_BYTES)} can be kept; capture fewer adapters or components"
        )


def _require_unchanged_root(place: Place, root: bytes) -> None:
    """Raise StoreError unless the root `zarr.json` at this place is still the one that this process wrote."""
    try:
        if read_root(place).content == root:
            return
    except FileNotFoundError:
        pass
    raise StoreError(
        f"another process set up a run at `{place.name}` at the same moment, or deleted this one; let it end, or end "
        "it, and give the command again, or name another place"
    )


def _write_static_array(place: Place, array: StoredArray, values: Any, *, decode_back: bool) -> list[tuple[str, bytes]]:
    """Write an array's values durably to the run, and return (key, digest) of each chunk."""
    block, parts = np.asarray(values, array.dtype), []
    for index in range(array.n_chunks):
        key = array.key(index)
        pieces = encode_chunk(array, block[index * array.chunks[0] :][: array.chunks[0]], decode_back=decode_back)
        place.write(key, *pieces)
        parts.append((key, chunk_digest(FORMAT_VERSION, *pieces)))
    place.flush(array.path)
    return parts


def _array_metadata(entry: ArraySpec, codec: Codec) -> ArrayV3Metadata:
    """Return the metadata of an array with this specification and compression, as Zarr would create it.

    Zarr's own function takes a millisecond an array, and a run has thousands.
    """
    serializer = VLenUTF8Codec() if entry.dtype == "string" else BytesCodec()
    codecs: tuple[Any, ...] = (serializer, *compressors(entry.dtype, codec))
    attributes: dict[str, Any] = {**entry.attributes, "written": "by row" if entry.by_row else "once"}
    return ArrayV3Metadata(
        shape=entry.shape,
        data_type=parse_dtype(entry.dtype, zarr_format=3),
        chunk_grid={"name": "regular", "configuration": {"chunk_shape": entry.shards or entry.chunks}},
        # Chunks are files next to the metadata: half the folders, half of the flushes.
        chunk_key_encoding={"name": "default", "separator": "."},
        fill_value=entry.fill,
        codecs=codecs if entry.shards is None else [ShardingCodec(chunk_shape=entry.chunks, codecs=codecs)],
        attributes=attributes,
        dimension_names=entry.dims,
    )


def _node_documents(spec: RunSpec, arrays: Mapping[str, ArrayV3Metadata]) -> dict[str, dict[str, Any]]:
    """Return {path: `zarr.json`} of the root, whose path is empty, and of every group and array, as Zarr writes it."""
    optional = sorted({path.partition("/")[0] for path in arrays}.difference(GROUPS))
    attributes = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "stream": spec.stream,
        "states": spec.states,
        "n_tokens": spec.n_tokens,
        "n_rows": spec.n_rows,
        "adapters": [adapter.name for adapter in spec.adapters],
        "finished": False,
        **({"optional_groups": optional} if optional else {}),
        **with_fingerprint(spec.attributes),
    }
    groups = {folder.as_posix() for path in arrays for folder in PurePath(path).parents[:-1]}
    documents = {"": GroupMetadata(attributes).to_dict(), **dict.fromkeys(groups, GroupMetadata().to_dict())}
    return documents | {path: array.to_dict() for path, array in arrays.items()}


def _consolidated_root(documents: Mapping[str, Mapping[str, Any]], digests: Mapping[str, str]) -> dict[str, Any]:
    """Return the root's metadata with those of every array and group and with digests of what is written once.

    So a run can be opened with one read. Nodes keep their own metadata too, since Zarr v3 doesn't specify consolidated
    metadata yet; see docs/store-format.md. Only the root lists any nodes.
    """
    nothing = ConsolidatedMetadata(metadata={})
    root = GroupMetadata({**documents[""]["attributes"], **digests}, consolidated_metadata=nothing).to_dict()
    group = GroupMetadata(consolidated_metadata=nothing).to_dict()
    paths = sorted(documents.keys() - {""})
    nodes = {path: group if documents[path]["node_type"] == "group" else documents[path] for path in paths}
    root["consolidated_metadata"]["metadata"] = nodes
    return root


def _static_values(spec: RunSpec, tables: Tables, weights: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Return {path: values} of everything that is written once, from tables, weights and the specification."""
    components = {c.name: [getattr(component, c.name) for component in spec.components] for c in TABLES["components"]}
    components["fused"] = [json.dumps(component.fused) if component.fused else "" for component in spec.components]
    columns: Tables = {**tables, "components": components}
    values: dict[str, Any] = {f"{table}/{name}": columns[table][name] for table in columns for name in columns[table]}
    if spec.states == "sample":
        values["rows/states"] = np.array(spec.state_rows, np.uint8)
    for adapter in spec.adapters:
        root = f"adapters/{adapter.name}"
        values |= {f"{root}/{name}": getattr(adapter, name) for name in ("rank", "scaling", "factor_start")}
        values[f"{root}/delta_source"] = adapter.sources
        if spec.ablate is not None:
            values[f"{root}/ablation_part"] = spec.ablation_parts
    return {**values, **weights}


def _require_matching_values(specs: list[ArraySpec], values: Mapping[str, Any]) -> None:
    """Raise StoreError unless `values` has every array that is written once, in its shape, and no other."""
    once = {entry.path: entry for entry in specs if not entry.by_row and entry.path not in DIGEST_ARRAYS}
    unknown = sorted(set(values) - set(once))
    if unknown:
        raise StoreError(
            f"no place in this run for {unknown[0]!r} ({len(unknown)} such); check tables, components and adapters"
        )
    for path, entry in once.items():
        if path not in values:
            raise StoreError(f"{path!r} is missing; give it in the run's tables or weights")
        if np.shape(values[path]) != entry.shape:
            raise StoreError(f"{path!r} has shape {np.shape(values[path])}; the run needs {entry.shape}")


def _with_text_chunks(entry: ArraySpec, texts: Sequence[str]) -> ArraySpec:
    """Return a text array's specification, with chunks so short that these texts fit the allowed bytes.

    A text takes its bytes in UTF-8 plus 4. Raises StoreError if not even the shortest chunks fit.
    """
    most = max_text_bytes(entry.path)
    ends = np.cumsum([4 + len(text.encode()) for text in texts])
    n = entry.chunks[0]
    while True:
        starts = np.arange(0, len(texts), n)
        n_bytes = np.diff(np.append(0, ends[np.minimum(starts + n, len(texts)) - 1])).max(initial=0) + 4
        if n_bytes <= most:
            return replace(entry, chunks=(n,))
        if n <= ROW_TOKENS:
            raise StoreError(
                f"{min(n, len(texts))} texts of {entry.path!r} take {format_size(int(n_bytes))}, where at most "
                f"{format_size(most)} can be kept; put shorter ones into the run"
            )
        n = max(-(-n // 2), ROW_TOKENS)
