"""Looking at a chunk before it is decoded: whether it is there, and whether it announces what its array says."""

from collections.abc import Sequence
from typing import Any

import numcodecs.blosc  # type: ignore[import-untyped]
import zarr
from zarr.codecs import BloscCodec

from ..errors import StoreError
from ..format.blocks import CHECKSUM, index_bytes, shard_index
from ..format.codec import blosc_bytes
from ..places.place import Place

__all__ = ["read_chunk_bytes", "read_shard_parts", "require_text_chunk"]

MAX_TEXT_BYTES = 256 * 2**20
"""Of a chunk of text, decoded: 4 KiB for each of 65,536 entries."""


def require_text_chunk(place: Place, key: str, array: zarr.Array[Any], what: str) -> None:
    """Raise StoreError unless a chunk of text is there and announces as many texts as its array has; all is read.

    Of its length in bytes only a bound is known. Its first four bytes say how many texts follow, and are believed by
    whoever decodes them.
    """
    content = _part(place, key, 0, MAX_TEXT_BYTES, what)[: -CHECKSUM.size]
    if _is_blosc(array.metadata.codecs):  # type: ignore[union-attr]
        n_bytes = blosc_bytes(content)
        if not 0 <= n_bytes <= MAX_TEXT_BYTES:
            raise StoreError(f"{what} is broken (it announces {n_bytes} bytes of text); run `lorascope verify`")
        try:
            content = numcodecs.blosc.decompress(content)
        except (RuntimeError, ValueError) as error:
            raise StoreError(f"{what} is broken ({error}); run `lorascope verify`") from error
    announced, expected = int.from_bytes(content[:4], "little"), array.chunks[0]
    if announced != expected:
        raise StoreError(f"{what} is broken (it announces {announced} texts, not {expected}); run `lorascope verify`")


def read_chunk_bytes(place: Place, key: str, what: str) -> bytes:
    """All of a chunk; raises StoreError if it is missing or empty."""
    try:
        content = place.read(key)
    except (FileNotFoundError, NotADirectoryError):
        raise StoreError(f"{what} is missing; run `lorascope verify`") from None
    if not content:
        raise StoreError(f"{what} is empty; run `lorascope verify`")
    return content


def read_shard_parts(place: Place, key: str, array: zarr.Array[Any], parts: Sequence[int], what: str) -> list[bytes]:
    """Inner chunks of a shard by their numbers, as they are stored.

    Raises
    ------
    StoreError
        If the shard is missing or empty, its index is broken, or a part is missing or lies beyond its end.
    """
    return [_part(place, key, start, stop, what) for start, stop in _shard_ranges(place, key, array, parts, what)]


def _shard_ranges(
    place: Place, key: str, array: zarr.Array[Any], parts: Sequence[int], what: str
) -> list[tuple[int, int]]:
    """(first byte, byte after the last) of inner chunks, which lie side by side along the columns.

    The shard's index closes it.
    """
    assert array.shards is not None
    size = place.size(key) or 0
    n_bytes = index_bytes(array.shards[1] // array.chunks[1])
    tail = _part(place, key, max(size - n_bytes, 0), size, what)
    if len(tail) < n_bytes:
        raise StoreError(f"{what} is broken (it ends before its index); run `lorascope verify`")
    try:
        index = shard_index(tail)
    except ValueError as error:
        raise StoreError(f"{what} is broken (of its index, {error}); run `lorascope verify`") from error
    found = []
    for part in parts:
        one = index[part]
        if one is None:  # it was lost: parts of nothing but fill are written too
            raise StoreError(f"{what} is broken (part {part} of it is missing); run `lorascope verify`")
        found.append(one)
    if any(stop > size for _, stop in found):
        raise StoreError(f"{what} is broken (a part of it lies beyond its end); run `lorascope verify`")
    return found


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
