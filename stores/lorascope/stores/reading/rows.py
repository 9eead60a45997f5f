"""Reading an array that is written row by row: committed rows only, and nothing in place of a lost chunk."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import dask.array as da
import numpy as np
import zarr

from ..errors import StoreError
from ..format.layout import ROW_TOKENS, chunk_key
from ..format.widen import check_storage, widen_block
from ..places.place import Place
from .chosen import read_chosen
from .guard import require_text_chunk

__all__ = ["DeltaSource", "RowArray", "Written", "delta_block", "read_digests", "read_once"]


MAX_DIGEST_BYTES = 4096
"""Of a digest's chunk, whose own content is 32 bytes."""


class RowArray:
    """A (token, ...) array of a run that reads like a NumPy array, in float32, a row at a time.

    Tokens of rows that aren't committed read as NaN, whatever lies on the disk. It can be pickled, so that a Dask task
    anywhere can read its own rows.
    """

    def __init__(self, array: zarr.Array[Any], *, place: Place, committed: np.ndarray, columns: slice) -> None:
        self._array = array
        self._place = place
        self._committed = committed
        self._columns = columns
        self.dtype_logical = str(array.attrs.get("dtype_logical", array.dtype.name))
        try:
            check_storage(array.dtype, self.dtype_logical)
        except ValueError as error:
            raise StoreError(f"{array.path!r} can't be read as numbers: {error}") from error
        self._width = array.shape[1] if array.ndim > 1 else 1
        self.shape: tuple[int, ...] = (array.shape[0], *_cut(array.shape[1:], columns))
        self.dtype = np.dtype(np.float32)
        self.ndim = len(self.shape)

    def __getstate__(self) -> dict[str, Any]:
        """Few bytes: it is sent to Dask's workers by the thousand, and a long run has as many rows."""
        return {**self.__dict__, "_committed": (len(self._committed), np.packbits(self._committed).tobytes())}

    def __setstate__(self, state: dict[str, Any]) -> None:
        n_rows, packed = state["_committed"]
        committed = np.unpackbits(np.frombuffer(packed, np.uint8), count=n_rows).astype(np.bool_)
        self.__dict__.update(state, _committed=committed)

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
        n_tokens = self.n_tokens(row)
        wanted = slice(max(start - offset, 0), n_tokens if stop is None else min(stop - offset, n_tokens))
        if not self._committed[row]:
            return np.full((wanted.stop - wanted.start, *self.shape[1:]), np.nan, self.dtype)
        return widen_block(self.read_stored(row)[wanted], self.dtype_logical)

    def read_stored(self, row: int) -> np.ndarray:
        """A committed row as it is stored, of type `dtype_logical`: bfloat16 as uint16; see `read_row`."""
        return self.read_columns(row, [self._columns])[0]

    def read_columns(self, row: int, columns: Sequence[slice]) -> list[np.ndarray]:
        """A committed row as it is stored, for each of these columns of the array: what lies together is read once."""
        return [block[: self.n_tokens(row)] for block in read_chosen(self._place, self._array, row, None, columns)]

    @property
    def path(self) -> str:
        """Of the array in the run."""
        return str(self._array.path)

    @property
    def n_rows(self) -> int:
        """Rows, committed or not."""
        return len(self._committed)

    def is_committed(self, row: int) -> bool:
        """Whether a row is there to be read."""
        return bool(self._committed[row])

    def n_tokens(self, row: int) -> int:
        """Tokens of a row: all but the last have as many as a row can."""
        return min(ROW_TOKENS, self.shape[0] - row * ROW_TOKENS)

    @property
    def columns(self) -> slice:
        """Of the array in the run: several may share one."""
        return slice(*self._columns.indices(self._width))

    def read_chosen(self, row: int, offsets: np.ndarray, columns: Sequence[slice]) -> list[np.ndarray]:
        """Tokens of one row by their places in it, float32 (token, column), for each of these columns of the array.

        Raises
        ------
        StoreError
            If a chunk of a committed row is missing, empty or broken, wherever in it.
        """
        if not self.is_committed(row):
            return [np.full((len(offsets), one.stop - one.start), np.nan, self.dtype) for one in columns]
        blocks = read_chosen(self._place, self._array, row, offsets, columns)
        return [widen_block(block, self.dtype_logical) for block in blocks]

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


class Written(NamedTuple):
    """An array that is written when the run is set up, not read yet: small to pickle."""

    array: zarr.Array[Any]
    place: Place

    def read(self) -> np.ndarray:
        """Its values; see `read_once`."""
        return read_once(self.array, self.place)


class DeltaSource(NamedTuple):
    """What delta of a component is made from: its factor and weights, delta itself, or two runs' outputs."""

    rows: RowArray
    lora_B: Written | None = None  # noqa: N815 (PEFT's name)
    """Float32 (feature, rank); None where `rows` is delta or adapted."""
    scaling: float = 1.0
    bias: Written | None = None
    base: RowArray | None = None
    """What is taken from `rows` in stream `pair`, where they are adapted."""

    def to_dask(self) -> da.Array:
        """The same as a Dask array, one block a row."""
        rows = self.rows.to_dask()
        if self.base is not None:
            difference: da.Array = rows - self.base.to_dask()
            return difference
        weights = self.weights()
        if not weights:
            return rows
        chunks = (rows.chunks[0], (len(weights["lora_B"]),))
        blocks: da.Array = da.map_blocks(delta_block, rows, **weights, dtype=np.float32, chunks=chunks)
        return blocks

    def weights(self) -> dict[str, Any]:
        """Arguments of `delta_block`, read now; none where delta isn't made from a factor."""
        if self.lora_B is None:
            return {}
        bias = None if self.bias is None else self.bias.read()
        return {"lora_B": self.lora_B.read(), "scaling": np.float32(self.scaling), "bias": bias}


def delta_block(factor: np.ndarray, *, lora_B: np.ndarray, scaling: np.float32, bias: np.ndarray | None) -> np.ndarray:
    """scaling * (z B^T + bias), float32 (token, feature): PEFT's own order of operations."""
    product: np.ndarray = factor @ lora_B.T
    if bias is not None:
        product += bias
    product *= scaling
    return product


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
    size, is_text = array.chunks[0], array.dtype.kind == "T"
    parts = []
    for chunk in range(-(-array.shape[0] // size)):
        key = chunk_key(array.path, chunk, array.ndim)
        if may_be_absent and place.size(key) is None:
            parts.append(np.full((size, *array.shape[1:]), array.fill_value, array.dtype))
        else:
            parts.append(_read_text(array, place, chunk, key) if is_text else read_chosen(place, array, chunk)[0])
    values = np.concatenate(parts) if parts else np.empty(array.shape, array.dtype)
    return values[tuple(slice(n) for n in array.shape)]


def _read_text(array: zarr.Array[Any], place: Place, chunk: int, key: str) -> np.ndarray:
    size = array.chunks[0]
    require_text_chunk(place, key, array, f"chunk {key!r}")
    return _read(array, slice(chunk * size, (chunk + 1) * size), key)


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
