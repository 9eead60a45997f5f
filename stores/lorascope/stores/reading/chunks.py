"""Reading chunks, and the digests of rows, past Zarr: each object once, with its checksum checked.

For whole chunks of a megabyte, Zarr's fastest pipeline takes twice the CPU time, and it doesn't check the checksum of a
chunk that it decodes in part.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np

from ..errors import Problem, StoreError
from ..format.digests import chunk_digest, combine_row_digests
from ..format.layout import DIGESTS, commit_path, is_sealed
from ..format.stored_array import StoredArray, parse_shard_index, shard_index_bytes
from ..places.place import Place
from ..threads import N_REQUESTS, map_in_order
from .root import read_root

MISSING_ERRORS = (FileNotFoundError, NotADirectoryError)
"""Errors of a place for a key that doesn't exist."""


class Chunk(NamedTuple):
    """Result of reading one chunk of an array for a check: its digest, and its block or its problem."""

    key: str
    digest: bytes | None
    """Digest of its bytes; None if it can't be read."""
    block: np.ndarray | None = None
    """Its entries, as stored; None if they weren't asked for or can't be decoded."""
    problem: Problem | None = None


def read_chunk(place: Place, array: StoredArray, index: int, *, version: int, decode: bool) -> Chunk:
    """Read and hash a chunk, decode it if asked, and return it as a Chunk, which has the problem if any.

    `index` is its place along the array's first axis. Problems aren't raised.
    """
    key = array.key(index)
    try:
        content = place.read(key, at_most=array.max_bytes)
    except MISSING_ERRORS:
        return Chunk(key, None, problem=Problem(key, "missing", f"chunk {key!r} is missing"))
    except StoreError as error:
        return Chunk(key, None, problem=Problem(key, "file", f"chunk {key!r} can't be read: {error}"))
    if not content:
        return Chunk(key, None, problem=Problem(key, "empty", f"chunk {key!r} is an empty file"))
    digest = chunk_digest(version, content)
    if not decode:
        return Chunk(key, digest)
    try:
        block = array.decode(index, content)
    except (ValueError, RuntimeError) as error:
        message = f"{key!r} can't be decoded: {type(error).__name__}: {error}"
        return Chunk(key, digest, problem=Problem(key, "decode", message))
    outside = array.range_problem(index, block)
    return Chunk(key, digest, block, None if outside is None else Problem(key, "range", outside))


def read_chunk_columns(
    place: Place, array: StoredArray, chunk: int, columns: Sequence[slice] = (slice(None),)
) -> list[np.ndarray]:
    """Return one array (entry, column), as stored, for each span of columns of a chunk.

    Raises
    ------
    StoreError
        If the chunk is missing, empty or broken, or has a value that its column may not have.

    Notes
    -----
    Of a shard only its index and the inner chunks of these columns are read.
    """
    key = array.key(chunk)
    try:
        if array.part_width is None:
            whole = array.decode_part(_require_content(place.read(key, at_most=array.max_bytes), key))
            outside = array.range_problem(chunk, whole)
            if outside is not None:
                raise StoreError(f"{outside}; run `lorascope verify`")
            return [whole[:, span] for span in columns] if whole.ndim > 1 else [whole]
        return _read_shard_columns(place, array, key, [range(*span.indices(array.shape[1])) for span in columns])
    except MISSING_ERRORS:
        raise StoreError(f"chunk {key!r} is missing; run `lorascope verify`") from None
    except StoreError:
        raise
    except (ValueError, RuntimeError) as error:
        raise StoreError(f"chunk {key!r} is broken ({error}); run `lorascope verify`") from error


