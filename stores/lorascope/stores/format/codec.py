"""How chunks are compressed, which compression is taken from a store, and Zarr's own encoding kept in memory."""

import reprlib
import threading
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import numpy as np
import zarr
from zarr.abc.buffer import Buffer
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec, ShardingCodec, VLenUTF8Codec
from zarr.core.metadata import ArrayV3Metadata
from zarr.storage import MemoryStore, StorePath

from ..errors import Problem
from .layout import chunk_key

BLOCK_BYTES = 512 * 1024
"""Blosc's own block size costs 14 % of ratio and 2.5 times the decoding time on bfloat16 activations."""
BATCHED = "zarr.core.codec_pipeline.BatchedCodecPipeline"
"""Zarr's own pipeline: the bytes of a store don't depend on another one that the process is set to use."""

_settling = threading.Lock()
"""Held while an array settles its pipeline, which it takes from a setting of the whole process."""


def compressors(dtype: str, codec: Literal["zstd", "raw"] = "zstd") -> tuple[Any, ...]:
    """Bytes-to-bytes codecs for an array of this dtype: Blosc zstd level 1 with byte shuffle, then crc32c.

    `raw` leaves compression out; the checksum stays.
    """
    if codec == "raw":
        return (Crc32cCodec(),)
    itemsize = 1 if dtype == "string" else np.dtype(dtype).itemsize
    shuffle: Literal["shuffle", "noshuffle"] = "shuffle" if itemsize > 1 else "noshuffle"
    blosc = BloscCodec(cname="zstd", clevel=1, shuffle=shuffle, typesize=itemsize, blocksize=BLOCK_BYTES)
    return (blosc, Crc32cCodec())


def codec_problem(metadata: ArrayV3Metadata) -> str | None:
    """How an array's encoding differs from those that the format knows; None for one of the format.

    Nothing else is ever decoded: a store may name any codec that is installed here, unpickling ones included.
    """
    if metadata.storage_transformers:
        return f"it has the storage transformers {reprlib.repr(list(metadata.storage_transformers))}"
    codecs: tuple[Any, ...] = tuple(metadata.codecs)
    if len(codecs) == 1 and isinstance(codecs[0], ShardingCodec):
        sharding = codecs[0]
        if _names(sharding.index_codecs) != ["BytesCodec", "Crc32cCodec"]:
            return f"its shard index goes through {_names(sharding.index_codecs)}"
        if _text(sharding.index_location) != "end":
            return f"its shard index lies at the {_text(sharding.index_location)}"
        codecs = sharding.codecs
    is_text = metadata.data_type.to_native_dtype().kind == "T"
    first: type[Any] = VLenUTF8Codec if is_text else BytesCodec
    if not codecs or type(codecs[0]) is not first or _text(getattr(codecs[0], "endian", None)) == "big":
        return f"its codecs are {_names(codecs)}"
    rest = [codec for codec in codecs[1:] if not (type(codec) is BloscCodec and _text(codec.cname) == "zstd")]
    if [type(codec) for codec in rest] != [Crc32cCodec] or type(codecs[-1]) is not Crc32cCodec or len(codecs) > 3:
        return f"its codecs are {_names(codecs)}"
    return None


def _text(setting: Any) -> str:
    """Some versions of Zarr hold settings as text, some as members of an enumeration."""
    return str(getattr(setting, "value", setting))


def _names(codecs: Any) -> list[str]:
    return [type(codec).__name__ for codec in codecs]


def settings_problems(path: str, metadata: ArrayV3Metadata) -> Iterator[Problem]:
    """Settings of an array's codecs that aren't the format's; that the codecs are its own is known."""
    codecs: list[Any] = [codec.to_dict() for codec in metadata.codecs]
    if codecs[0]["name"] == "sharding_indexed":
        codecs = list(codecs[0]["configuration"]["codecs"])
    dtype = metadata.data_type.to_native_dtype()
    ours = compressors("string" if dtype.kind == "T" else dtype.name)
    wanted = {codec["name"]: codec.get("configuration", {}) for codec in (one.to_dict() for one in ours)}
    if dtype.kind != "T" and dtype.itemsize > 1:
        wanted["bytes"] = {"endian": "little"}
    for codec in codecs:
        found, expected = dict(codec.get("configuration") or {}), wanted.get(codec["name"], {})
        if found != expected:
            message = f"codec {codec['name']!r} of {path!r} has the settings {found}; they must be {expected}"
            yield Problem(path, "codec", message)


class ChunkEncoder:
    """The bytes that Zarr would store for a chunk, without storing them.

    Zarr's batched pipeline writes into memory, from where the bytes are taken at once: they can be hashed before they
    lie anywhere, and be written durably, wherever to.
    """

    def __init__(self, metadata: Mapping[str, ArrayV3Metadata]) -> None:
        self._memory: dict[str, Buffer] = {}
        store = MemoryStore(self._memory)
        with _settling, zarr.config.set({"codec_pipeline.path": BATCHED, "array.write_empty_chunks": True}):
            self.arrays: Mapping[str, zarr.Array[Any]] = {
                path: zarr.Array(zarr.AsyncArray(one, StorePath(store, path))) for path, one in metadata.items()
            }

    def encode(self, path: str, index: int, block: np.ndarray) -> memoryview:
        """Chunk `index` along the first axis of an array; one at a time of each chunk, from any thread."""
        array = self.arrays[path]
        size = (array.shards or array.chunks)[0]
        key = chunk_key(path, index, array.ndim)
        try:
            array[index * size : index * size + len(block)] = block
            return self._memory[key].as_numpy_array().data
        finally:
            self._memory.pop(key, None)
