"""Checks of the numbers in a run's rows, each row by itself and compared with the others."""

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


class ChunkFindings(NamedTuple):
    """Findings in one chunk of a row, small whatever its size."""

    key: str
    problems: list[Problem]
    mark: int | None = None
    """`RepeatedRows.mark_of` its block."""
    labels: np.ndarray | None = None
    """`vector_labels` of a chunk of states; None for another array's."""


class RowStatistics:
    """Looks at rows in ascending order; between them it holds marks and labels, and the tokens' ids and positions.

    Every chunk of a row goes through `look`, in any thread, then all of a row together through `compare`.
    """

    def __init__(self, run: Run) -> None:
        self._components = run.component_paths
        self._known = {entry.path for entry in array_specs(stored_spec(run.attributes, run.arrays, run.read_once))}
        self._logical = {
            path: str(array.attributes.get("dtype_logical", "float32")) for path, array in run.arrays.items()
        }
        self._ids_and_positions = np.stack([run.read_once(f"tokens/{name}") for name in ("token_id", "position")])
        by_row = [path for path, array in run.arrays.items() if array.by_row]
        self._repeated = RepeatedRows(by_row, run.n_rows, self._tokens)
        self._windows = {name: VectorWindow() for name in ("base", "adapted")}
        self._untouched = {name: run.adapter(name)["rank"].values == 0 for name in run.adapters}

    def look(self, path: str, key: str, row: int, block: np.ndarray) -> ChunkFindings:
        """Findings in one chunk of a row, its block as stored."""
        names = path.split("/")
        if path not in self._known:  # a newer writer's
            return ChunkFindings(key, [])
        wide = widen_block(block, self._logical[path])
        untouched = self._untouched[names[1]] if names[0] == "adapters" else None
        _, position = self._tokens(row)
        problems = list(value_problems(key, wide, row=row, position=position, untouched=untouched))
        mark = self._repeated.mark_of(block)
        if names[0] != "states" or any(problem.kind == "blank" for problem in problems):
            return ChunkFindings(key, problems, mark)
        return ChunkFindings(key, problems, mark, vector_labels(block))

    def compare(self, row: int, findings: Mapping[str, ChunkFindings]) -> Iterator[Problem]:
        """Problems of a row, from what `look` found in its arrays, by path."""
        for path, chunk in findings.items():
            yield from chunk.problems
            yield from self._repeated.check(path, row, chunk.mark)
        token_id, _ = self._tokens(row)
        for name, window in self._windows.items():
            paths = [path for component in self._components if (path := f"states/{component}/{name}") in findings]
            labels = {
                findings[path].key: chunk_labels
                for path in paths
                if (chunk_labels := findings[path].labels) is not None
            }
            if labels:
                yield from window.check(labels, token_id)

    def _tokens(self, row: int) -> np.ndarray:
        """Ids and positions of a row's tokens, int (2, token)."""
        return self._ids_and_positions[:, row * ROW_TOKENS : (row + 1) * ROW_TOKENS]
