"""Compare the layout of a run with the format, and return every difference as a `Problem`; nothing is opened."""

import math
import reprlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from zarr.core.metadata import ArrayV3Metadata

from ..errors import Problem
from .codec import codec_problem
from .layout import (
    DIGEST_ARRAYS,
    FOLDERS_BY_COMPONENT,
    GROUPS,
    MAX_CHUNK_BYTES,
    TABLE_CHUNK,
    ArraySpec,
    array_specs,
    is_sealed,
)
from .meshes import are_meshes
from .spec import ROW_TOKENS, STATES, STREAMS, RunSpec
from .stored_spec import specs_read_first, stored_spec

Arrays = Mapping[str, ArrayV3Metadata]
MAX_PROBLEMS = 1000
"""Most differences that are listed."""
MAX_ADAPTERS = 256
"""Most adapters of a run."""
PROVENANCE_OBJECTS = ("settings", "model", "adapters", "libraries", "omitted_items")
"""Entries of the provenance that must be objects if they exist."""


def layout_problems(
    attributes: Mapping[str, Any],
    arrays: Arrays,
    read: Callable[[str], np.ndarray],
    n_objects: Callable[[str], int],
    map_all: Callable[..., Iterable[Any]] = map,
) -> list[Problem]:
    """Return a Problem for each difference of a run's root attributes and arrays from the format; [] if sound.

    Parameters
    ----------
    attributes
        Attributes of the root group.
    arrays
        Path -> metadata of every array in the run.
    read
        Function that returns a whole array which is written once; it is called only after these arrays were checked.
    n_objects
        Function that returns the number of stored chunks of an array.
    map_all
        Function that calls the others for several paths as `map` does, but may do so on several threads.

    Notes
    -----
    Each step needs the one before, so the first step with problems is the last: attributes, then the few arrays whose
    values decide which others exist, then these others, then the lengths of tables. Nothing is read before its size was
    checked.
    """
    problems = [*_attribute_problems(attributes), *_object_problems(attributes)]
    try:
        problems = problems or list(_known_array_problems(specs_read_first(attributes, arrays), arrays))
        if problems:
            return problems
        spec, known = stored_spec(attributes, arrays, read, map_all), set()
        for entry in array_specs(spec):
            known.add(entry.path)
            problems += _known_array_problems([entry], arrays)
            if len(problems) >= MAX_PROBLEMS:  # any number of arrays may be missing
                return problems
        others = {path: metadata for path, metadata in arrays.items() if path not in known}
        problems += [*_owner_problems(spec, others), *_unlisted_group_problems(attributes, others)]
        problems = problems or list(_unknown_array_problems(spec, others))
        return problems or list(_length_problems(arrays, others, lambda paths: map_all(n_objects, paths)))
    except ValueError as error:  # the specification or a table is impossible
        return [Problem("layout", "impossible", str(error))]


