"""One array of a run as its metadata describe it: its chunks decoded, and stored bits made into float32."""

import math
import struct
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import google_crc32c
import numcodecs.blosc  # type: ignore[import-untyped]
import numpy as np
import xarray as xr
from zarr.codecs import BloscCodec, ShardingCodec
from zarr.core.metadata import ArrayV3Metadata

from .layout import BITS_NOTE, chunk_key
from .spec import DTYPES

MAX_TEXT_BYTES = 64 * 2**20
"""Most bytes of a decoded chunk of text: 1 KiB for each of 65,536 entries."""
MAX_NAME_BYTES = 16 * 2**20
"""Most bytes of a decoded chunk of text in the table of components, which is read when a run is opened."""
TEXTS_PER_STEP = 64
"""Number of texts that are decoded in one step."""
CHECKSUM = struct.Struct("<I")
BLOSC_HEADER = struct.Struct("<BBBBIII")
TEXT_LENGTH = struct.Struct("<I")
UNCOMPRESSED_FLAG = 0x02
"""Flag of Blosc's header: the chunk wasn't compressed, and its bytes follow the header."""
ABSENT_PART = 2**64 - 1
"""Both numbers of a missing inner chunk in a shard's index."""

_text_lock = threading.Lock()
"""Lets one thread at a time decode text, since the size of texts isn't known from their array."""


