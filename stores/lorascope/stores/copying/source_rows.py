"""The rows of a run that is copied: every array as it is stored, read once and checked."""

from collections.abc import Iterable, Mapping
from concurrent.futures import Executor

import numpy as np
from zarr.core.metadata import ArrayV3Metadata

from ..errors import StoreError
from ..format.digest import combine
from ..format.layout import goes_with_states
from ..reading.chunks import Chunk, ChunkDecoder, read_chunk
from ..reading.read import Run

__all__ = ["SourceRows"]


class SourceRows:
    """Reads these arrays of a run's committed rows."""

    def __init__(self, run: Run, arrays: Mapping[str, ArrayV3Metadata], paths: Iterable[str]) -> None:
        self._run = run
        self._decoders = {path: ChunkDecoder(path, arrays[path]) for path in paths}
        self._by_row = [path for path, one in arrays.items() if one.attributes.get("written") == "by row"]

    def read(self, row: int, pool: Executor) -> dict[str, np.ndarray]:
        """Array path -> (token, ...) of one row as stored, its chunks read side by side.

        Each chunk's own checksum is checked; where all of the row is read, its digest too.

        Raises
        ------
        StoreError
            If a chunk is missing or broken, or the row isn't what was committed.
        """
        keeps_states = bool(self._run.state_rows[row])
        there = [path for path in self._by_row if keeps_states or not goes_with_states(path)]
        paths = [path for path in self._decoders if path in there]
        chunks = list(pool.map(lambda path: read_chunk(self._run.place, self._decoders[path], row, decode=True), paths))
        blocks = {path: self._block(row, chunk) for path, chunk in zip(paths, chunks, strict=True)}
        parts = [(chunk.key, chunk.part) for chunk in chunks if chunk.part is not None]
        if len(paths) == len(there) and combine(parts) != bytes(self._run.digest(row)):
            raise self._error(row, "its digest differs from what was committed")
        return blocks

    def _block(self, row: int, chunk: Chunk) -> np.ndarray:
        if chunk.problem is not None:
            raise self._error(row, chunk.problem.message)
        assert chunk.block is not None  # a chunk that was decoded has one, or a problem
        return chunk.block

    def _error(self, row: int, what: str) -> StoreError:
        return StoreError(f"row {row} of `{self._run.place.name}` can't be copied: {what}; run `lorascope verify`")
