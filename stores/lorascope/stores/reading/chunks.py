"""One chunk at a time: its bytes read once from wherever the run lies, and the numbers in them."""

import math
from hashlib import sha256
from typing import Any, NamedTuple

import numpy as np
import zarr
from zarr.abc.buffer import Buffer as AnyBuffer
from zarr.buffer.cpu import Buffer
from zarr.core.metadata import ArrayV3Metadata
from zarr.storage import MemoryStore, StorePath

from ..errors import Problem
from ..format.blocks import index_bytes, shard_index
from ..format.codec import BATCHED, blosc_bytes, pipeline
from ..format.layout import chunk_key
from ..format.pipelines import is_raw
from ..places.place import Place

__all__ = ["Chunk", "ChunkDecoder", "read_chunk"]


class Chunk(NamedTuple):
    """One chunk as it was found."""

    key: str
    part: bytes | None
    """SHA-256 of its bytes; None where there are none."""
    block: np.ndarray | None = None
    """What they decode to, as stored; None where that wasn't asked for or can't be."""
    problem: Problem | None = None


def read_chunk(place: Place, decoder: "ChunkDecoder", index: int, *, decode: bool) -> Chunk:
    """A chunk along the first axis of an array, read once, hashed and decoded."""
    key = decoder.key(index)
    try:
        content = place.read(key)
    except FileNotFoundError:
        return Chunk(key, None, problem=Problem(key, "missing", f"chunk {key!r} is missing"))
    if not content:
        return Chunk(key, None, problem=Problem(key, "empty", f"chunk {key!r} is an empty file"))
    part = sha256(content).digest()
    if not decode:
        return Chunk(key, part)
    try:
        return Chunk(key, part, decoder.decode(index, content))
    except Exception as error:  # whatever a codec makes of broken bytes is the finding
        message = f"{key!r} can't be decoded: {type(error).__name__}: {error}"
        return Chunk(key, part, problem=Problem(key, "decode", message))


class ChunkDecoder:
    """Decodes chunks of one array from bytes in memory, so that what was hashed is what is decoded; for one thread."""

    def __init__(self, path: str, metadata: ArrayV3Metadata) -> None:
        self.path = path
        self.metadata = metadata
        dtype = metadata.data_type.to_native_dtype()
        self.dtype_logical = str(metadata.attributes.get("dtype_logical", dtype.name))
        self._memory: dict[str, AnyBuffer] = {}
        with pipeline(BATCHED):
            store = StorePath(MemoryStore(self._memory), path)
            self._array: zarr.Array[Any] = zarr.Array(zarr.AsyncArray(metadata, store))
        whole = self._array.shards is None and dtype.kind != "T" and not is_raw(metadata)
        shards = self._array.shards
        self._n_parts = None if shards is None else math.prod(shards) // math.prod(self._array.chunks)
        self._blosc_bytes = math.prod(self._array.chunks) * dtype.itemsize if whole else None

    @property
    def first_axis_chunk(self) -> int:
        """Entries of the first axis in one stored object."""
        return int((self._array.shards or self._array.chunks)[0])

    def key(self, chunk: int) -> str:
        """Key of a chunk along the first axis."""
        return chunk_key(self.path, chunk, self._array.ndim)

    def decode(self, chunk: int, content: bytes) -> np.ndarray:
        """Entries of the chunk with these bytes, as stored; cut where the array ends.

        Raises whatever a codec makes of broken bytes.
        """
        if self._blosc_bytes is not None and blosc_bytes(content[:16]) != self._blosc_bytes:
            raise ValueError(f"it isn't {self._blosc_bytes} bytes compressed by Blosc")
        if self._n_parts is not None and None in shard_index(content[-index_bytes(self._n_parts) :]):
            raise ValueError("a part of it is missing")  # which Zarr would read as fill
        size = self.first_axis_chunk
        self._memory[self.key(chunk)] = Buffer.from_bytes(content)
        try:
            return np.asarray(self._array[chunk * size : (chunk + 1) * size])
        finally:
            del self._memory[self.key(chunk)]