@dataclass(frozen=True, slots=True)
class StoredArray:
    """Description of a stored array, enough to decode its chunks; its codecs were checked.

    It is small when pickled.
    """

    path: str
    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    """Shape of one stored object."""
    part_width: int | None
    """Columns of an inner chunk if each object is a shard of several inner chunks; else None."""
    dtype: np.dtype[Any]
    """Stored dtype, little-endian; uint16 for bits of bfloat16."""
    blosc: BloscCodec | None
    """Codec that compresses its chunks; None if they aren't compressed."""
    fill: Any
    dims: tuple[str | None, ...]
    attributes: Mapping[str, Any]
    limits: tuple[float, float] | None = None
    """Smallest and largest value that a column may have; None if any is allowed."""

    @classmethod
    def from_metadata(cls, path: str, metadata: ArrayV3Metadata) -> Self:
        """Return the description of the array at `path` with this Zarr metadata."""
        grid: Any = metadata.chunk_grid
        codecs: Any = metadata.codecs
        sharded = isinstance(codecs[0], ShardingCodec)
        inner = codecs[0].codecs if sharded else codecs
        dtype = metadata.data_type.to_native_dtype()
        return cls(
            path=path,
            shape=metadata.shape,
            chunks=tuple(grid.chunk_shape),
            part_width=codecs[0].chunk_shape[1] if sharded else None,
            dtype=dtype if dtype.kind == "T" else dtype.newbyteorder("<"),
            blosc=next((codec for codec in inner if isinstance(codec, BloscCodec)), None),
            fill=metadata.fill_value,
            dims=metadata.dimension_names or (),
            attributes=dict(metadata.attributes),
        )

    @property
    def by_row(self) -> bool:
        """Whether the array is written row by row (1,024 tokens each); else once, when the run is set up."""
        return self.attributes.get("written") == "by row"

    @property
    def n_chunks(self) -> int:
        """Number of stored objects (chunks or shards) of the array."""
        return -(-self.shape[0] // self.chunks[0])

    @property
    def max_bytes(self) -> int:
        """Most bytes that one stored object, a chunk or shard, can have.

        Blosc adds at most its header to what it can't compress.
        """
        if self.dtype.kind == "T":
            return max_text_bytes(self.path) + BLOSC_HEADER.size + CHECKSUM.size
        n_parts = 1 if self.part_width is None else self.chunks[1] // self.part_width
        n_bytes = math.prod(self.chunks) * self.dtype.itemsize + n_parts * (BLOSC_HEADER.size + CHECKSUM.size)
        return n_bytes if self.part_width is None else n_bytes + shard_index_bytes(n_parts)

    def key(self, chunk: int) -> str:
        """Return the key of a chunk, its file's path in the run, by its index along the first axis."""
        return chunk_key(self.path, chunk, len(self.shape))

    def decode(self, chunk: int, content: bytes) -> np.ndarray:
        """Return the entries of a chunk, by its index along the first axis, without those beyond the array's end.

        Raises
        ------
        ValueError, RuntimeError
            If these bytes aren't such a chunk.
        """
        if self.part_width is None:
            whole = self.decode_part(content)
        else:
            places = parse_shard_index(content[-shard_index_bytes(self.chunks[1] // self.part_width) :])
            if any(place is None or place[1] > len(content) for place in places):
                raise ValueError("a part of it is missing")  # inner chunks that are all fill values are written too
            whole = np.concatenate([self.decode_part(content[slice(*place)]) for place in places if place], axis=1)
        n_entries = min(self.chunks[0], self.shape[0] - chunk * self.chunks[0])
        return whole[(slice(n_entries), *map(slice, self.shape[1:]))]

    def range_problem(self, chunk: int, entries: np.ndarray) -> str | None:
        """Return a sentence on the first entry of a chunk that a column may not have; None if all are allowed.

        Padding beyond the array's end may be anything.
        """
        if self.limits is None:
            return None
        low, high = self.limits
        first = chunk * self.chunks[0]
        values = entries[: max(self.shape[0] - first, 0)]
        outside = ~((values >= low) & (values <= high))  # NaN is outside, too
        places = np.flatnonzero(outside.any(axis=tuple(range(1, values.ndim))))
        if not len(places):
            return None
        more = f" ({len(places) - 1} more such)" if len(places) > 1 else ""
        return f"entry {first + places[0]} of {self.path!r} is {values[places[0]]}; allowed are {low} to {high}{more}"

    def decode_part(self, content: bytes) -> np.ndarray:
        """Return all entries of an unsharded chunk or of an inner chunk, padding included, as a writeable array.

        Raises what `decode` raises.
        """
        body = without_checksum(content)
        if self.dtype.kind == "T":
            return _decode_text(body, self.chunks[0], max_text_bytes(self.path), compressed=self.blosc is not None)
        shape = (self.chunks[0], *(self.chunks[1:] if self.part_width is None else (self.part_width,)))
        n_bytes = math.prod(shape) * self.dtype.itemsize
        if self.blosc is not None:
            body = _decompress(body, n_bytes)
        if len(body) != n_bytes:
            raise ValueError(f"it has {len(body)} bytes, not {n_bytes}")
        entries = body.view(self.dtype).reshape(shape)
        return entries if entries.flags.writeable else entries.copy()


def max_text_bytes(path: str) -> int:
    """Return the most bytes that a decoded chunk of the text array at `path` may have."""
    return MAX_NAME_BYTES if path.startswith("components/") else MAX_TEXT_BYTES


def _decode_text(body: np.ndarray, n_texts: int, max_bytes: int, *, compressed: bool) -> np.ndarray:
    """Return the texts in a chunk of Zarr's `vlen-utf8` format, StringDType (text,), decoded in bounded memory."""
    n_bytes = announced_text_bytes(body[: BLOSC_HEADER.size].tobytes()) if compressed else len(body)
    if not 0 <= n_bytes <= max_bytes:
        raise ValueError(f"it announces {n_bytes} bytes of text, where at most {max_bytes} can be")
    with _text_lock:
        content = numcodecs.blosc.decompress(body) if compressed else body.tobytes()
        announced = int.from_bytes(content[: TEXT_LENGTH.size], "little")
        if announced != n_texts:
            raise ValueError(f"it announces {announced} texts, not {n_texts}")
        texts, place = np.empty(n_texts, np.dtypes.StringDType()), TEXT_LENGTH.size
        for first in range(0, n_texts, TEXTS_PER_STEP):  # all texts as objects would be a third copy
            part: list[str] = []
            for _ in range(min(TEXTS_PER_STEP, n_texts - first)):
                start = place + TEXT_LENGTH.size
                stop = start + TEXT_LENGTH.unpack_from(content, place)[0] if start <= len(content) else start
                if stop > len(content):
                    raise ValueError(f"it ends before text {first + len(part)} does")
                part.append(str(content[start:stop], "utf-8"))
                place = stop
            texts[first : first + len(part)] = part
        return texts


def without_checksum(content: bytes) -> np.ndarray:
    """Return a chunk's bytes without the checksum at their end, uint8; raises ValueError if it is wrong."""
    body = np.frombuffer(content, np.uint8)[: -CHECKSUM.size]
    if CHECKSUM.pack(google_crc32c.value(body)) != content[-CHECKSUM.size :]:
        raise ValueError("its checksum differs")
    return body


def announced_text_bytes(body: bytes) -> int:
    """Return the decompressed size that a Blosc chunk's header announces; -1 if the chunk is too short."""
    return int.from_bytes(body[4:8], "little") if len(body) >= BLOSC_HEADER.size else -1


def shard_index_bytes(n_parts: int) -> int:
    """Return the size in bytes of the index at the end of a shard with `n_parts` inner chunks."""
    return 16 * n_parts + CHECKSUM.size


def parse_shard_index(tail: bytes) -> list[tuple[int, int] | None]:
    """Return (first byte, byte after the last) of each inner chunk from a shard's index; None for a missing one.

    Raises ValueError if the index's checksum is wrong.
    """
    entries = without_checksum(tail).view("<u8").reshape(-1, 2).tolist()
    return [None if start == n_bytes == ABSENT_PART else (start, start + n_bytes) for start, n_bytes in entries]


def _decompress(body: np.ndarray, n_bytes: int) -> np.ndarray:
    """Return the content of a Blosc chunk, uint8 of exactly `n_bytes`; raises ValueError if its header differs.

    The header is that of c-blosc 1.21 (`README_CHUNK_FORMAT.rst`).
    """
    header = BLOSC_HEADER.unpack(body[: BLOSC_HEADER.size].tobytes()) if len(body) >= BLOSC_HEADER.size else (0,) * 7
    _, _, flags, _, announced, block_bytes, compressed_bytes = header
    if (announced, compressed_bytes) != (n_bytes, len(body)) or not block_bytes:
        raise ValueError(f"it isn't {n_bytes} bytes compressed by Blosc")
    if flags & UNCOMPRESSED_FLAG:
        return body[BLOSC_HEADER.size :]
    n_blocks = -(-n_bytes // block_bytes)
    if BLOSC_HEADER.size + TEXT_LENGTH.size * n_blocks > len(body):
        raise ValueError(f"it has no room for its {n_blocks} blocks")
    whole = np.empty(n_bytes, np.uint8)
    numcodecs.blosc.decompress(body, whole)
    return whole


def widen_block(block: np.ndarray, dtype_logical: str) -> np.ndarray:
    """Return a stored block as float32, without rounding, from any type of the format; bfloat16 is uint16 bits."""
    require_stored_type(block.dtype, dtype_logical)
    if dtype_logical != "bfloat16":
        return block.astype(np.float32, copy=False)
    bits: np.ndarray = np.left_shift(block, 16, dtype="<u4")  # a bfloat16 is the upper half of a float32
    return bits.view("<f4").astype(np.float32, copy=False)


def require_stored_type(dtype: np.dtype[Any], dtype_logical: str) -> None:
    """Raise ValueError unless `dtype` is the one that stores `dtype_logical`, such as uint16 for bfloat16.

    So bits are never read as numbers.
    """
    if dtype_logical not in DTYPES:
        raise ValueError(f"`dtype_logical` is {dtype_logical!r}; allowed are {sorted(DTYPES)}")
    if dtype != DTYPES[dtype_logical][0]:
        raise ValueError(f"{dtype_logical} is stored as {DTYPES[dtype_logical][0]}, not {dtype}")


def widen(tree: xr.DataTree) -> xr.DataTree:
    """Return a tree of a run's arrays with its stored states as float32; arrays that were lazy stay lazy.

    Use it for a run opened with `xarray.open_datatree`, where bfloat16 is stored as uint16, whose means or sums are
    meaningless.

    Raises
    ------
    ValueError
        If an array's dtype doesn't fit its `dtype_logical`.
    """

    def widen_dataset(dataset: xr.Dataset) -> xr.Dataset:
        """Return the dataset with each array that has a `dtype_logical` as float32."""
        states = {name: array for name, array in dataset.data_vars.items() if "dtype_logical" in array.attrs}
        return dataset.assign({name: _widen_array(array) for name, array in states.items()})

    return tree.map_over_datasets(widen_dataset)


def _widen_array(array: xr.DataArray) -> xr.DataArray:
    """Return a stored array as float32, lazy if it was, with its attributes changed to say so."""
    dtype_logical = array.attrs["dtype_logical"]
    kwargs: dict[str, Any] = {"dtype_logical": dtype_logical}
    wide: xr.DataArray = xr.apply_ufunc(
        widen_block, array, kwargs=kwargs, dask="parallelized", output_dtypes=[np.float32], keep_attrs=True
    )
    wide = wide.assign_attrs(dtype_logical="float32", stored_as=dtype_logical)
    if "long_name" in wide.attrs:
        wide.attrs["long_name"] = str(wide.attrs["long_name"]).removesuffix(BITS_NOTE)
    return wide
