"""Checking one row of a run: the bytes of its chunks, and what they decode to."""

from concurrent.futures import Executor
from functools import partial
from typing import NamedTuple

from zarr.core.metadata import ArrayV3Metadata

from ..errors import Problem
from ..format.digest import combine
from ..format.layout import goes_with_states
from ..reading.chunks import ChunkDecoder, read_chunk
from ..reading.read import Run
from .row_statistics import Looked, RowStatistics

__all__ = ["RowChecker"]


class _Checked(NamedTuple):
    """What one chunk of a row gave, small whatever the chunk's size."""

    key: str
    part: bytes | None
    problem: Problem | None
    looked: Looked | None


class RowChecker:
    """Checks the rows of a run, in ascending order."""

    def __init__(
        self,
        run: Run,
        by_row: dict[str, ArrayV3Metadata],
        *,
        statistics: RowStatistics | None,
        pool: Executor,
    ) -> None:
        self._run = run
        self._decoders = {path: ChunkDecoder(path, metadata) for path, metadata in by_row.items()}
        self._statistics = statistics
        self._pool = pool

    def check(self, row: int, *, decode: bool) -> tuple[int, list[Problem]]:
        """(chunks that were looked for, problems) of a row; where its digest differs every chunk is decoded."""
        keeps_states = bool(self._run.state_rows[row])
        paths = [path for path in self._decoders if keeps_states or not goes_with_states(path)]
        checked = list(self._pool.map(partial(self._read, row, decode), paths))
        parts = [(one.key, one.part) for one in checked if one.part is not None]
        differs = len(parts) == len(paths) and combine(parts) != bytes(self._run.digest(row))
        if differs and not decode:  # to say where
            checked = list(self._pool.map(partial(self._read, row, True), paths))
        problems = [one.problem for one in checked if one.problem is not None]
        if differs:
            problems.append(Problem(f"row {row}", "digest", f"row {row} isn't what was committed: its digest differs"))
        if self._statistics is not None:
            pairs = zip(paths, checked, strict=True)
            problems += self._statistics.compare(row, {p: one.looked for p, one in pairs if one.looked is not None})
        return len(paths), problems

    def _read(self, row: int, decode: bool, path: str) -> _Checked:
        chunk = read_chunk(self._run.place, self._decoders[path], row, decode=decode)
        looked = None
        if self._statistics is not None and chunk.block is not None:
            looked = self._statistics.look(path, chunk.key, row, chunk.block)
        return _Checked(chunk.key, chunk.part, chunk.problem, looked)
