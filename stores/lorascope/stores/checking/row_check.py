"""Checking one row of a run: the bytes of its chunks, and what they decode to."""

from concurrent.futures import Executor
from functools import partial
from typing import NamedTuple

from ..errors import Problem
from ..format.digest import combine
from ..reading.chunks import read_chunk
from ..reading.run import Run
from .row_statistics import Looked, RowStatistics

__all__ = ["RowChecker"]


class _Checked(NamedTuple):
    """Result of checking one chunk of a row, small whatever the chunk's size."""

    key: str
    part: bytes | None
    problem: Problem | None
    looked: Looked | None


class RowChecker:
    """Checks the rows of a run, in ascending order."""

    def __init__(self, run: Run, *, statistics: RowStatistics | None, pool: Executor) -> None:
        self._run = run
        self._statistics = statistics
        self._pool = pool

    def check(self, row: int, *, decode: bool) -> tuple[int, list[Problem]]:
        """(chunks that were looked for, problems) of a row; where its digest differs every chunk is decoded."""
        paths = self._run.row_paths(row)
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
        chunk = read_chunk(self._run.place, self._run.arrays[path], row, decode=decode)
        looked = None
        if self._statistics is not None and chunk.block is not None:
            looked = self._statistics.look(path, chunk.key, row, chunk.block)
        return _Checked(chunk.key, chunk.part, chunk.problem, looked)
