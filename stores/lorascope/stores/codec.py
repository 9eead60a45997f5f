"""How chunks are compressed."""

from typing import Any, Literal

import numpy as np
from zarr.codecs import BloscCodec, Crc32cCodec

__all__ = ["compressors"]

BLOCK_BYTES = 512 * 1024
"""Blosc's own block size costs 14 % of ratio and 2.5 times the decoding time on bfloat16 activations."""


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
