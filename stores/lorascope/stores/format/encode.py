"""The bytes that Zarr would store for a chunk, made past Zarr's pipelines with its own codec libraries."""

import struct
from collections.abc import Mapping
from typing import Any

import google_crc32c
import numcodecs.blosc  # type: ignore[import-untyped]
import numpy as np
from numcodecs.vlen import VLenUTF8  # type: ignore[import-untyped]
from zarr.codecs import BloscCodec, ShardingCodec
from zarr.core.metadata import ArrayV3Metadata

from ..errors import StoreError
from .stored_array import CHECKSUM, StoredArray

SHUFFLES = {"noshuffle": 0, "shuffle": 1, "bitshuffle": 2}
PLACE = struct.Struct("<QQ")
"""First byte and number of bytes of an inner chunk in the index of its shard."""

Pieces = tuple[memoryview, ...]
"""Bytes that follow each other, each where they lie: what isn't compressed is never copied."""


class ChunkEncoder:
    """Encodes blocks of a run's arrays into their chunks; from any thread.

    Zarr's pipelines copy a chunk three times and keep an event loop busy; these bytes are the same. With `decode_back`
    each chunk is decoded again and compared with its block, so that a faulty compressor is noticed.
    """

    def __init__(self, metadata: Mapping[str, ArrayV3Metadata], *, decode_back: bool = False) -> None:
        self.arrays = {path: StoredArray.from_metadata(path, array) for path, array in metadata.items()}
        """Path -> array."""
        self._decode_back = decode_back
        self._blosc = {path: _blosc_settings(array) for path, array in metadata.items()}

    def encode(self, path: str, block: np.ndarray) -> Pieces:
        """A chunk along the first axis of an array, a shard if it has these; a short block is filled up.

        Raises
        ------
        StoreError
            If it is decoded back and isn't the block.
        """
        array = self.arrays[path]
        pieces = _pieces(array, block, self._blosc[path])
        if self._decode_back and not _decodes_to(array, pieces, block):
            raise StoreError(f"a chunk of {path!r} was compressed to other values than were given; it wasn't written")
        return pieces


def _pieces(array: StoredArray, block: np.ndarray, blosc: tuple[Any, ...] | None) -> Pieces:
    whole = _filled(array, block)
    if array.part_width is None:
        return _encoded(whole, blosc)
    pieces: list[memoryview] = []
    index, start = b"", 0
    for first in range(0, array.chunks[1], array.part_width):
        part = _encoded(np.ascontiguousarray(whole[:, first : first + array.part_width]), blosc)
        n_bytes = sum(piece.nbytes for piece in part)
        index += PLACE.pack(start, n_bytes)
        start += n_bytes
        pieces += part
    return (*pieces, *_sealed(index))


def _decodes_to(array: StoredArray, pieces: Pieces, block: np.ndarray) -> bool:
    try:
        decoded = array.decode(0, b"".join(pieces))[: len(block)]
    except (ValueError, RuntimeError):
        return False
    if block.dtype.kind == "T":
        return bool(np.array_equal(decoded, block))
    return decoded.shape == block.shape and decoded.tobytes() == block.tobytes()


def _blosc_settings(metadata: ArrayV3Metadata) -> tuple[Any, ...] | None:
    """Arguments of Blosc after what is compressed: compressor, level, shuffle, size of blocks and of items."""
    codecs: Any = metadata.codecs
    for codec in codecs[0].codecs if isinstance(codecs[0], ShardingCodec) else codecs:
        if isinstance(codec, BloscCodec):
            settings: Any = codec.to_dict()["configuration"]
            shuffle = SHUFFLES[settings["shuffle"]]
            return settings["cname"].encode(), settings["clevel"], shuffle, settings["blocksize"], settings["typesize"]
    return None


def _filled(array: StoredArray, block: np.ndarray) -> np.ndarray:
    """A whole chunk that begins with this block, contiguous: the block itself where it is one."""
    if block.shape == array.chunks:
        return np.ascontiguousarray(block)
    whole = np.full(array.chunks, array.fill, array.dtype)
    whole[tuple(map(slice, block.shape))] = block
    return whole


def _encoded(block: np.ndarray, blosc: tuple[Any, ...] | None) -> Pieces:
    """A block with nothing left to fill up, compressed if there are settings, and its checksum."""
    body: Any = VLenUTF8().encode(block.astype(object)) if block.dtype.kind == "T" else block
    return _sealed(body if blosc is None else numcodecs.blosc.compress(body, *blosc))


def _sealed(body: Any) -> Pieces:
    content = memoryview(body).cast("B")
    checksum = google_crc32c.value(np.frombuffer(content, np.uint8))
    return content, memoryview(CHECKSUM.pack(checksum))
