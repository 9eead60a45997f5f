"""Reading whole arrays: those written row by row, and those written once."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import StoreError
from ..format.spec import ROW_TOKENS
from ..format.stored_array import StoredArray, require_stored_type, widen_block
from ..places.place import Place
from ..threads import N_REQUESTS, map_in_order
from .chunks import read_chunk_columns


class RowArray:
    """Array (token, ...) of a run, read like a NumPy array, in float32, one row (1,024 tokens) at a time.

    Token ids are int32. Tokens of rows that aren't committed are NaN, and token ids -1. It can be pickled, so that Dask
    tasks anywhere can read their rows.
    """

    def __init__(self, array: StoredArray, *, place: Place, committed: np.ndarray, columns: slice) -> None:
        """Take columns of a stored array, without reading; raises StoreError if its type isn't a float type or int32.

        `committed` is the mask of rows that can be read.
        """
        self.path = array.path
        self.dtype_logical = str(array.attributes.get("dtype_logical", array.dtype.name))
        self.dtype = np.dtype(np.int32 if array.dtype == np.int32 else np.float32)
        try:
            if self.dtype != np.int32:
                require_stored_type(array.dtype, self.dtype_logical)
        except ValueError as error:
            raise StoreError(f"{array.path!r} can't be read as numbers: {error}") from error
        self._array = array
        self._fill = -1 if self.dtype == np.int32 else np.nan
        self._place = place
        self._committed = committed
        width = array.shape[1] if len(array.shape) > 1 else 1
        self.columns = slice(*columns.indices(width))
        """Columns of the stored array that this one has; several components may share an array."""
        self.shape: tuple[int, ...] = (array.shape[0], *(len(range(n)[columns]) for n in array.shape[1:]))
        self.ndim = len(self.shape)

    def __getstate__(self) -> dict[str, Any]:
        """Pack the mask of rows into bits, since thousands of these arrays are sent to Dask's workers."""
        return {**self.__dict__, "_committed": (len(self._committed), np.packbits(self._committed).tobytes())}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore a pickled array, with its mask of rows unpacked to bool."""
        n_rows, bits = state["_committed"]
        committed = np.unpackbits(np.frombuffer(bits, np.uint8), count=n_rows).astype(np.bool_)
        self.__dict__.update(state, _committed=committed)

    def __getitem__(self, key: Any) -> np.ndarray:
        """Return a NumPy array for any key that NumPy accepts, tokens first; whole rows are read for it."""
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
        """Return tokens by their places in the run, in any order; each row is read once and whole."""
        values = np.empty((len(tokens), *self.shape[1:]), self.dtype)
        rows, offsets = np.divmod(tokens, ROW_TOKENS)
        for row in np.unique(rows).tolist():
            here = rows == row
            values[here] = self.read_row(row)[offsets[here]]
        return values

    def read_row(self, row: int, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Return tokens `start` to `stop` of the run that are in this row (all by default).

        Raises
        ------
        StoreError
            If a chunk of a committed row is missing, empty or broken.
        """
        offset = row * ROW_TOKENS
        n_tokens = self.n_tokens(row)
        part = slice(max(start - offset, 0), n_tokens if stop is None else min(stop - offset, n_tokens))
        if not self._committed[row]:
            return np.full((part.stop - part.start, *self.shape[1:]), self._fill, self.dtype)
        stored = self.read_stored(row)[part]
        return stored if self.dtype == np.int32 else widen_block(stored, self.dtype_logical)

    def read_stored(self, row: int) -> np.ndarray:
        """Return a committed row in the type in which it is stored: bfloat16 as uint16 bits."""
        return self.read_columns(row, [self.columns])[0]

    def read_columns(self, row: int, columns: Sequence[slice]) -> list[np.ndarray]:
        """Return one array (token, column), as stored, for each span of columns of a committed row.

        Neighbouring spans are read together.
        """
        return [block[: self.n_tokens(row)] for block in read_chunk_columns(self._place, self._array, row, columns)]

    @property
    def n_rows(self) -> int:
        """Number of rows (blocks of 1,024 tokens), committed or not."""
        return len(self._committed)

    @property
    def first_part(self) -> tuple[str, int] | None:
        """Array and index of the inner chunk in which the columns begin, if they are requested from an object store."""
        width = self._array.part_width
        return (self.path, self.columns.start // width) if width is not None and self._place.remote else None

    def is_committed(self, row: int) -> bool:
        """Return whether a row is committed (completely written) and has this array."""
        return bool(self._committed[row])

    def n_tokens(self, row: int) -> int:
        """Return the number of tokens in a row; only the last row may have fewer than 1,024."""
        return min(ROW_TOKENS, self.shape[0] - row * ROW_TOKENS)

    def to_dask(self) -> Any:
        """Return a lazy Dask array with one block per row (1,024 tokens), float32 or of token ids int32."""
        import dask.array as da  # takes half a second, so only where it is needed

        return da.from_array(
            self,
            chunks=(ROW_TOKENS, *self.shape[1:]),
            name=False,
            lock=False,
            asarray=False,
            inline_array=True,
            meta=np.empty((0,) * self.ndim, self.dtype),
        )


def read_static(array: StoredArray, place: Place, *, may_be_absent: bool = False) -> np.ndarray:
    """Return the whole of an array that was written once, when the run was set up.

    With `may_be_absent` missing chunks are read as the fill value: early writers wrote none for some columns.

    Raises
    ------
    StoreError
        If a chunk is missing, empty or broken, or has a value that its column may not have.
    """

    def read(chunk: int) -> np.ndarray:
        """Return a chunk's entries, or fill values if it may be absent and is."""
        if may_be_absent and place.size(array.key(chunk)) is None:
            return np.full(array.chunks, array.fill, array.dtype)
        return read_chunk_columns(place, array, chunk)[0]

    chunks = range(array.n_chunks)
    at_once = place.remote and len(chunks) > 1
    parts = list(map_in_order(read, chunks, n_threads=N_REQUESTS) if at_once else map(read, chunks))
    values = np.concatenate(parts) if parts else np.empty(array.shape, array.dtype)
    return values[tuple(map(slice, array.shape))]