def _attribute_problems(attributes: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield a Problem for each root attribute of the format that is missing or has a wrong value."""
    n_tokens = attributes.get("n_tokens")
    counts = type(n_tokens) is int and n_tokens > 0
    n_rows = -(-n_tokens // ROW_TOKENS) if type(n_tokens) is int and counts else "ceil(n_tokens / 1024)"
    adapters = attributes.get("adapters")
    names = isinstance(adapters, list) and 0 < len(adapters) <= MAX_ADAPTERS
    names = names and all(isinstance(name, str) for name in attributes["adapters"])
    optional, digest = attributes.get("optional_groups", []), "a digest in hexadecimal"
    groups = isinstance(optional, list) and all(isinstance(name, str) and name not in GROUPS for name in optional)
    for name, good, allowed in (
        ("stream", attributes.get("stream") in STREAMS, f"one of {STREAMS}"),
        ("states", attributes.get("states") in STATES, f"one of {STATES}"),
        ("n_tokens", counts, "a whole number above 0"),
        ("n_rows", type(attributes.get("n_rows")) is int and attributes["n_rows"] == n_rows, str(n_rows)),
        ("adapters", names, f"a list of names, 1 to {MAX_ADAPTERS}"),
        ("finished", type(attributes.get("finished")) is bool, "true or false"),
        ("static_digest", isinstance(attributes.get("static_digest"), str), digest),
        *([("optional_groups", groups, f"a list of names other than {GROUPS}")] if optional != [] else []),
        *([("meshes", are_meshes(attributes["meshes"]), "a list of meshes")] if "meshes" in attributes else []),
        *([("rows_digest", isinstance(attributes.get("rows_digest"), str), digest)] if is_sealed(attributes) else []),
    ):
        if name not in attributes:
            yield Problem(name, "missing", f"attribute `{name}` is missing; it must be {allowed}")
        elif not good:
            text = reprlib.repr(attributes[name])
            yield Problem(name, "attribute", f"attribute `{name}` is {text}; it must be {allowed}")


def _object_problems(attributes: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield a Problem for each entry of provenance and `measured` that must be an object or a list and isn't."""
    objects = {name: attributes[name] for name in ("provenance", "measured") if name in attributes}
    provenance = objects.get("provenance")
    if isinstance(provenance, dict):
        objects |= {
            f"provenance.{name}": provenance[name] for name in PROVENANCE_OBJECTS if provenance.get(name) is not None
        }
        for name in ("copied", "preflight"):
            listed = provenance.get(name)
            if isinstance(listed, list):
                objects |= {f"provenance.{name}[{index}]": entry for index, entry in enumerate(listed)}
            elif listed is not None:
                message = f"attribute `provenance.{name}` is {reprlib.repr(listed)}; it must be a list of objects"
                yield Problem(f"provenance.{name}", "attribute", message)
    for name, value in objects.items():
        if not isinstance(value, dict):
            yield Problem(name, "attribute", f"attribute `{name}` is {reprlib.repr(value)}; it must be an object")


def _known_array_problems(specs: Iterator[ArraySpec] | list[ArraySpec], arrays: Arrays) -> Iterator[Problem]:
    """Yield a Problem for each specified array that is missing or differs from its specification."""
    for entry in specs:
        if entry.path in arrays:
            yield from _metadata_problems(entry, arrays[entry.path])
        elif not entry.optional:
            yield Problem(entry.path, "missing", f"array {entry.path!r} is missing")


def _owner_problems(spec: RunSpec, others: Arrays) -> Iterator[Problem]:
    """Yield a Problem for each array of an adapter or component that the run doesn't list."""
    adapters = {adapter.name for adapter in spec.adapters}
    components = {component.path for component in spec.components}
    for path in others:
        folder, *below = path.split("/")
        if folder == "adapters" and (len(below) < 2 or below[0] not in adapters):
            message = f"array {path!r} is of an adapter that `adapters` doesn't list: {sorted(adapters)}"
            yield Problem(path, "unlisted", message)
        owner = None
        if folder == "states":
            owner = below[0] if len(below) == 2 else ""
        elif folder == "adapters" and len(below) > 2 and below[1] in FOLDERS_BY_COMPONENT:
            owner = below[2]
        if owner is not None and owner not in components:
            yield Problem(path, "unlisted", f"array {path!r} is of a component that isn't in `components/path`")


def _unlisted_group_problems(attributes: Mapping[str, Any], others: Arrays) -> Iterator[Problem]:
    """Yield a Problem for each unknown array in a group that the root doesn't list, which it must from version 3 on."""
    listed = {*GROUPS, *attributes.get("optional_groups", ())}
    for path in others if attributes["format_version"] >= 3 else ():
        if path.partition("/")[0] not in listed:
            message = f"array {path!r} is in a group that `optional_groups` doesn't list; nothing is known of it"
            yield Problem(path, "unlisted", message)


def _unknown_array_problems(spec: RunSpec, others: Arrays) -> Iterator[Problem]:
    """Yield a Problem for each array unknown to this version that can't be read safely.

    Newer writers may add arrays.
    """
    for path, metadata in others.items():
        by_row = metadata.attributes.get("written") == "by row"
        if not metadata.shape or (by_row and metadata.shape[0] != spec.n_tokens):
            yield Problem(
                path, "shape", f"`shape` of {path!r} is {metadata.shape}; its first axis must be its entries'"
            )
            continue
        entry = ArraySpec(
            path=path, shape=metadata.shape, chunks=metadata.shape, dtype="", fill=0, dims=(), by_row=by_row
        )
        yield from _encoding_problems(entry, metadata)
        dtype = metadata.data_type.to_native_dtype()
        if dtype.kind not in ("biuf" if by_row else "biufT"):
            yield Problem(
                path, "dtype", f"`dtype` of {path!r} is {dtype}; it must be a number{'' if by_row else ' or text'}"
            )


def _length_problems(
    arrays: Arrays, others: Arrays, count_objects: Callable[[list[str]], Iterable[int]]
) -> Iterator[Problem]:
    """Yield a Problem for each table with fewer chunks than its announced length needs."""
    once = [path for path, metadata in others.items() if metadata.attributes.get("written") != "by row"]
    gradients = [path for path in arrays if path.startswith("adapters/") and path.endswith("/importance/gradient")]
    tables = ("samples/id", "choices/sample", "tokens/sample", "rows/states", "vocabulary/text")
    paths = [path for path in (*tables, *gradients, *once) if path in arrays]
    for path, n_chunks in zip(paths, count_objects(paths), strict=True):
        needed = -(-arrays[path].shape[0] // _chunk_shape(arrays[path])[0])
        if n_chunks < needed:
            message = f"{path!r} announces {arrays[path].shape[0]} entries, but has {n_chunks} of {needed} chunks"
            yield Problem(path, "missing", message)


def _metadata_problems(entry: ArraySpec, stored: ArrayV3Metadata) -> Iterator[Problem]:
    """Yield a Problem for each difference of an array's stored metadata from its specification, `entry`."""
    for what, value, expected in (
        ("shape", stored.shape, entry.shape),
        ("dtype", str(stored.data_type.to_json(zarr_format=3)), entry.dtype),
        ("dtype_logical", stored.attributes.get("dtype_logical"), entry.attributes.get("dtype_logical")),
        ("dims", stored.dimension_names, entry.dims),
        ("written", stored.attributes.get("written"), "by row" if entry.by_row else "once"),
        ("separator", getattr(stored.chunk_key_encoding, "separator", None), "."),
    ):
        if value != expected:
            yield Problem(entry.path, what, f"`{what}` of {entry.path!r} is {value!r}; it must be {expected!r}")
    if stored.fill_value != entry.fill and not (_is_nan(stored.fill_value) and _is_nan(entry.fill)):
        message = f"fill value of {entry.path!r} is {stored.fill_value!r}; it must be {entry.fill!r}"
        yield Problem(entry.path, "fill", message)
    yield from _encoding_problems(entry, stored)


def _encoding_problems(entry: ArraySpec, stored: ArrayV3Metadata) -> Iterator[Problem]:
    """Yield a Problem if an array has codecs that the format lacks, or chunks of a shape or size that it forbids."""
    strange = codec_problem(stored)
    if strange is not None:
        message = f"{entry.path!r} can't be decoded: {strange}, which this format doesn't have"
        yield Problem(entry.path, "codecs", message)
    if not _is_chunk_shape_valid(entry, stored):
        message = (
            f"chunks of {entry.path!r} are {_chunk_shape(stored)}; only the first axis may be cut, rows by "
            f"{ROW_TOKENS}, tables by {ROW_TOKENS} at least and {TABLE_CHUNK} at most, and none may hold 2 GiB"
        )
        yield Problem(entry.path, "chunks", message)


def _chunk_shape(stored: ArrayV3Metadata) -> tuple[int, ...]:
    """Return the shape of one stored object: of a shard if the array is sharded, else of a chunk."""
    return tuple(getattr(stored.chunk_grid, "chunk_shape", ()))


def _is_chunk_shape_valid(entry: ArraySpec, stored: ArrayV3Metadata) -> bool:
    """Return whether each stored object has one row (1,024 tokens), or whole entries of an array written once."""
    chunks = _chunk_shape(stored)
    n_bytes = math.prod(chunks) * (getattr(stored.data_type, "item_size", None) or 1)
    inner = getattr(stored.codecs[0], "chunk_shape", None)
    if len(chunks) != len(stored.shape) or n_bytes > MAX_CHUNK_BYTES:
        return False
    if inner is not None and not (
        entry.by_row and len(inner) == len(chunks) == 2 and inner[0] == chunks[0] and inner[1]
    ):
        return False
    width = 1 if inner is None else inner[1]  # a shard is padded to whole inner chunks
    whole = all(n <= c < n + width and c % width == 0 for c, n in zip(chunks[1:], stored.shape[1:], strict=True))
    if entry.by_row or (entry.path in DIGEST_ARRAYS and entry.chunks[0] == 1):
        return whole and chunks[0] == (ROW_TOKENS if entry.by_row else 1)
    fewest = min(stored.shape[0], ROW_TOKENS)  # tiny chunks would be too many
    return whole and max(fewest, 1) <= chunks[0] <= max(entry.chunks[0], TABLE_CHUNK)


def _is_nan(value: Any) -> bool:
    """Return whether a fill value, which may be of any type, is NaN."""
    return bool(value != value)
