"""Looking at a chunk before it is decoded: whether it is there, and whether it announces what its array says."""

import math
from typing import Any

import numcodecs.blosc  # type: ignore[import-untyped]
import numpy as np
import zarr
from zarr.codecs import BloscCodec, ShardingCodec

from ..errors import StoreError
from ..format.codec import BLOSC_HEADER, blosc_bytes
from ..places.place import Place

__all__ = ["require_chunk", "require_text_chunk"]

MAX_TEXT_BYTES = 256 * 2**20
"""Of a chunk of text, decoded: 4 KiB for each of 65,536 entries."""
CHECKSUM_BYTES = 4
ABSENT = 2**64 - 1


def require_chunk(place: Place, key: str, array: zarr.Array[Any], what: str, columns: slice = slice(None)) -> None:
    """Raise unless this chunk of numbers is there and decodes to as many bytes as a chunk of its array has.

    A few bytes are read. Without it Zarr before 3.4 would read a missing chunk, and an empty shard, as fill values; and
    Blosc would take whatever memory the chunk's own header asks for.

    Raises
    ------
    StoreError
        If it is missing or empty, or announces another size.
    """
    first = array.metadata.codecs[0]  # type: ignore[union-attr]  # version 3 alone is opened
    if isinstance(first, ShardingCodec):
        _require_shard(place, key, array, what, columns)
        return
    header = _part(place, key, 0, BLOSC_HEADER, what)
    if _is_blosc(array.metadata.codecs):  # type: ignore[union-attr]
        _compare(blosc_bytes(header), math.prod(array.chunks) * array.dtype.itemsize, what)


def require_text_chunk(place: Place, key: str, array: zarr.Array[Any], what: str) -> None:
    """The same for a chunk of text, whose length in bytes only a bound is known of; the whole of it is read.

    Its first four bytes say how many texts follow, and are believed by whoever decodes them.
    """
    content = _part(place, key, 0, MAX_TEXT_BYTES, what)[:-CHECKSUM_BYTES]
    if _is_blosc(array.metadata.codecs):  # type: ignore[union-attr]
        n_bytes = blosc_bytes(content)
        if not 0 <= n_bytes <= MAX_TEXT_BYTES:
            raise StoreError(f"{what} is broken (it announces {n_bytes} bytes of text); run `lorascope verify`")
        try:
            content = numcodecs.blosc.decompress(content)
        except (RuntimeError, ValueError) as error:
            raise StoreError(f"{what} is broken ({error}); run `lorascope verify`") from error
    _compare(int.from_bytes(content[:4], "little"), array.chunks[0], what, "texts")


def _require_shard(place: Place, key: str, array: zarr.Array[Any], what: str, columns: slice) -> None:
    """Inner chunks of a shard lie side by side along the columns; its index closes it."""
    assert array.shards is not None
    width, n_chunks = array.chunks[1], array.shards[1] // array.chunks[1]
    start, stop, _ = columns.indices(array.shape[1])
    size = place.size(key)
    index_bytes = 16 * n_chunks + CHECKSUM_BYTES
    index = _part(place, key, max((size or 0) - index_bytes, 0), size or 0, what)
    if len(index) < index_bytes:
        raise StoreError(f"{what} is broken (it ends before its index); run `lorascope verify`")
    ranges = np.frombuffer(index[:-CHECKSUM_BYTES], dtype="<u8").reshape(n_chunks, 2).tolist()
    blosc = _is_blosc(array.metadata.codecs[0].codecs)  # type: ignore[union-attr]
    for offset, length in ranges[start // width : -(-stop // width)]:
        if (offset, length) == (ABSENT, ABSENT):
            continue
        if offset + length > (size or 0):
            raise StoreError(f"{what} is broken (a part of it lies beyond its end); run `lorascope verify`")
        if blosc:
            header = place.read_part(key, offset, offset + BLOSC_HEADER)
            _compare(blosc_bytes(header), math.prod(array.chunks) * array.dtype.itemsize, what)


def _part(place: Place, key: str, start: int, stop: int, what: str) -> bytes:
    try:
        part = place.read_part(key, start, stop)
    except (FileNotFoundError, NotADirectoryError):
        raise StoreError(f"{what} is missing; run `lorascope verify`") from None
    if not part:
        raise StoreError(f"{what} is empty; run `lorascope verify`")
    return part


def _is_blosc(codecs: Any) -> bool:
    return any(isinstance(codec, BloscCodec) for codec in codecs)


def _compare(announced: int, expected: int, what: str, unit: str = "bytes") -> None:
    if announced != expected:
        raise StoreError(f"{what} is broken (it announces {announced} {unit}, not {expected}); run `lorascope verify`")
