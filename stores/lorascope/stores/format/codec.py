"""Compression of chunks, and which compression is taken from a store."""

import reprlib
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec, ShardingCodec, VLenUTF8Codec
from zarr.core.metadata import ArrayV3Metadata

from ..errors import Problem
from .spec import Codec

BLOCK_BYTES = 512 * 1024
"""Blosc's own block size costs zstd 14 % of ratio and 2.5 times the decoding time on bfloat16 activations."""
CNAMES = ("zstd", "lz4")
"""Compressors inside of Blosc that the format knows."""
LZ4_BLOCK_BYTES = 128 * 1024
"""LZ4 gains nothing from larger blocks, and bit shuffle is a third faster where a block stays in a core's cache."""


def compressor(dtype: str, codec: Codec = "default") -> Literal["zstd", "lz4", "raw"]:
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

    Inside of Blosc LZ4 of level 1 with bit shuffle, or zstd of level 1 with byte shuffle; see `compressor`.
    """
    cname = compressor(dtype, codec)
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
        if _names(sharding.index_codecs) != ["BytesCodec", "Crc32cCodec"]:
            return f"its shard index goes through {_names(sharding.index_codecs)}"
        if _text(sharding.index_location) != "end":
            return f"its shard index lies at the {_text(sharding.index_location)}"
        codecs = sharding.codecs
    is_text = metadata.data_type.to_native_dtype().kind == "T"
    first: type[Any] = VLenUTF8Codec if is_text else BytesCodec
    if not codecs or type(codecs[0]) is not first or _text(getattr(codecs[0], "endian", None)) == "big":
        return f"its codecs are {_names(codecs)}"
    rest = [codec for codec in codecs[1:] if not (type(codec) is BloscCodec and _text(codec.cname) in CNAMES)]
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
