"""One array of a run as its metadata describe it, and the numbers in its chunks: the one decoder of the format."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numcodecs.blosc  # type: ignore[import-untyped]
import numcodecs.vlen  # type: ignore[import-untyped]
import numpy as np
from zarr.codecs import BloscCodec, ShardingCodec
from zarr.core.metadata import ArrayV3Metadata

from .blocks import announced_bytes, decode_rows, index_bytes, shard_index, unsealed
from .layout import chunk_key

__all__ = ["StoredArray"]

MAX_TEXT_BYTES = 256 * 2**20
"""No chunk of text decodes to more: 4 KiB for each of 65,536 entries."""


@dataclass(frozen=True, slots=True)
class StoredArray:
    """What reading an array's chunks takes, with codecs that are known to be the format's; small to pickle."""

    path: str
    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    """Entries of one stored object along each axis."""
    part_width: int | None
    """Columns of an inner chunk, where each object is a shard of several side by side."""
    dtype: np.dtype[Any]
    """As it is stored, little-endian: bits of bfloat16 are uint16."""
    compressed: bool
    fill: Any
    dims: tuple[str | None, ...]
    attributes: Mapping[str, Any]

    @classmethod
    def from_metadata(cls, path: str, metadata: ArrayV3Metadata) -> Self:
        """The array that its own metadata describe."""
        grid: Any = metadata.chunk_grid
        codecs: Any = metadata.codecs
        sharded = isinstance(codecs[0], ShardingCodec)
        dtype = metadata.data_type.to_native_dtype()
        return cls(
            path=path,
            shape=metadata.shape,
            chunks=tuple(grid.chunk_shape),
            part_width=codecs[0].chunk_shape[1] if sharded else None,
            dtype=dtype if dtype.kind == "T" else dtype.newbyteorder("<"),
            compressed=any(isinstance(codec, BloscCodec) for codec in (codecs[0].codecs if sharded else codecs)),
            fill=metadata.fill_value,
            dims=metadata.dimension_names or (),
            attributes=dict(metadata.attributes),
        )

    @property
    def by_row(self) -> bool:
        """Whether it is written row by row; else once, when the run is set up."""
        return self.attributes.get("written") == "by row"

    @property
    def n_chunks(self) -> int:
        """Stored objects that hold it."""
        return -(-self.shape[0] // self.chunks[0])

    def key(self, chunk: int) -> str:
        """Key of a chunk along the first axis."""
        return chunk_key(self.path, chunk, len(self.shape))

    def decode(self, chunk: int, content: bytes) -> np.ndarray:
        """Entries of a chunk along the first axis with these bytes, as stored; cut where the array ends.

        Raises
        ------
        ValueError, RuntimeError
            If these aren't the bytes of such a chunk.
        """
        if self.part_width is None:
            whole = self.decode_part(content)
        else:
            places = shard_index(content[-index_bytes(self.chunks[1] // self.part_width) :])
            if any(place is None or place[1] > len(content) for place in places):
                raise ValueError("a part of it is missing")  # parts of nothing but fill are written too
            whole = np.concatenate([self.decode_part(content[slice(*place)]) for place in places if place], axis=1)
        n_entries = min(self.chunks[0], self.shape[0] - chunk * self.chunks[0])
        return whole[(slice(n_entries), *map(slice, self.shape[1:]))]

    def decode_part(self, content: bytes, entries: np.ndarray | None = None) -> np.ndarray:
        """These entries, or all, of a chunk that isn't a shard, or of an inner chunk of one; raises as `decode`."""
        body = unsealed(content)
        if self.dtype.kind == "T":
            texts = _decode_text(body.tobytes(), self.chunks[0], compressed=self.compressed)
            return texts if entries is None else texts[entries]
        rest = self.chunks[1:] if self.part_width is None else (self.part_width,)
        row_bytes = math.prod(rest) * self.dtype.itemsize
        rows = decode_rows(body, entries, n_rows=self.chunks[0], row_bytes=row_bytes, compressed=self.compressed)
        return rows.view(self.dtype).reshape(len(rows), *rest)


def _decode_text(body: bytes, n_texts: int, *, compressed: bool) -> np.ndarray:
    """Texts of a chunk; only a bound of their length in bytes is known, and their number, which comes first."""
    if compressed:
        n_bytes = announced_bytes(body)
        if not 0 <= n_bytes <= MAX_TEXT_BYTES:
            raise ValueError(f"it announces {n_bytes} bytes of text")
        body = numcodecs.blosc.decompress(body)
    announced = int.from_bytes(body[:4], "little")
    if announced != n_texts:
        raise ValueError(f"it announces {announced} texts, not {n_texts}")
    return np.asarray(numcodecs.vlen.VLenUTF8().decode(body)).astype(np.dtypes.StringDType())
