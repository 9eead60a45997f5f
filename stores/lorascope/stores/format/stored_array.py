"""One array of a run as its metadata describe it, and the numbers in its chunks: the one decoder of the format.

Of a chunk every byte is checked, but of its blocks only those decoded that are wanted. A Blosc chunk is a header, the
places of its blocks, and the blocks, each compressed by itself; here a wanted block gets a header of its own, so that
Blosc takes it for a chunk of one block (c-blosc 1.21, `README_CHUNK_FORMAT.rst`).
"""

import math
import struct
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import google_crc32c
import numcodecs.blosc  # type: ignore[import-untyped]
import numpy as np
from zarr.codecs import BloscCodec, ShardingCodec
from zarr.core.metadata import ArrayV3Metadata

from .layout import chunk_key

MAX_TEXT_BYTES = 64 * 2**20
"""No chunk of text decodes to more: 1 KiB for each of 65,536 entries."""
MAX_NAME_BYTES = 16 * 2**20
"""No text of the table of components decodes to more: all of it is read whenever a run is opened."""
SIDE_BY_SIDE = 64
"""Texts that are decoded in one step."""
CHECKSUM = struct.Struct("<I")
HEADER = struct.Struct("<BBBBIII")
START = struct.Struct("<I")
STORED = 0x02
"""Flag of a chunk that didn't get smaller: its bytes follow the header as they are."""
ONE_STREAM = 0x10
"""Flag of blocks that are one stream each, as zstd's are; others are one a byte of their type."""
ABSENT = 2**64 - 1
"""Both numbers of an inner chunk that a shard's index says isn't there."""

_decoding_text = threading.Lock()
"""Held while a chunk of text is decoded, whose size isn't known from its array: one at a time, however many threads."""


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

    @property
    def max_bytes(self) -> int:
        """Bytes that a stored object can have: Blosc adds no more than its header to what it can't make smaller."""
        if self.dtype.kind == "T":
            return max_text_bytes(self.path) + HEADER.size + CHECKSUM.size
        n_parts = 1 if self.part_width is None else self.chunks[1] // self.part_width
        n_bytes = math.prod(self.chunks) * self.dtype.itemsize + n_parts * (HEADER.size + CHECKSUM.size)
        return n_bytes if self.part_width is None else n_bytes + index_bytes(n_parts)

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
            texts = _decode_text(body, self.chunks[0], max_text_bytes(self.path), compressed=self.compressed)
            return texts if entries is None else texts[entries]
        rest = self.chunks[1:] if self.part_width is None else (self.part_width,)
        row_bytes = math.prod(rest) * self.dtype.itemsize
        rows = decode_rows(body, entries, n_rows=self.chunks[0], row_bytes=row_bytes, compressed=self.compressed)
        return rows.view(self.dtype).reshape(len(rows), *rest)


def max_text_bytes(path: str) -> int:
    """Bytes that a chunk of this array of texts may decode to."""
    return MAX_NAME_BYTES if path.startswith("components/") else MAX_TEXT_BYTES


def _decode_text(body: np.ndarray, n_texts: int, max_bytes: int, *, compressed: bool) -> np.ndarray:
    """Texts of a chunk; only a bound of their length in bytes is known, and their number, which comes first."""
    n_bytes = announced_bytes(body[: HEADER.size].tobytes()) if compressed else len(body)
    if not 0 <= n_bytes <= max_bytes:
        raise ValueError(f"it announces {n_bytes} bytes of text, where at most {max_bytes} can be")
    with _decoding_text:
        content = numcodecs.blosc.decompress(body) if compressed else body.tobytes()
        announced = int.from_bytes(content[: START.size], "little")
        if announced != n_texts:
            raise ValueError(f"it announces {announced} texts, not {n_texts}")
        texts, place = np.empty(n_texts, np.dtypes.StringDType()), START.size
        for first in range(0, n_texts, SIDE_BY_SIDE):  # all of them as objects would be a third copy
            part: list[str] = []
            for _ in range(min(SIDE_BY_SIDE, n_texts - first)):
                start = place + START.size
                stop = start + START.unpack_from(content, place)[0] if start <= len(content) else start
                if stop > len(content):
                    raise ValueError(f"it ends before text {first + len(part)} does")
                part.append(str(content[start:stop], "utf-8"))
                place = stop
            texts[first : first + len(part)] = part
        return texts


def unsealed(content: bytes) -> np.ndarray:
    """Bytes of a chunk before the checksum that ends it, uint8; raises ValueError unless it is theirs."""
    body = np.frombuffer(content, np.uint8)[: -CHECKSUM.size]
    if CHECKSUM.pack(google_crc32c.value(body)) != content[-CHECKSUM.size :]:
        raise ValueError("its checksum differs")
    return body


