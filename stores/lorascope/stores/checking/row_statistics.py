"""Checks of the numbers in a run's rows: values that no sound capture writes, and rows or vectors that repeat."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np

from ..errors import Problem
from ..format.layout import array_specs
from ..format.spec import ROW_TOKENS
from ..format.stored_array import widen_block
from ..format.stored_spec import stored_spec
from ..reading.run import Run

LN2 = float(np.log(2)) * (1 + 1e-6)
"""Largest JS, with room for float32."""
ALLOWED_RANGES = {
    "js": (0.0, LN2, "js outside of [0, ln 2]"),
    "kl": (-1e-5, np.inf, "negative kl"),
    "ablation": (-1e-5, np.inf, "negative ablation"),
    "swallowed": (0.0, 1.0, "share of swallowed features outside of [0, 1]"),
    "base_norm": (0.0, np.inf, "negative norm"),
    "delta_norm": (0.0, np.inf, "negative norm"),
    "effective_width": (1 - 1e-3, np.inf, "effective width below 1"),
}
"""Last name of an array of reductions -> (lowest, largest, what a value outside is)."""
MAY_BE_NAN = frozenset({"js", "kl", "ablation", "swallowed"})
"""Reductions that are measured on a share of the tokens only."""
MIN_VECTOR_BYTES = 12
"""Vectors of fewer bytes may be equal by chance."""


def value_problems(
    key: str, block: np.ndarray, *, row: int, position: np.ndarray, untouched: np.ndarray | None
) -> Iterator[Problem]:
    """Every value of a block that no sound capture writes.

    Parameters
    ----------
    key
        Key of the chunk that the block was decoded from.
    block
        Float32 (token, ...).
    row
        Which row it is.
    position
        Place of each token in its sample, int (token,).
    untouched
        Bool (component,): components that the array's adapter leaves alone; None for an array of no adapter.
    """
    path = key.rpartition("/")[0]
    name = path.rpartition("/")[2]
    if path == "tokens/nll":
        yield from _first_token_problem(
            key, "nan", np.isnan(block) & (position != 0), "is NaN though a token stands before it"
        )
        yield from _first_token_problem(
            key, "range", (block < -1e-3) | np.isinf(block), "has a nll outside of [0, inf)"
        )
    elif name in ALLOWED_RANGES and not path.startswith("states/"):
        yield from _reduction_problems(key, name, block.reshape(len(block), -1), untouched)
    else:
        yield from _vector_problems(key, block, row, is_state=path.startswith("states/"))


def _reduction_problems(key: str, name: str, block: np.ndarray, untouched: np.ndarray | None) -> Iterator[Problem]:
    lowest, largest, what = ALLOWED_RANGES[name]
    if name not in MAY_BE_NAN:
        touched = block if untouched is None else block[:, ~untouched]
        yield from _first_token_problem(key, "nan", np.isnan(touched).any(axis=1), "has a NaN")
    outside = (block < lowest) | (block > largest) | np.isinf(block)
    yield from _first_token_problem(key, "range", outside.any(axis=1), f"has a {what}")


def _vector_problems(key: str, block: np.ndarray, row: int, *, is_state: bool) -> Iterator[Problem]:
    nan, inf = np.isnan(block), np.isinf(block)
    if nan.all():
        yield Problem(key, "blank", f"{key!r}: row {row} is blank, all NaN")
        return
    yield from _first_token_problem(key, "nan", nan.any(axis=1), "has a NaN")
    yield from _first_token_problem(key, "inf", inf.any(axis=1), "has an Inf")
    if not is_state:  # a delta is 0 where B is
        return
    zero = ~block.any(axis=1)
    constant = (block == block[:, :1]).all(axis=1) & ~zero & (block.shape[1] > 1)
    for kind, bad, what, blank in (
        ("zero", zero, "is all zero", "all zero"),
        ("constant", constant, "has one value in all features", "one value in all features of a token"),
    ):
        if bad.all():
            yield Problem(key, "blank", f"{key!r}: row {row} is blank, {blank}")
        else:
            yield from _first_token_problem(key, kind, bad, what)


def _first_token_problem(key: str, kind: str, bad: Any, what: str) -> Iterator[Problem]:
    places = np.flatnonzero(bad)
    if len(places):
        more = f", and {len(places) - 1} more" if len(places) > 1 else ""
        yield Problem(key, kind, f"{key!r}: token {places[0]} of the row {what}{more}")


def vector_labels(block: np.ndarray) -> np.ndarray:
    """Int64 (token,): equal where two tokens' vectors are, bit for bit; -1 where one is all zero or too short."""
    n_bytes = block.shape[1] * block.itemsize
    if n_bytes < MIN_VECTOR_BYTES:
        return np.full(len(block), -1)
    vectors = np.ascontiguousarray(block).view(f"V{n_bytes}")[:, 0].tolist()
    labels = np.fromiter(map(hash, vectors), np.int64, len(vectors))  # of 64 bits, and never -1
    labels[~block.any(axis=1)] = -1
    return labels


