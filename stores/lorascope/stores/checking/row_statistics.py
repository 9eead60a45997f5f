"""Checks of the numbers in a run's rows, each row by itself and compared with the others."""

import threading
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from ..errors import Problem
from ..format.layout import array_specs
from ..format.spec import ROW_TOKENS
from ..format.stored_spec import stored_spec
from ..format.widen import widen_block
from ..reading.run import Run
from .values import RepeatedRows, VectorWindow, value_problems, vector_labels

TOKEN_COLUMNS = ("position", "token_id")


class ChunkFindings(NamedTuple):
    """Findings in one chunk of a row, small whatever its size."""

    path: str
    key: str
    problems: list[Problem]
    mark: int | None = None
    """`RepeatedRows.mark_of` its block."""
    labels: np.ndarray | None = None
    """`vector_labels` of a chunk of states; None for another array's."""


class RowStatistics:
    """Looks at rows in ascending order; between them it holds marks and labels only.

    Every chunk of a row goes through `look`, in any thread, then all of a row together through `compare`.
    """

    def __init__(self, run: Run) -> None:
        self._components = run.component_paths
        self._known = {entry.path for entry in array_specs(stored_spec(run.attributes, run.arrays, run.read_once))}
        self._logical = {
            path: str(array.attributes.get("dtype_logical", "float32")) for path, array in run.arrays.items()
        }
        self._tokens = TokenRows(run)
        by_row = [path for path, array in run.arrays.items() if array.by_row]
        self._repeated = RepeatedRows(by_row, run.n_rows, self._tokens.ids_and_positions)
        self._windows = {name: VectorWindow() for name in ("base", "adapted")}
        self._untouched = {name: run.adapter(name)["rank"].values == 0 for name in run.adapters}

    def look(self, path: str, key: str, row: int, block: np.ndarray) -> ChunkFindings:
        """Findings in one chunk of a row, its block as stored."""
        names = path.split("/")
        if path not in self._known:  # a newer writer's
            return ChunkFindings(path, key, [])
        wide = widen_block(block, self._logical[path])
        untouched = self._untouched[names[1]] if names[0] == "adapters" else None
        position = self._tokens.read(row).position
        problems = list(value_problems(key, wide, row=row, position=position, untouched=untouched))
        mark = self._repeated.mark_of(block)
        if names[0] != "states" or any(problem.kind == "blank" for problem in problems):
            return ChunkFindings(path, key, problems, mark)
        return ChunkFindings(path, key, problems, mark, vector_labels(block))

    def compare(self, row: int, findings: Mapping[str, ChunkFindings]) -> Iterator[Problem]:
        """Problems of a row, from what `look` found in its arrays, by path."""
        for chunk in findings.values():
            yield from chunk.problems
            yield from self._repeated.check(chunk.path, row, chunk.mark)
        token_id = self._tokens.read(row).token_id
        for name, window in self._windows.items():
            paths = [path for component in self._components if (path := f"states/{component}/{name}") in findings]
            labels = {
                findings[path].key: chunk_labels
                for path in paths
                if (chunk_labels := findings[path].labels) is not None
            }
            if labels:
                yield from window.check(labels, token_id)


class TokenRow(NamedTuple):
    """Columns of one row's tokens, (token,) each."""

    position: np.ndarray
    token_id: np.ndarray


class TokenRows:
    """Rows of the token table, for any thread; a chunk of each column is in memory at a time."""

    def __init__(self, run: Run) -> None:
        self._place = run.place
        self._arrays = {name: run.arrays[f"tokens/{name}"] for name in TOKEN_COLUMNS}
        self._n_tokens = run.n_tokens
        self._latest: dict[str, tuple[int, np.ndarray]] = {}
        self._lock = threading.Lock()

    def read(self, row: int) -> TokenRow:
        """The columns of one row."""
        start, stop = row * ROW_TOKENS, min((row + 1) * ROW_TOKENS, self._n_tokens)
        with self._lock:
            return TokenRow(*(self._column(name, start, stop) for name in TOKEN_COLUMNS))

    def ids_and_positions(self, row: int) -> np.ndarray:
        """Int64 (2, token): which tokens stand in a row, so that rows can be compared."""
        columns = self.read(row)
        return np.stack([columns.token_id, columns.position]).astype(np.int64)

    def _column(self, name: str, start: int, stop: int) -> np.ndarray:
        array = self._arrays[name]
        size = array.chunks[0]
        parts = []
        for chunk in range(start // size, -(-stop // size)):
            latest = self._latest.get(name)
            if latest is None or latest[0] != chunk:
                content = self._place.read(array.key(chunk), at_most=array.max_bytes)
                latest = self._latest[name] = (chunk, array.decode(chunk, content))
            parts.append(latest[1][max(start - chunk * size, 0) : stop - chunk * size])
        return np.concatenate(parts)
