"""The rows of a run that is copied: every array as it is stored, read once and checked."""

from collections.abc import Collection
from concurrent.futures import Executor

import numpy as np

from ..errors import StoreError
from ..format.digest import combine
from ..reading.chunks import read_chunk
from ..reading.run import Run

__all__ = ["read_source_row"]


def read_source_row(run: Run, row: int, wanted: Collection[str], pool: Executor) -> dict[str, np.ndarray]:
    """Path -> (token, ...) of one committed row as stored, of the wanted arrays that it has, read side by side.

    Each chunk's own checksum is checked; where all of the row is read, its digest too.

    Raises
    ------
    StoreError
        If a chunk is missing or broken, or the row isn't what was committed.
    """
    there = run.row_paths(row)
    paths = [path for path in there if path in wanted]
    chunks = list(pool.map(lambda path: read_chunk(run.place, run.arrays[path], row, decode=True), paths))
    wrong = [chunk.problem.message for chunk in chunks if chunk.problem is not None]
    parts = [(chunk.key, chunk.part) for chunk in chunks if chunk.part is not None]
    if not wrong and len(paths) == len(there) and combine(parts) != bytes(run.digest(row)):
        wrong = ["its digest differs from what was committed"]
    if wrong:
        raise StoreError(f"row {row} of `{run.place.name}` can't be copied: {wrong[0]}; run `lorascope verify`")
    # A chunk that was decoded has a block, or a problem.
    return {path: chunk.block for path, chunk in zip(paths, chunks, strict=True) if chunk.block is not None}
