"""How the numbers of a run's rows look, each row by itself and beside the others."""

import threading
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from ..errors import Problem
from ..format.check import stored_spec
from ..format.layout import array_specs
from ..format.spec import ROW_TOKENS
from ..format.widen import widen_block
from ..reading.run import Run
from .align import PrefixCheck, PrefixKeys, Sketch, shift_problems, sketch
from .values import RANGES, RepeatedRows, VectorWindow, value_problems, vector_labels

REDUCTION_TOLERANCE = 0.5
"""Share of their size by which numbers such as js may differ with the batch: they are squares of small differences."""
STATE_TOLERANCE = 0.05
"""Share of their norm by which vectors may differ with the batch."""
TOKEN_COLUMNS = ("sample", "position", "token_id")


class Looked(NamedTuple):
    """Findings in one chunk of a row, small whatever its size."""

    path: str
    key: str
    problems: list[Problem]
    mark: int | None
    """`RepeatedRows.mark_of` its block."""
    labels: np.ndarray | None
    """`vector_labels` of a chunk of states; None for another array's."""
    sketch: Sketch | None
    """Sketch of an array whose values follow from the tokens up to each one; None for another."""


class RowStatistics:
    """Looks at rows in ascending order; between them it holds marks and sketches only.

    Every chunk of a row goes through `look`, in any thread, then all together through `compare`; `finish` has what only
    all rows tell.
    """

    def __init__(self, run: Run) -> None:
        self._components = run.component_paths
        self._known = {one.path for one in array_specs(stored_spec(run.attributes, run.arrays, run.read_once))}
        self._logical = {path: str(one.attributes.get("dtype_logical", "float32")) for path, one in run.arrays.items()}
        self._tokens = TokenRows(run)
        by_row = [path for path, one in run.arrays.items() if one.by_row]
        self._repeated = RepeatedRows(by_row, run.n_rows, self._tokens.ids_and_positions)
        self._windows = {name: VectorWindow() for name in ("base", "adapted")}
        self._prefixes = PrefixCheck(_model_class(run))
        layers = zip(self._components, run.components["layer"].values.tolist(), strict=True)
        self._first_layer = {component for component, layer in layers if layer <= 0}
        self._untouched = {name: run.adapter(name)["rank"].values == 0 for name in run.adapters}
        self._first_factors: dict[str, list[tuple[str, int, int]]] = {name: [] for name in run.adapters}
        """Adapter -> (component, first column, one past the last) of the first layer's factors."""
        self._rounded: set[str] = set()
        """Deltas that are output less base: what is left of two rounded numbers follows from their last bits."""
        for name in run.adapters:
            columns = (run.adapter(name)[key].values.tolist() for key in ("factor_start", "rank", "delta_source"))
            for component, start, rank, source in zip(self._components, *columns, strict=True):
                if component in self._first_layer and start >= 0:
                    self._first_factors[name].append((component, start, start + rank))
                if source == "difference":
                    self._rounded.add(f"adapters/{name}/delta/{component}")

    @property
    def n_pairs(self) -> int:
        """Pairs of tokens whose vectors had to agree."""
        return self._prefixes.n_pairs

    def look(self, path: str, key: str, row: int, block: np.ndarray) -> Looked:
        """Findings in one chunk of a row, its block as stored."""
        names = path.split("/")
        if path not in self._known:  # a newer writer's
            return Looked(path, key, [], None, None, None)
        tokens = self._tokens.read(row)
        wide = widen_block(block, self._logical[path])
        untouched = self._untouched[names[1]] if names[0] == "adapters" else None
        problems = list(value_problems(key, wide, row=row, position=tokens.position, untouched=untouched))
        mark = self._repeated.mark_of(block)
        problems += self._shifts(path, row, wide, tokens.token_id)
        tolerance = REDUCTION_TOLERANCE if names[-1] in RANGES and names[0] != "states" else STATE_TOLERANCE
        if any(problem.kind == "blank" for problem in problems):  # told once; it is like nothing else
            return Looked(path, key, problems, mark, None, None)
        labels = vector_labels(block) if names[0] == "states" else None
        if path in self._rounded:
            return Looked(path, key, problems, mark, labels, None)
        return Looked(path, key, problems, mark, labels, sketch(wide.reshape(len(wide), -1), tolerance))

    def _shifts(self, path: str, row: int, wide: np.ndarray, token_id: np.ndarray) -> Iterator[Problem]:
        """Shifts of what follows from the token alone: the first layer's vectors, and its factors."""
        names = path.split("/")
        if names[0] == "states" and names[1] in self._first_layer:
            yield from shift_problems(path, row, sketch(wide, STATE_TOLERANCE), token_id)
        elif names[-1] == "factor":
            for component, start, stop in self._first_factors[names[1]]:
                found = sketch(np.ascontiguousarray(wide[:, start:stop]), STATE_TOLERANCE)
                yield from shift_problems(f"{path} of {component}", row, found, token_id)

    def compare(self, row: int, looked: Mapping[str, Looked]) -> Iterator[Problem]:
        """Problems of a row, from what `look` made of its arrays."""
        for one in looked.values():
            yield from one.problems
            yield from self._repeated.check(one.path, row, one.mark)
        tokens = self._tokens.read(row)
        for name, window in self._windows.items():
            paths = [path for component in self._components if (path := f"states/{component}/{name}") in looked]
            labels = {looked[path].key: labels for path in paths if (labels := looked[path].labels) is not None}
            if labels:
                yield from window.check(labels, tokens.token_id)
        sketches = {path: one.sketch for path, one in looked.items() if one.sketch is not None}
        self._prefixes.add(row, sketches, *self._tokens.prefixes(row))

    def finish(self) -> Iterator[Problem]:
        """Problems that only all rows together show."""
        return self._prefixes.problems()


def _model_class(run: Run) -> str:
    """Class of the model that made the run; empty where nobody says."""
    provenance = run.attributes.get("provenance")
    model = provenance.get("model") if isinstance(provenance, dict) else None
    return str(model.get("class", "")) if isinstance(model, dict) else ""


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
        self._arrays = {name: run.arrays[f"tokens/{name}"] for name in TOKEN_COLUMNS}
        self._n_tokens = run.n_tokens
        self._held: dict[str, tuple[int, np.ndarray]] = {}
        self._keys = PrefixKeys()
        self._n_keyed = 0
        self._lock = threading.Lock()

    def read(self, row: int) -> TokenRow:
        """The columns of one row."""
        start, stop = row * ROW_TOKENS, min((row + 1) * ROW_TOKENS, self._n_tokens)
        with self._lock:
            return TokenRow(*(self._column(name, start, stop) for name in TOKEN_COLUMNS))

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
                content = self._place.read(array.key(chunk), at_most=array.max_bytes)
                held = self._held[name] = (chunk, array.decode(chunk, content))
            parts.append(held[1][max(start - chunk * size, 0) : stop - chunk * size])
        return np.concatenate(parts)
