"""Reading an array that is written row by row: committed rows only, and nothing in place of a lost chunk."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..errors import StoreError
from ..format.spec import ROW_TOKENS
from ..format.stored_array import StoredArray
from ..format.widen import check_storage, widen_block
from ..places.place import Place
from .chunks import read_chosen


class RowArray:
    """A (token, ...) array of a run that reads like a NumPy array, in float32, a row at a time.

    Tokens of rows that aren't committed read as NaN, whatever lies on the disk. It can be pickled, so that a Dask task
    anywhere can read its own rows.
    """

    def __init__(self, array: StoredArray, *, place: Place, committed: np.ndarray, columns: slice) -> None:
        self.path = array.path
        self.dtype_logical = str(array.attributes.get("dtype_logical", array.dtype.name))
        try:
            check_storage(array.dtype, self.dtype_logical)
        except ValueError as error:
            raise StoreError(f"{array.path!r} can't be read as numbers: {error}") from error
        self._array = array
        self._place = place
        self._committed = committed
        width = array.shape[1] if len(array.shape) > 1 else 1
        self.columns = slice(*columns.indices(width))
        """Which columns of the array in the run these are: several components may share one."""
        self.shape: tuple[int, ...] = (array.shape[0], *(len(range(n)[columns]) for n in array.shape[1:]))
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
            values = self.take(places.ravel())
            return np.asarray(values[(np.arange(places.size).reshape(places.shape), *rest)])
        start, stop, step = tokens.indices(self.shape[0])
        stop = max(start, stop)
        parts = [self.read_row(row, start, stop) for row in range(start // ROW_TOKENS, -(-stop // ROW_TOKENS))]
        whole = np.concatenate(parts) if parts else np.empty((0, *self.shape[1:]), self.dtype)
        return np.asarray(whole[(slice(None, None, step), *rest)])

    def take(self, tokens: np.ndarray) -> np.ndarray:
        """Tokens by their places in the run, in any order; of each row that holds some, the whole is read once."""
        values = np.empty((len(tokens), *self.shape[1:]), self.dtype)
        rows, offsets = np.divmod(tokens, ROW_TOKENS)
        for row in np.unique(rows).tolist():
            here = rows == row
            values[here] = self.read_row(row)[offsets[here]]
        return values

    def read_row(self, row: int, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Tokens start to stop of one row (all of it by default), float32.

        Raises
        ------
        StoreError
            If a chunk of a committed row is missing, empty or broken.
        """
        offset = row * ROW_TOKENS
        n_tokens = self.n_tokens(row)
        part = slice(max(start - offset, 0), n_tokens if stop is None else min(stop - offset, n_tokens))
        if not self._committed[row]:
            return np.full((part.stop - part.start, *self.shape[1:]), np.nan, self.dtype)
        return widen_block(self.read_stored(row)[part], self.dtype_logical)

    def read_stored(self, row: int) -> np.ndarray:
        """A committed row as it is stored, of type `dtype_logical`: bfloat16 as uint16; see `read_row`."""
        return self.read_columns(row, [self.columns])[0]

    def read_columns(self, row: int, columns: Sequence[slice]) -> list[np.ndarray]:
        """A committed row as it is stored, for each of these columns of the array: what lies together is read once."""
        return [block[: self.n_tokens(row)] for block in read_chosen(self._place, self._array, row, columns)]

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

    def to_dask(self) -> Any:
        """A lazy Dask array of these rows, one block each."""
        import dask.array as da  # half a second, for which nothing else should wait

        return da.from_array(
            self,
            chunks=(ROW_TOKENS, *self.shape[1:]),
            name=False,
            lock=False,
            asarray=False,
            inline_array=True,
            meta=np.empty((0,) * self.ndim, self.dtype),
        )


class DeltaSource(NamedTuple):
    """Sources of a component's delta: its factor and weights, delta itself, or the outputs of two passes."""

    rows: RowArray
    lora_B: Callable[[], np.ndarray] | None = None  # noqa: N815 (PEFT's name)
    """Reads it, float32 (feature, rank); None where `rows` is delta or adapted."""
    scaling: float = 1.0
    bias: Callable[[], np.ndarray] | None = None
    base: RowArray | None = None
    """In stream `pair`, where `rows` are adapted, base is subtracted from them."""

    def to_dask(self) -> Any:
        """Delta as a lazy Dask array, one block a row."""
        import dask.array as da

        rows = self.rows.to_dask()
        if self.base is not None:
            return rows - self.base.to_dask()
        weights = self.weights()
        if not weights:
            return rows
        chunks = (rows.chunks[0], (len(weights["lora_B"]),))
        return da.map_blocks(delta_block, rows, **weights, dtype=np.float32, chunks=chunks)

    def weights(self) -> dict[str, Any]:
        """Arguments of `delta_block`, read now; none where delta isn't made from a factor."""
        if self.lora_B is None:
            return {}
        bias = None if self.bias is None else self.bias()
        return {"lora_B": self.lora_B(), "scaling": np.float32(self.scaling), "bias": bias}


def delta_block(factor: np.ndarray, *, lora_B: np.ndarray, scaling: np.float32, bias: np.ndarray | None) -> np.ndarray:
    """scaling * (z B^T + bias), float32 (token, feature): PEFT's own order of operations."""
    product: np.ndarray = factor @ lora_B.T
    if bias is not None:
        product += bias
    product *= scaling
    return product


def read_once(array: StoredArray, place: Place, *, may_be_absent: bool = False) -> np.ndarray:
    """Values of an array that is written when the run is set up.

    With `may_be_absent` a chunk that isn't there reads as the fill value: early writers made such columns without one.

    Raises
    ------
    StoreError
        If a chunk is missing, empty or broken.
    """
    parts = []
    for chunk in range(array.n_chunks):
        if may_be_absent and place.size(array.key(chunk)) is None:
            parts.append(np.full(array.chunks, array.fill, array.dtype))
        else:
            parts += read_chosen(place, array, chunk)
    values = np.concatenate(parts) if parts else np.empty(array.shape, array.dtype)
    return values[tuple(map(slice, array.shape))]
