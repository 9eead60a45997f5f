"""Compression: the codecs that a run may have, and chunks encoded with them past Zarr's pipelines."""

import reprlib
import struct
from collections.abc import Iterator
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
"""Block size for zstd. With Blosc's default, bfloat16 states take 2.5 times as long to decode, at 14 % less ratio."""
COMPRESSORS = ("zstd", "lz4")
"""Compressors of Blosc that the format allows."""
LZ4_BLOCK_BYTES = 128 * 1024
"""Block size for LZ4, which gains nothing from larger blocks; bit shuffle is faster if a block fits the CPU's cache."""


def compressor_name(dtype: str, codec: Codec = "default") -> Literal["zstd", "lz4", "raw"]:
    """Return the compressor of an array of this dtype; codec `default` chooses LZ4 for float32, else zstd.

    LZ4 takes half of the CPU time of zstd, for 6 % more bytes of float32 states and 16 % of bfloat16 ones. Texts and
    bytes, which can't be shuffled, always use zstd.
    """
    if codec == "raw":
        return "raw"
    is_wide = dtype != "string" and np.dtype(dtype).itemsize > 1
    return "lz4" if is_wide and (codec == "lz4" or (codec == "default" and dtype == "float32")) else "zstd"


def compressors(dtype: str, codec: Codec = "default") -> tuple[Any, ...]:
    """Return Zarr's bytes-to-bytes codecs for an array of this dtype: Blosc and crc32c, or crc32c alone for `raw`.

    Blosc uses LZ4 of level 1 with bit shuffle, or zstd of level 1 with byte shuffle; see `compressor_name`.
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
    """Return a phrase on how an array's codecs differ from the allowed ones; None if they don't.

    Other codecs are never used: a store may name any installed codec, even one that unpickles.
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
    """Return a codec's setting as text, also if Zarr keeps it as a member of an enumeration."""
    return str(getattr(setting, "value", setting))


def _codec_names(codecs: Any) -> list[str]:
    """Return the class names of these codecs, for messages."""
    return [type(codec).__name__ for codec in codecs]


def codec_settings_problems(path: str, metadata: ArrayV3Metadata) -> Iterator[Problem]:
    """Yield a Problem for each codec of an array whose settings differ from the format's.

    `codec_problem` has checked the codecs themselves before.
    """
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
"""Entry of a shard's index: first byte and number of bytes of an inner chunk."""

Pieces = tuple[memoryview, ...]
"""Consecutive parts of a chunk's bytes, which aren't joined, so that uncompressed ones are never copied."""


def encode_chunk(array: StoredArray, block: np.ndarray, *, decode_back: bool = False) -> Pieces:
    """Return the bytes of one chunk or shard of an array with this block; a short block is padded.

    The bytes are those of Zarr's pipelines, which copy a chunk three times and keep an event loop busy. With
    `decode_back` they are decoded and compared with the block, so that a faulty compressor is noticed.

    Raises
    ------
    StoreError
        If the decoded chunk differs from the block.
    """
    whole = _padded(array, block)
    if array.part_width is None:
        pieces = _compressed(whole, array.blosc)
    else:
        pieces = _encode_parts(whole, array.part_width, array.blosc)
    if decode_back and not _decodes_to_block(array, pieces, block):
        raise StoreError(f"a chunk of {array.path!r} was compressed to other values than were given; it wasn't written")
    return pieces


def _encode_parts(block: np.ndarray, width: int, blosc: BloscCodec | None) -> Pieces:
    """Return a block's bytes as a shard: inner chunks of this number of columns, followed by their index."""
    pieces: list[memoryview] = []
    index, start = b"", 0
    for first in range(0, block.shape[1], width):
        part = _compressed(np.ascontiguousarray(block[:, first : first + width]), blosc)
        n_bytes = sum(piece.nbytes for piece in part)
        index += INDEX_ENTRY.pack(start, n_bytes)
        start += n_bytes
        pieces += part
    return (*pieces, *_with_checksum(index))


def _decodes_to_block(array: StoredArray, pieces: Pieces, block: np.ndarray) -> bool:
    """Return whether the pieces of a chunk, decoded again, equal the block byte for byte (texts: as text)."""
    try:
        decoded = array.decode(0, b"".join(pieces))[: len(block)]
    except (ValueError, RuntimeError):
        return False
    if block.dtype.kind == "T":
        return bool(np.array_equal(decoded, block))
    return decoded.shape == block.shape and decoded.tobytes() == block.tobytes()


def _padded(array: StoredArray, block: np.ndarray) -> np.ndarray:
    """Return the block, padded with the array's fill value to a whole chunk, in contiguous memory."""
    if block.shape == array.chunks:
        return np.ascontiguousarray(block)
    whole = np.full(array.chunks, array.fill, array.dtype)
    whole[tuple(map(slice, block.shape))] = block
    return whole


def _compressed(block: np.ndarray, blosc: BloscCodec | None) -> Pieces:
    """Return a block as (bytes, checksum), the bytes compressed if there is a codec for that."""
    body: Any = VLenUTF8().encode(block.astype(object)) if block.dtype.kind == "T" else block
    if blosc is not None:
        own: Any = blosc.to_dict()["configuration"]
        settings = own["cname"].encode(), own["clevel"], SHUFFLES[own["shuffle"]], own["blocksize"], own["typesize"]
        body = numcodecs.blosc.compress(body, *settings)
    return _with_checksum(body)


def _with_checksum(body: Any) -> Pieces:
    """Return (the bytes of `body`, their CRC-32C in 4 bytes); the body isn't copied."""
    content = memoryview(body).cast("B")
    checksum = google_crc32c.value(np.frombuffer(content, np.uint8))
    return content, memoryview(CHECKSUM.pack(checksum))
