"""Entries of a chunk, read past Zarr with Zarr's own codecs: each object once, its checksums checked.

Zarr's pipelines pay for asynchronous machinery: for whole chunks of a megabyte the fastest takes twice the processor
time of this, and it skips the checksum of a chunk that it decodes in part.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import zarr
from zarr.codecs import BloscCodec, ShardingCodec

from ..errors import StoreError
from ..format.blocks import decode_rows, unsealed
from ..format.layout import chunk_key
from ..places.place import Place
from .guard import read_chunk_bytes, read_shard_parts

__all__ = ["read_chosen"]


def read_chosen(
    place: Place,
    array: zarr.Array[Any],
    chunk: int,
    offsets: np.ndarray | None = None,
    columns: Sequence[slice] = (slice(None),),
) -> list[np.ndarray]:
    """Entries `offsets`, or all, of one chunk along the first axis, as stored: (entry, column) for each of `columns`.

    Raises
    ------
    StoreError
        If the chunk is missing, empty or broken anywhere in what is read of it: all of it, or of a shard its index and
        the parts that hold these columns.
    """
    key = chunk_key(array.path, chunk, array.ndim)
    what = f"chunk {key!r}"
    codecs = array.metadata.codecs  # type: ignore[union-attr]  # version 3 alone is opened
    if not isinstance(codecs[0], ShardingCodec):
        whole = _decode(read_chunk_bytes(place, key, what), array, codecs, offsets, what)
        return [whole[:, one] for one in columns] if array.ndim > 1 else [whole]
    width = array.chunks[1]
    spans = [range(*one.indices(array.shape[1])) for one in columns]
    wanted = sorted({part for span in spans for part in range(span.start // width, -(-span.stop // width))})
    stored = read_shard_parts(place, key, array, wanted, what)
    parts = {
        part: _decode(content, array, codecs[0].codecs, offsets, what)
        for part, content in zip(wanted, stored, strict=True)
    }
    return [_columns(parts, span, width) for span in spans]


def _columns(parts: dict[int, np.ndarray], span: range, width: int) -> np.ndarray:
    """Columns of a shard, out of its inner chunks that lie side by side."""
    first, last = span.start // width, -(-span.stop // width)
    side_by_side = np.concatenate([parts[part] for part in range(first, last)], axis=1)
    return side_by_side[:, span.start - first * width : span.stop - first * width]


def _decode(content: bytes, array: zarr.Array[Any], codecs: Any, offsets: np.ndarray | None, what: str) -> np.ndarray:
    n_rows, *rest = array.chunks
    dtype = array.dtype.newbyteorder("<")
    compressed = any(isinstance(codec, BloscCodec) for codec in codecs)
    row_bytes = math.prod(rest) * dtype.itemsize
    try:
        rows = decode_rows(unsealed(content), offsets, n_rows=n_rows, row_bytes=row_bytes, compressed=compressed)
    except (ValueError, RuntimeError) as error:
        raise StoreError(f"{what} is broken ({error}); run `lorascope verify`") from error
    return rows.view(dtype).reshape(len(rows), *rest)