def announced_bytes(body: bytes) -> int:
    """Bytes that a Blosc chunk says it decompresses to; -1 where it is too short to be one."""
    return int.from_bytes(body[4:8], "little") if len(body) >= HEADER.size else -1


def index_bytes(n_parts: int) -> int:
    """Bytes of the index that closes a shard of so many inner chunks."""
    return 16 * n_parts + CHECKSUM.size


def shard_index(tail: bytes) -> list[tuple[int, int] | None]:
    """(first byte, byte after the last) of each inner chunk, out of a shard's index; None for one that isn't there.

    Raises ValueError unless its checksum is right.
    """
    found = unsealed(tail).view("<u8").reshape(-1, 2).tolist()
    return [None if start == n_bytes == ABSENT else (start, start + n_bytes) for start, n_bytes in found]


def decode_rows(
    body: np.ndarray, rows: np.ndarray | None, *, n_rows: int, row_bytes: int, compressed: bool
) -> np.ndarray:
    """Rows, or all of them, of a chunk of `n_rows`, uint8 (row, byte), out of its bytes without their checksum.

    What comes back is the caller's own, to be written to; `body` is only read.

    Raises
    ------
    ValueError, RuntimeError
        If these aren't the bytes of such a chunk.
    """
    n_bytes = n_rows * row_bytes
    if compressed:
        body = _decompressed(body, n_bytes, None if rows is None else rows * row_bytes, row_bytes)
    if len(body) != n_bytes:
        raise ValueError(f"it has {len(body)} bytes, not {n_bytes}")
    whole = body.reshape(n_rows, row_bytes)
    if rows is not None:
        return np.asarray(whole[rows])
    return whole if whole.flags.writeable else whole.copy()


class _Header(NamedTuple):
    version: int
    compressor_version: int
    flags: int
    typesize: int
    n_bytes: int
    block_bytes: int
    compressed_bytes: int

    @classmethod
    def of(cls, body: np.ndarray, n_bytes: int) -> Self:
        """Header of a chunk that decompresses to so many bytes; raises ValueError if it isn't."""
        found = cls(*HEADER.unpack(body[: HEADER.size].tobytes())) if len(body) >= HEADER.size else None
        if found is None or (found.n_bytes, found.compressed_bytes) != (n_bytes, len(body)) or not found.block_bytes:
            raise ValueError(f"it isn't {n_bytes} bytes compressed by Blosc")
        if not found.flags & STORED and HEADER.size + START.size * found.n_blocks > len(body):
            raise ValueError(f"it has no room for its {found.n_blocks} blocks")
        return found

    @property
    def n_blocks(self) -> int:
        return -(-self.n_bytes // self.block_bytes)


def _decompressed(body: np.ndarray, n_bytes: int, starts: np.ndarray | None, length: int) -> np.ndarray:
    """All bytes of a chunk; where `starts` are given, only those in ranges of this length from there need be right."""
    header = _Header.of(body, n_bytes)
    if header.flags & STORED:
        return body[HEADER.size :]
    size, n_blocks = header.block_bytes, header.n_blocks
    wanted = np.empty(0, np.intp) if starts is None else _touched(starts, starts + length, size, n_blocks)
    whole = np.empty(n_bytes, np.uint8)  # pages that nothing is written to take no memory
    if len(wanted) in (0, n_blocks) or not header.flags & ONE_STREAM:
        numcodecs.blosc.decompress(body, whole)
        return whole
    places = np.frombuffer(body, "<u4", n_blocks, HEADER.size)
    for block in wanted.tolist():
        _decode_block(body, header, int(places[block]), whole[block * size : (block + 1) * size])
    return whole


def _touched(starts: np.ndarray, stops: np.ndarray, size: int, n_blocks: int) -> np.ndarray:
    """Blocks of this size in which any of these ranges of bytes lies, ascending."""
    begin = np.bincount(starts // size, minlength=n_blocks + 1)
    end = np.bincount(-(-stops // size), minlength=n_blocks + 1)
    return np.flatnonzero(np.cumsum(begin - end)[:n_blocks])


def _decode_block(body: np.ndarray, header: _Header, place: int, out: np.ndarray) -> None:
    """Fill `out` with the block that lies there: 4 bytes that say how many follow, and these."""
    length = int.from_bytes(body[place : place + START.size].tobytes(), "little")
    stream = body[place : place + START.size + length]
    if len(stream) != START.size + length or not length:
        raise ValueError("a block of it ends too early")
    alone = header._replace(
        n_bytes=len(out), block_bytes=len(out), compressed_bytes=HEADER.size + START.size + len(stream)
    )
    numcodecs.blosc.decompress(HEADER.pack(*alone) + START.pack(HEADER.size + START.size) + stream.tobytes(), out)
