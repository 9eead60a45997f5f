"""Looking at a chunk before it is decoded: whether it is there, and whether it announces what its array says."""

from collections.abc import Iterable
from typing import Any

import numcodecs.blosc  # type: ignore[import-untyped]
import zarr
from zarr.codecs import BloscCodec

from ..errors import StoreError
from ..format.blocks import CHECKSUM, unsealed
from ..format.codec import blosc_bytes
from ..places.place import Place

__all__ = ["read_chunk_bytes", "read_shard_parts", "require_text_chunk"]

MAX_TEXT_BYTES = 256 * 2**20
"""Of a chunk of text, decoded: 4 KiB for each of 65,536 entries."""
ABSENT = 2**64 - 1


def require_text_chunk(place: Place, key: str, array: zarr.Array[Any], what: str) -> None:
    """The same for a chunk of text, whose length in bytes only a bound is known of; the whole of it is read.

    Its first four bytes say how many texts follow, and are believed by whoever decodes them.
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
    _compare(int.from_bytes(content[:4], "little"), array.chunks[0], what, "texts")


def read_chunk_bytes(place: Place, key: str, what: str) -> bytes:
    """All of a chunk; raises StoreError if it is missing or empty."""
    try:
        content = place.read(key)
    except (FileNotFoundError, NotADirectoryError):
        raise StoreError(f"{what} is missing; run `lorascope verify`") from None
    if not content:
        raise StoreError(f"{what} is empty; run `lorascope verify`")
    return content


def read_shard_parts(
    place: Place, key: str, array: zarr.Array[Any], parts: Iterable[int], what: str
) -> list[bytes | None]:
    """Inner chunks of a shard by their numbers, as they are stored; None where there is none of it.

    Raises
    ------
    StoreError
        If the shard is missing or empty, its index is broken, or a part lies beyond its end.
    """
    found = _shard_ranges(place, key, array, parts, what)
    return [None if one is None else _part(place, key, *one, what) for one in found]


def _shard_ranges(
    place: Place, key: str, array: zarr.Array[Any], parts: Iterable[int], what: str
) -> list[tuple[int, int] | None]:
    """(first byte, byte after the last) of inner chunks, which lie side by side along the columns.

    The shard's index closes it.
    """
    assert array.shards is not None
    size = place.size(key) or 0
    index_bytes = 16 * (array.shards[1] // array.chunks[1]) + CHECKSUM.size
    index = _part(place, key, max(size - index_bytes, 0), size, what)
    if len(index) < index_bytes:
        raise StoreError(f"{what} is broken (it ends before its index); run `lorascope verify`")
    try:
        ranges = unsealed(index).view("<u8").reshape(-1, 2).tolist()
    except ValueError as error:
        raise StoreError(f"{what} is broken (of its index, {error}); run `lorascope verify`") from error
    found = [None if ranges[part] == [ABSENT, ABSENT] else (ranges[part][0], sum(ranges[part])) for part in parts]
    if any(stop > size for _, stop in filter(None, found)):
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


def _compare(announced: int, expected: int, what: str, unit: str = "bytes") -> None:
    if announced != expected:
        raise StoreError(f"{what} is broken (it announces {announced} {unit}, not {expected}); run `lorascope verify`")