def _read_shard_columns(place: Place, array: StoredArray, key: str, spans: Sequence[range]) -> list[np.ndarray]:
    """Return one array (entry, column) for each span of columns of a shard; each inner chunk is read once.

    A shard whose inner chunks are all needed is read at once, of another one only its index and these inner chunks.
    """
    assert array.part_width is not None
    width, n_parts = array.part_width, array.chunks[1] // array.part_width
    needed = sorted({part for span in spans for part in range(span.start // width, -(-span.stop // width))})
    whole = place.read(key, at_most=array.max_bytes) if len(needed) == n_parts else None

    def read(start: int, stop: int | None) -> bytes:
        """Return a part of the shard; raises StoreError if it is empty."""
        content = place.read_part(key, start, stop, at_most=array.max_bytes) if whole is None else whole[start:stop]
        return _require_content(content, key)

    index, parts = _read_shard_index(read, n_parts), {}
    for part in needed:
        bounds = index[part]
        if bounds is None:  # it was lost: inner chunks that are all fill values are written too
            raise ValueError(f"part {part} of it is missing")
        content = read(*bounds) if bounds[1] <= array.max_bytes else b""
        if len(content) < bounds[1] - bounds[0]:
            raise ValueError("a part of it lies beyond its end")
        parts[part] = array.decode_part(content)
    blocks = []
    for span in spans:
        first, last = span.start // width, -(-span.stop // width)
        side_by_side = np.concatenate([parts[part] for part in range(first, last)], axis=1)
        blocks.append(side_by_side[:, span.start - first * width : span.stop - first * width])
    return blocks


def _read_shard_index(read: Callable[[int, None], bytes], n_parts: int) -> list[tuple[int, int] | None]:
    """Return (first byte, byte after the last) of each inner chunk of a shard; None for a missing one."""
    tail = read(-shard_index_bytes(n_parts), None)
    if len(tail) < shard_index_bytes(n_parts):
        raise ValueError("it ends before its index")
    try:
        return parse_shard_index(tail)
    except ValueError as error:
        raise ValueError(f"of its index, {error}") from error


def _require_content(content: bytes, key: str) -> bytes:
    """Return the bytes of a chunk as they are; raises StoreError if it is empty."""
    if not content:
        raise StoreError(f"chunk {key!r} is empty; run `lorascope verify`")
    return content


def read_digests(place: Place, attributes: Mapping[str, Any], arrays: Mapping[str, StoredArray]) -> np.ndarray:
    """Return the digests of all rows (1,024 tokens each), uint8 (row, byte); all zero for rows not committed.

    `attributes` are those of the root, as the caller knows them: if the run was finished since, this is noticed.

    Raises
    ------
    StoreError
        If a file of digests is broken, missing or not what was written.
    """
    if not is_sealed(attributes):
        digests = _read_commits(arrays[commit_path(attributes["format_version"])], place)
        if attributes["format_version"] < 3 or digests.any(axis=1).all():
            return digests
        now: Mapping[str, Any] = {}
        with suppress(*MISSING_ERRORS):
            now = read_root(place).attributes
        if not is_sealed(now) or now.get("static_digest") != attributes["static_digest"]:
            return digests
        attributes = now
    array = arrays[DIGESTS]
    digests = np.concatenate([read_chunk_columns(place, array, chunk)[0] for chunk in range(array.n_chunks)])
    digests = digests[: array.shape[0]]
    if combine_row_digests(dict(enumerate(map(bytes, digests)))) != attributes.get("rows_digest"):
        raise StoreError(f"digests of rows, {DIGESTS!r}, aren't what was written; restore this file, or capture again")
    return digests


def _read_commits(array: StoredArray, place: Place) -> np.ndarray:
    """Return the digest of each row from its own object, uint8 (row, byte); all zero for rows without one."""
    digests = np.zeros(array.shape, np.uint8)
    names = (key.rpartition("/")[2].split(".") for key in place.keys(array.path))
    listed = [int(name[1]) for name in names if len(name) == 3 and name[1].isdecimal()]
    rows = [row for row in listed if row < len(digests)]
    read = map_in_order(lambda row: _read_digest(array, place, row), rows, n_threads=N_REQUESTS if place.remote else 1)
    for row, digest in zip(rows, read, strict=True):
        digests[row] = digest
    return digests


def _read_digest(array: StoredArray, place: Place, row: int) -> np.ndarray:
    """Return the digest of a row, uint8 (byte,); all zero if its file is gone."""
    key = array.key(row)
    try:
        return np.asarray(array.decode(row, place.read(key, at_most=array.max_bytes))[0])
    except FileNotFoundError:  # deleted since it was listed
        return np.zeros(array.shape[1], np.uint8)
    except (ValueError, RuntimeError) as error:
        message = f"digest {key!r} is broken ({error}); restore this file, or delete it to give row {row} up"
        raise StoreError(message) from error
