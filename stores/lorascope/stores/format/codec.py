"""Compression: the codecs that a run may have, and chunks encoded with them past Zarr's pipelines."""

import reprlib
import struct
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import google_crc32c
import numcodecs.blosc  # type: ignore[import-untyped]
import numpy as np
from numcodecs.vlen import VLenUTF8  # type: ignore[import-untyped]
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec, ShardingCodec, VLenUTF8Codec
from zarr.core.metadata import ArrayV3Metadata

from ..errors import Problem, StoreError
from .spec import Codec
from .stored_array import CHECKSUM, StoredArray

BLOCK_BYTES = 512 * 1024
"""Blosc's own block size costs zstd 14 % of ratio and 2.5 times the decoding time on bfloat16 activations."""
COMPRESSORS = ("zstd", "lz4")
"""Compressors inside of Blosc that the format knows."""
LZ4_BLOCK_BYTES = 128 * 1024
"""LZ4 gains nothing from larger blocks, and bit shuffle is a third faster where a block stays in a core's cache."""


def compressor_name(dtype: str, codec: Codec = "default") -> Literal["zstd", "lz4", "raw"]:
    """Name of the compressor of an array of this dtype: by default LZ4 for float32, zstd for everything else.

    LZ4 takes half of the processor time of zstd, for 6 % more bytes of float32 states and 16 % of bfloat16 ones. Texts
    and bytes, of which nothing can be shuffled, always are zstd's.
    """
    if codec == "raw":
        return "raw"
    is_wide = dtype != "string" and np.dtype(dtype).itemsize > 1
    return "lz4" if is_wide and (codec == "lz4" or (codec == "default" and dtype == "float32")) else "zstd"


def compressors(dtype: str, codec: Codec = "default") -> tuple[Any, ...]:
    """Bytes-to-bytes codecs for an array of this dtype: Blosc, then crc32c, which `raw` is all of.

    Inside of Blosc LZ4 of level 1 with bit shuffle, or zstd of level 1 with byte shuffle; see `compressor_name`.
    """
    cname = compressor_name(dtype, codec)
    if cname == "raw":
        return (Crc32cCodec(),)
    itemsize = 1 if dtype == "string" else np.dtype(dtype).itemsize
    if cname == "lz4":
        blosc = BloscCodec(cname="lz4", clevel=1, shuffle="bitshuffle", typesize=itemsize, blocksize=LZ4_BLOCK_BYTES)
    else:
        shuffle: Literal["shuffle", "noshuffle"] = "shuffle" if itemsize > 1 else "noshuffle"
        blosc = BloscCodec(cname="zstd", clevel=1, shuffle=shuffle, typesize=itemsize, blocksize=BLOCK_BYTES)
    return (blosc, Crc32cCodec())


def codec_problem(metadata: ArrayV3Metadata) -> str | None:
    """Difference of an array's encoding from those that the format knows; None for one of the format.

    Nothing else is ever decoded: a store may name any codec that is installed here, unpickling ones included.
    """
    if metadata.storage_transformers:
        return f"it has the storage transformers {reprlib.repr(list(metadata.storage_transformers))}"
    codecs: tuple[Any, ...] = tuple(metadata.codecs)
    if len(codecs) == 1 and isinstance(codecs[0], ShardingCodec):
        sharding = codecs[0]
        if _codec_names(sharding.index_codecs) != ["BytesCodec", "Crc32cCodec"]:
            return f"its shard index goes through {_codec_names(sharding.index_codecs)}"
        if _setting_text(sharding.index_location) != "end":
            return f"its shard index lies at the {_setting_text(sharding.index_location)}"
        codecs = sharding.codecs
    is_text = metadata.data_type.to_native_dtype().kind == "T"
    first: type[Any] = VLenUTF8Codec if is_text else BytesCodec
    if not codecs or type(codecs[0]) is not first or _setting_text(getattr(codecs[0], "endian", None)) == "big":
        return f"its codecs are {_codec_names(codecs)}"
    rest = [
        codec for codec in codecs[1:] if not (type(codec) is BloscCodec and _setting_text(codec.cname) in COMPRESSORS)
    ]
    if [type(codec) for codec in rest] != [Crc32cCodec] or type(codecs[-1]) is not Crc32cCodec or len(codecs) > 3:
        return f"its codecs are {_codec_names(codecs)}"
    return None


