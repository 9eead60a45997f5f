"""Reading an array that is written row by row: committed rows only, and nothing in place of a lost chunk."""

from typing import Any, NamedTuple

import dask.array as da
import numpy as np
import zarr

from ..errors import StoreError
from ..format.layout import ROW_TOKENS, chunk_key
from ..format.widen import check_storage, widen_block
from ..places.place import Place
from .guard import require_chunk, require_text_chunk

__all__ = ["DeltaSource", "RowArray", "delta_block", "read_digests", "read_once"]


MAX_DIGEST_BYTES = 4096
"""Of a digest's chunk, whose own content is 32 bytes."""


class RowArray:
    """A (token, ...) array of a run that reads like a NumPy array, in float32, a row at a time.

    Tokens of rows that aren't committed read as NaN, whatever lies on the disk. It can be pickled, so that a Dask task
    anywhere can read its own rows.
    """

    def __init__(self, array: zarr.Array[Any], *, place: Place, committed: np.ndarray, columns: slice) -> None:
        self._array = _to_last_chunk(array)
        self._place = place
        self._committed = committed
        self._columns = columns
        self._dtype_logical = str(array.attrs.get("dtype_logical", array.dtype.name))
        try:
            check_storage(array.dtype, self._dtype_logical)
        except ValueError as error:
            raise StoreError(f"{array.path!r} can't be read as numbers: {error}") from error
        self._width = array.shape[1] if array.ndim > 1 else 1
        self.shape: tuple[int, ...] = (array.shape[0], *_cut(array.shape[1:], columns))
        self.dtype = np.dtype(np.float32)
        self.ndim = len(self.shape)

    def __getitem__(self, key: Any) -> np.ndarray:
        """A NumPy array for any key that NumPy takes, tokens first; whole rows are read for it."""
        tokens, *rest = key if isinstance(key, tuple) else (key,)
        if not isinstance(tokens, slice) or (tokens.step or 1) < 0:
            places = np.asarray(np.arange(self.shape[0])[tokens])
            rows = np.unique(places // ROW_TOKENS)
            whole = self._concatenate([self.read_row(int(row)) for row in rows])
            # Each row before the last one read is full, so that a token's place follows from its row's.
            places = np.searchsorted(rows, places // ROW_TOKENS) * ROW_TOKENS + places % ROW_TOKENS
            return np.asarray(whole[(places, *rest)])
        start, stop, step = tokens.indices(self.shape[0])
        stop = max(start, stop)
        parts = [self.read_row(row, start, stop) for row in range(start // ROW_TOKENS, -(-stop // ROW_TOKENS))]
        return np.asarray(self._concatenate(parts)[(slice(None, None, step), *rest)])

    def _concatenate(self, parts: list[np.ndarray]) -> np.ndarray:
        return np.concatenate(parts) if parts else np.empty((0, *self.shape[1:]), self.dtype)

    def read_row(self, row: int, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Tokens start to stop of one row (all of it by default), float32.

        Raises
        ------
        StoreError
            If a chunk of a committed row is missing, empty or broken.
        """
        offset = row * ROW_TOKENS
        n_tokens = min(ROW_TOKENS, self.shape[0] - offset)
        wanted = slice(max(start - offset, 0), n_tokens if stop is None else min(stop - offset, n_tokens))
        if not self._committed[row]:
            return np.full((wanted.stop - wanted.start, *self.shape[1:]), np.nan, self.dtype)
        key = chunk_key(self._array.path, row, self._array.ndim)
        require_chunk(self._place, key, self._array, f"chunk {key!r} of a committed row", self._columns)
        try:
            block = self._read_chunks(slice(offset, offset + ROW_TOKENS))[:n_tokens]
        except (ValueError, RuntimeError) as error:
            raise StoreError(f"chunk {key!r} is broken ({_first_line(error)}); run `lorascope verify`") from error
        return widen_block(block[wanted], self._dtype_logical)

    def _read_chunks(self, tokens: slice) -> np.ndarray:
        """Whole chunks only: zarrs decodes a part of one without looking at its checksum."""
        if self._array.ndim == 1:
            return np.asarray(self._array[tokens])
        width, chunk = self._width, self._array.chunks[1]
        first, last, _ = self._columns.indices(width)
        left, right = first // chunk * chunk, -(-last // chunk) * chunk
        return np.asarray(self._array[tokens, left:right])[:, first - left : last - left]

    def to_dask(self) -> da.Array:
        """The same as a Dask array, one block a row."""
        blocks: da.Array = da.from_array(
            self,
            chunks=(ROW_TOKENS, *self.shape[1:]),
            name=False,
            lock=False,
            asarray=False,
            inline_array=True,
            meta=np.empty((0,) * self.ndim, self.dtype),
        )
        return blocks


class DeltaSource(NamedTuple):
    """What delta of a component is made from: its factor and weights, delta itself, or two runs' outputs."""

    rows: RowArray
    lora_B: np.ndarray | None = None  # noqa: N815 (PEFT's name)
    """Float32 (feature, rank); None where `rows` is delta or adapted."""
    scaling: float = 1.0
    bias: np.ndarray | None = None
    base: RowArray | None = None
    """What is taken from `rows` in stream `pair`, where they are adapted."""

    def read_row(self, row: int, base: np.ndarray | None = None) -> np.ndarray:
        """Delta of one row, float32 (token, feature); a base that was read already isn't read again for `pair`."""
        block = self.rows.read_row(row)
        if self.base is not None:
            block -= self.base.read_row(row) if base is None else base
            return block
        if self.lora_B is None:
            return block
        return delta_block(block, lora_B=self.lora_B, scaling=np.float32(self.scaling), bias=self.bias)

    def to_dask(self) -> da.Array:
        """The same as a Dask array, one block a row."""
        rows = self.rows.to_dask()
        if self.base is not None:
            difference: da.Array = rows - self.base.to_dask()
            return difference
        if self.lora_B is None:
            return rows
        blocks: da.Array = da.map_blocks(
            delta_block,
            rows,
            lora_B=self.lora_B,
            scaling=np.float32(self.scaling),
            bias=self.bias,
            dtype=np.float32,
            chunks=(rows.chunks[0], (len(self.lora_B),)),
        )
        return blocks


def delta_block(factor: np.ndarray, *, lora_B: np.ndarray, scaling: np.float32, bias: np.ndarray | None) -> np.ndarray:
    """scaling * (z B^T + bias), float32 (token, feature): PEFT's own order of operations."""
    product: np.ndarray = factor @ lora_B.T
    if bias is not None:
        product += bias
    product *= scaling
    return product


def _to_last_chunk(array: zarr.Array[Any]) -> zarr.Array[Any]:
    """The same array as if it went to the end of its last chunks: a chunk that is cut would be read unchecked too."""
    shape = tuple(-(-n // size) * size for n, size in zip(array.shape, array.chunks, strict=True))
    if shape == array.shape:
        return array
    opened = array.async_array
    longer = zarr.AsyncArray(opened.metadata.update_shape(shape), opened.store_path)
    # A pipeline is settled when an array is opened, by a setting that may be another one now.
    object.__setattr__(longer, "codec_pipeline", opened.codec_pipeline)
    return zarr.Array(longer)


def _cut(shape: tuple[int, ...], columns: slice) -> tuple[int, ...]:
    return tuple(len(range(*columns.indices(n))) for n in shape)


def read_once(array: zarr.Array[Any], place: Place, *, may_be_absent: bool = False) -> np.ndarray:
    """Values of an array that is written when the run is set up.

    With `may_be_absent` a chunk that isn't there reads as the fill value: early writers made such columns without one.

    Raises
    ------
    StoreError
        If a chunk is missing, empty or broken.
    """
    size = array.chunks[0]
    whole = _to_last_chunk(array)
    require = require_text_chunk if array.dtype.kind == "T" else require_chunk
    parts = []
    for chunk in range(-(-array.shape[0] // size)):
        key = chunk_key(array.path, chunk, array.ndim)
        if not may_be_absent or place.size(key) is not None:
            require(place, key, array, f"chunk {key!r}")
        parts.append(_read(whole, slice(chunk * size, (chunk + 1) * size), key))
    values = np.concatenate(parts) if parts else np.empty(array.shape, array.dtype)
    return values[tuple(slice(n) for n in array.shape)]


def read_digests(array: zarr.Array[Any], place: Place) -> np.ndarray:
    """Digests of all rows, uint8 (row, byte); all zero where a row isn't committed.

    Raises
    ------
    StoreError
        If the file of one is broken.
    """
    digests = np.zeros(array.shape, np.uint8)
    rows = [row for key, size in place.sizes(array.path) if (row := _digest_row(key, size)) is not None]
    stop = min(max(rows, default=-1) + 1, len(digests))  # beyond it nothing is there to ask a remote for
    try:
        digests[:stop] = array[:stop]
    except (ValueError, RuntimeError):
        # One by one only to find out which it is: opening a file for each row is slow.
        digests[:stop] = np.concatenate([_read_digest(array, row) for row in range(stop)])
    return digests


def _digest_row(key: str, size: int) -> int | None:
    """Row of a digest's key; None for another file's."""
    name = key.rpartition("/")[2].split(".")
    if len(name) != 3 or not name[1].isdecimal():
        return None
    if size > MAX_DIGEST_BYTES:
        raise StoreError(
            f"digest {key!r} is broken (it has {size} bytes); restore this file, or delete it to give row {name[1]} up"
        )
    return int(name[1])


def _read_digest(array: zarr.Array[Any], row: int) -> np.ndarray:
    try:
        return np.asarray(array[row : row + 1])
    except (ValueError, RuntimeError) as error:
        key = chunk_key(array.path, row, 2)
        raise StoreError(
            f"digest {key!r} is broken ({_first_line(error)}); restore this file, or delete it to give row {row} up"
        ) from error


def _read(array: zarr.Array[Any], entries: slice, key: str) -> np.ndarray:
    try:
        return np.asarray(array[entries])
    except (ValueError, RuntimeError) as error:
        raise StoreError(f"chunk {key!r} is broken ({_first_line(error)}); run `lorascope verify`") from error


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
