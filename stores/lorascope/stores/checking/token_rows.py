"""The token table, a row at a time: it tells whether two tokens' vectors may be equal, or must be."""

import threading
from typing import NamedTuple

import numpy as np

from ..format.spec import ROW_TOKENS
from ..reading.run import Run
from .align import PrefixKeys

__all__ = ["TokenRow", "TokenRows"]

COLUMNS = ("sample", "position", "token_id")


class TokenRow(NamedTuple):
    """Columns of one row's tokens, (token,) each."""

    sample: np.ndarray
    position: np.ndarray
    token_id: np.ndarray


class TokenRows:
    """Rows of the token table; a chunk of each column is held at a time, whatever the run's size.

    For any thread, but for `prefixes`.
    """

    def __init__(self, run: Run) -> None:
        self._place = run.place
        self._arrays = {name: run.arrays[f"tokens/{name}"] for name in COLUMNS}
        self._n_tokens = run.n_tokens
        self._held: dict[str, tuple[int, np.ndarray]] = {}
        self._keys = PrefixKeys()
        self._n_keyed = 0
        self._lock = threading.Lock()

    def read(self, row: int) -> TokenRow:
        """The columns of one row."""
        start, stop = row * ROW_TOKENS, min((row + 1) * ROW_TOKENS, self._n_tokens)
        with self._lock:
            return TokenRow(*(self._column(name, start, stop) for name in COLUMNS))

    def ids_and_positions(self, row: int) -> np.ndarray:
        """Int64 (2, token): which tokens stand in a row, so that rows can be compared."""
        found = self.read(row)
        return np.stack([found.token_id, found.position]).astype(np.int64)

    def prefixes(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        """`PrefixKeys.row` of this row; rows are asked for in ascending order."""
        for before in range(self._n_keyed, row):  # what a sample holds in a row that isn't committed counts too
            self._keys.row(*self.read(before))
        self._n_keyed = row + 1
        return self._keys.row(*self.read(row))

    def _column(self, name: str, start: int, stop: int) -> np.ndarray:
        array = self._arrays[name]
        size = array.chunks[0]
        parts = []
        for chunk in range(start // size, -(-stop // size)):
            held = self._held.get(name)
            if held is None or held[0] != chunk:
                held = self._held[name] = (chunk, array.decode(chunk, self._place.read(array.key(chunk))))
            parts.append(held[1][max(start - chunk * size, 0) : stop - chunk * size])
        return np.concatenate(parts)
