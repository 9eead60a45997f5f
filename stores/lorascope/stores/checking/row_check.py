"""Checking one row of a run: the bytes of its chunks, and what they decode to."""

from concurrent.futures import Executor

from ..errors import Problem
from ..format.digest import combine
from ..reading.chunks import Chunk, read_chunk
from ..reading.run import Run
from .row_statistics import Looked, RowStatistics

__all__ = ["check_row"]


def check_row(
    run: Run, row: int, *, decode: bool, statistics: RowStatistics | None, pool: Executor
) -> tuple[int, list[Problem]]:
    """(chunks that were looked for, problems) of a row; where its digest differs every chunk is decoded.

    With statistics, rows are checked in ascending order.
    """

    def check(path: str, decode: bool) -> tuple[Chunk, Looked | None]:
        chunk = read_chunk(run.place, run.arrays[path], row, decode=decode)
        looked = None
        if statistics is not None and chunk.block is not None:
            looked = statistics.look(path, chunk.key, row, chunk.block)
        return chunk._replace(block=None), looked  # small, whatever the chunk's size

    paths = run.row_paths(row)
    checked = list(pool.map(lambda path: check(path, decode), paths))
    parts = [(chunk.key, chunk.part) for chunk, _ in checked if chunk.part is not None]
    differs = len(parts) == len(paths) and combine(parts) != bytes(run.digest(row))
    if differs and not decode:  # to say where
        checked = list(pool.map(lambda path: check(path, True), paths))
    problems = [chunk.problem for chunk, _ in checked if chunk.problem is not None]
    if differs:
        problems.append(Problem(f"row {row}", "digest", f"row {row} isn't what was committed: its digest differs"))
    if statistics is not None:
        found = {path: looked for path, (_, looked) in zip(paths, checked, strict=True) if looked is not None}
        problems += statistics.compare(row, found)
    return len(paths), problems