def _setting_text(setting: Any) -> str:
    """Some versions of Zarr hold settings as text, some as members of an enumeration."""
    return str(getattr(setting, "value", setting))


def _codec_names(codecs: Any) -> list[str]:
    return [type(codec).__name__ for codec in codecs]


def codec_settings_problems(path: str, metadata: ArrayV3Metadata) -> Iterator[Problem]:
    """Settings of an array's codecs that aren't the format's; that the codecs are its own is known."""
    codecs: list[Any] = [codec.to_dict() for codec in metadata.codecs]
    if codecs[0]["name"] == "sharding_indexed":
        codecs = list(codecs[0]["configuration"]["codecs"])
    dtype = metadata.data_type.to_native_dtype()
    name: Any = next((codec["configuration"]["cname"] for codec in codecs if codec["name"] == "blosc"), "raw")
    ours = compressors("string" if dtype.kind == "T" else dtype.name, name)
    own_settings = {codec["name"]: codec.get("configuration", {}) for codec in (codec.to_dict() for codec in ours)}
    if dtype.kind != "T" and dtype.itemsize > 1:
        own_settings["bytes"] = {"endian": "little"}
    for codec in codecs:
        settings, expected = dict(codec.get("configuration") or {}), own_settings.get(codec["name"], {})
        if settings != expected:
            message = f"codec {codec['name']!r} of {path!r} has the settings {settings}; they must be {expected}"
            yield Problem(path, "codec", message)


SHUFFLES = {"noshuffle": 0, "shuffle": 1, "bitshuffle": 2}
INDEX_ENTRY = struct.Struct("<QQ")
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
        pieces = _encode_block(array, block, self._blosc[path])
        if self._decode_back and not _decodes_to_block(array, pieces, block):
            raise StoreError(f"a chunk of {path!r} was compressed to other values than were given; it wasn't written")
        return pieces


def _encode_block(array: StoredArray, block: np.ndarray, blosc: tuple[Any, ...] | None) -> Pieces:
    whole = _padded(array, block)
    if array.part_width is None:
        return _compressed(whole, blosc)
    pieces: list[memoryview] = []
    index, start = b"", 0
    for first in range(0, array.chunks[1], array.part_width):
        part = _compressed(np.ascontiguousarray(whole[:, first : first + array.part_width]), blosc)
        n_bytes = sum(piece.nbytes for piece in part)
        index += INDEX_ENTRY.pack(start, n_bytes)
        start += n_bytes
        pieces += part
    return (*pieces, *_with_checksum(index))


def _decodes_to_block(array: StoredArray, pieces: Pieces, block: np.ndarray) -> bool:
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


def _padded(array: StoredArray, block: np.ndarray) -> np.ndarray:
    """A whole chunk that begins with this block, contiguous: the block itself where it is one."""
    if block.shape == array.chunks:
        return np.ascontiguousarray(block)
    whole = np.full(array.chunks, array.fill, array.dtype)
    whole[tuple(map(slice, block.shape))] = block
    return whole


def _compressed(block: np.ndarray, blosc: tuple[Any, ...] | None) -> Pieces:
    """A block with nothing left to fill up, compressed if there are settings, and its checksum."""
    body: Any = VLenUTF8().encode(block.astype(object)) if block.dtype.kind == "T" else block
    return _with_checksum(body if blosc is None else numcodecs.blosc.compress(body, *blosc))


def _with_checksum(body: Any) -> Pieces:
    content = memoryview(body).cast("B")
    checksum = google_crc32c.value(np.frombuffer(content, np.uint8))
    return content, memoryview(CHECKSUM.pack(checksum))