class VectorWindow:
    """Finds one vector under two token ids, within a row and between a row and the one before it.

    Ids with one and the same embedding are legitimate (unused rows of a vocabulary): their tokens stay equal from the
    first component on, until an attention layer mixes in what stands before them. So in later components equality
    counts against a run only if an earlier one tells the tokens apart, and in the first only if the second does.
    """

    def __init__(self) -> None:
        self._before: tuple[np.ndarray, Mapping[str, np.ndarray]] | None = None
        """Ids and labels of the row before."""

    def check(self, labels: Mapping[str, np.ndarray], ids: np.ndarray) -> Iterator[Problem]:
        """Problems of a row, by `vector_labels` of each component in order, under the keys of their chunks."""
        before, self._before = self._before, (ids, labels)
        by_array = {_array_path(key): labels_before for key, labels_before in before[1].items()} if before else {}
        joined = {
            key: np.concatenate([by_array[_array_path(key)], label]) if _array_path(key) in by_array else label
            for key, label in labels.items()
        }
        # A component whose chunk was lost in one of the rows would be shorter than the others.
        if before is None or len({len(label) for label in joined.values()}) > 1:
            joined, all_ids = dict(labels), ids
        else:
            all_ids = np.concatenate([before[0], ids]) if by_array else ids
        yield from _shared_vector_problems(joined, all_ids, len(all_ids) - len(ids))


def _array_path(key: str) -> str:
    return key.rpartition("/")[0]


def _shared_vector_problems(labels: Mapping[str, np.ndarray], ids: np.ndarray, first_new: int) -> Iterator[Problem]:
    if len(labels) < 2:
        return
    apart = list(labels.values())[1]
    for index, (key, label) in enumerate(labels.items()):
        shared = _n_shared_vectors(label, ids, apart, first_new)
        if shared:
            yield Problem(key, "repeated", f"{key!r}: {shared} vectors stand under more than one token id")
        # Joint label: two tokens share it where they were equal in every component so far.
        apart = label if index == 0 else apart * np.int64(0x9E3779B97F4A7C15 - 2**64) + label


def _n_shared_vectors(label: np.ndarray, ids: np.ndarray, apart: np.ndarray, first_new: int) -> int:
    """Vectors that two tokens share, one of them new, which differ both in id and in the other label."""
    order = np.lexsort((ids, label))
    two_ids = (np.diff(label[order]) == 0) & (np.diff(ids[order]) != 0) & (label[order][1:] != -1)
    groups: dict[int, set[tuple[int, int, bool]]] = defaultdict(set)
    for token in np.flatnonzero(np.isin(label, label[order][1:][two_ids])).tolist():
        groups[int(label[token])].add((int(ids[token]), int(apart[token]), token >= first_new))
    return sum(
        any(a[0] != b[0] and a[1] != b[1] and (a[2] or b[2]) for a, b in combinations(group, 2))
        for group in groups.values()
    )


class RepeatedRows:
    """Finds rows whose block equals that of another one though other tokens stand in it; 8 bytes a chunk."""

    def __init__(self, paths: list[str], n_rows: int, ids_and_positions: Callable[[int], np.ndarray]) -> None:
        self._marks = {path: np.zeros(n_rows, np.int64) for path in paths}
        self._tokens = ids_and_positions

    @staticmethod
    def mark_of(block: np.ndarray) -> int | None:
        """Mark that equal blocks share; None where nothing in a block tells rows apart (see `value_problems`)."""
        if block.size < 2 or (block == block.flat[0]).all() or (_is_zero_or_nan(block[0]) and _is_zero_or_nan(block)):
            return None
        return hash(np.ascontiguousarray(block).tobytes())

    def check(self, path: str, row: int, mark: int | None) -> Iterator[Problem]:
        """Compare a row with those before, by the marks of its blocks; rows come in ascending order."""
        if mark is None:
            return
        marks = self._marks[path]
        equal = np.flatnonzero(marks == mark)
        marks[row] = mark
        if not len(equal):
            return
        if not np.array_equal(self._tokens(int(equal[0])), self._tokens(row)):
            yield Problem(f"row {row}", "repeated", f"row {row} of {path!r} equals row {equal[0]} byte for byte")


def _is_zero_or_nan(block: np.ndarray) -> bool:
    """Whether all is zero or NaN, as where rounding swallows nothing and some components aren't adapted."""
    return bool(((block == 0) | (block != block)).all())


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
        self._known = {entry.path for entry in array_specs(stored_spec(run.attributes, run.arrays, run.read_static))}
        self._logical = {
            path: str(array.attributes.get("dtype_logical", "float32")) for path, array in run.arrays.items()
        }
        self._ids_and_positions = np.stack([run.read_static(f"tokens/{name}") for name in ("token_id", "position")])
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
