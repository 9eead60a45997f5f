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
"""No chunk of text decodes to more: 1 KiB for each of 65,536 entries."""
MAX_NAME_BYTES = 16 * 2**20
"""No text of the table of components decodes to more: all of it is read whenever a run is opened."""
TEXTS_PER_STEP = 64
"""Texts that are decoded in one step."""
CHECKSUM = struct.Struct("<I")
BLOSC_HEADER = struct.Struct("<BBBBIII")
TEXT_LENGTH = struct.Struct("<I")
UNCOMPRESSED_FLAG = 0x02
"""Flag of a chunk that didn't get smaller: its bytes follow the header as they are."""
ABSENT_PART = 2**64 - 1
"""Both numbers of an inner chunk that a shard's index says isn't there."""

_text_lock = threading.Lock()
"""Held while a chunk of text is decoded, whose size isn't known from its array: one at a time, however many threads."""


@dataclass(frozen=True, slots=True)
class StoredArray:
    """Description of an array, enough to read its chunks, of codecs known to be the format's; small to pickle."""

    path: str
    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    """Entries of one stored object along each axis."""
    part_width: int | None
    """Columns of an inner chunk, where each object is a shard of several side by side."""
    dtype: np.dtype[Any]
    """Stored type, little-endian: bits of bfloat16 are uint16."""
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

    @property
    def max_bytes(self) -> int:
        """Bytes that a stored object can have: Blosc adds no more than its header to what it can't make smaller."""
        if self.dtype.kind == "T":
            return max_text_bytes(self.path) + BLOSC_HEADER.size + CHECKSUM.size
        n_parts = 1 if self.part_width is None else self.chunks[1] // self.part_width
        n_bytes = math.prod(self.chunks) * self.dtype.itemsize + n_parts * (BLOSC_HEADER.size + CHECKSUM.size)
        return n_bytes if self.part_width is None else n_bytes + shard_index_bytes(n_parts)

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
            places = parse_shard_index(content[-shard_index_bytes(self.chunks[1] // self.part_width) :])
            if any(place is None or place[1] > len(content) for place in places):
                raise ValueError("a part of it is missing")  # parts of nothing but fill are written too
            whole = np.concatenate([self.decode_part(content[slice(*place)]) for place in places if place], axis=1)
        n_entries = min(self.chunks[0], self.shape[0] - chunk * self.chunks[0])
        return whole[(slice(n_entries), *map(slice, self.shape[1:]))]

    def decode_part(self, content: bytes) -> np.ndarray:
        """All entries of a chunk that isn't a shard, or of an inner chunk of one, to be written to; see `decode`."""
        body = without_checksum(content)
        if self.dtype.kind == "T":
            return _decode_text(body, self.chunks[0], max_text_bytes(self.path), compressed=self.compressed)
        shape = (self.chunks[0], *(self.chunks[1:] if self.part_width is None else (self.part_width,)))
        n_bytes = math.prod(shape) * self.dtype.itemsize
        if self.compressed:
            body = _decompress(body, n_bytes)
        if len(body) != n_bytes:
            raise ValueError(f"it has {len(body)} bytes, not {n_bytes}")
        entries = body.view(self.dtype).reshape(shape)
        return entries if entries.flags.writeable else entries.copy()


def max_text_bytes(path: str) -> int:
    """Bytes that a chunk of this array of texts may decode to."""
    return MAX_NAME_BYTES if path.startswith("components/") else MAX_TEXT_BYTES


def _decode_text(body: np.ndarray, n_texts: int, max_bytes: int, *, compressed: bool) -> np.ndarray:
    """Texts of a chunk; only a bound of their length in bytes is known, and their number, which comes first."""
    n_bytes = announced_text_bytes(body[: BLOSC_HEADER.size].tobytes()) if compressed else len(body)
    if not 0 <= n_bytes <= max_bytes:
        raise ValueError(f"it announces {n_bytes} bytes of text, where at most {max_bytes} can be")
    with _text_lock:
        content = numcodecs.blosc.decompress(body) if compressed else body.tobytes()
        announced = int.from_bytes(content[: TEXT_LENGTH.size], "little")
        if announced != n_texts:
            raise ValueError(f"it announces {announced} texts, not {n_texts}")
        texts, place = np.empty(n_texts, np.dtypes.StringDType()), TEXT_LENGTH.size
        for first in range(0, n_texts, TEXTS_PER_STEP):  # all of them as objects would be a third copy
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
    """Bytes of a chunk before the checksum that ends it, uint8; raises ValueError unless it is theirs."""
    body = np.frombuffer(content, np.uint8)[: -CHECKSUM.size]
    if CHECKSUM.pack(google_crc32c.value(body)) != content[-CHECKSUM.size :]:
        raise ValueError("its checksum differs")
    return body


def announced_text_bytes(body: bytes) -> int:
    """Bytes that a Blosc chunk says it decompresses to; -1 where it is too short to be one."""
    return int.from_bytes(body[4:8], "little") if len(body) >= BLOSC_HEADER.size else -1


def shard_index_bytes(n_parts: int) -> int:
    """Bytes of the index that closes a shard of so many inner chunks."""
    return 16 * n_parts + CHECKSUM.size


def parse_shard_index(tail: bytes) -> list[tuple[int, int] | None]:
    """(first byte, byte after the last) of each inner chunk, out of a shard's index; None for one that isn't there.

    Raises ValueError unless its checksum is right.
    """
    entries = without_checksum(tail).view("<u8").reshape(-1, 2).tolist()
    return [None if start == n_bytes == ABSENT_PART else (start, start + n_bytes) for start, n_bytes in entries]


def _decompress(body: np.ndarray, n_bytes: int) -> np.ndarray:
    """All bytes of a chunk that decompresses to so many (c-blosc 1.21, `README_CHUNK_FORMAT.rst`)."""
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
    """The block in float32, whatever it was stored as; exact for every type of the format."""
    require_stored_type(block.dtype, dtype_logical)
    if dtype_logical != "bfloat16":
        return block.astype(np.float32, copy=False)
    bits: np.ndarray = np.left_shift(block, 16, dtype="<u4")  # a bfloat16 is the upper half of a float32
    return bits.view("<f4").astype(np.float32, copy=False)


def require_stored_type(dtype: np.dtype[Any], dtype_logical: str) -> None:
    """Raise unless this is a type of the format, stored as it must be: bits never read as numbers."""
    if dtype_logical not in DTYPES:
        raise ValueError(f"`dtype_logical` is {dtype_logical!r}; allowed are {sorted(DTYPES)}")
    if dtype != DTYPES[dtype_logical][0]:
        raise ValueError(f"{dtype_logical} is stored as {DTYPES[dtype_logical][0]}, not {dtype}")


def widen(tree: xr.DataTree) -> xr.DataTree:
    """Convert the stored states of a tree to float32; arrays that were lazy stay lazy.

    Use it for a run opened with `xarray.open_datatree`: there bfloat16 is stored as uint16, and means or sums of these
    are nonsense.

    Raises
    ------
    ValueError
        If an array isn't stored as the type that it calls itself asks for.
    """
    return tree.map_over_datasets(_widen_dataset)


def _widen_dataset(dataset: xr.Dataset) -> xr.Dataset:
    wide = {name: _widen_array(array) for name, array in dataset.data_vars.items() if "dtype_logical" in array.attrs}
    return dataset.assign(wide)


def _widen_array(array: xr.DataArray) -> xr.DataArray:
    dtype_logical = array.attrs["dtype_logical"]
    kwargs: dict[str, Any] = {"dtype_logical": dtype_logical}
    wide: xr.DataArray = xr.apply_ufunc(
        widen_block, array, kwargs=kwargs, dask="parallelized", output_dtypes=[np.float32], keep_attrs=True
    )
    wide = wide.assign_attrs(dtype_logical="float32", stored_as=dtype_logical)
    if "long_name" in wide.attrs:
        wide.attrs["long_name"] = str(wide.attrs["long_name"]).removesuffix(BITS_NOTE)
    return wide
