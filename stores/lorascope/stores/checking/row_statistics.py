"""Checks of the numbers in a run's rows: values that no sound capture writes, and rows or vectors that repeat.

A row is 1,024 tokens of every array. A component is a layer that LoRA wraps, and its states are its stored outputs. JS
is the Jensen-Shannon divergence of softmax(base) and softmax(base + delta), at most ln 2.
"""

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
from ..format.tables import CHANGE_COLUMNS
from ..reading.run import Run

LN2 = float(np.log(2)) * (1 + 1e-6)
"""Largest possible JS, with a margin for float32."""
ALLOWED_RANGES = {
    "js": (0.0, LN2, "js outside of [0, ln 2]"),
    **{name: (-1e-5, np.inf, f"negative {name}") for name in ("kl", "kl_adapted_base", "ablation")},
    **{name: (0.0, np.inf, f"negative {name}") for name in ("gain", "loss")},
    **dict.fromkeys(("adapted_choice_p", "base_choice_p"), (0.0, 1 + 1e-6, "probability outside of [0, 1]")),
    **dict.fromkeys(("adapted_nll", "base_nll"), (-1e-3, np.inf, "negative nll")),
    "swallowed": (0.0, 1.0, "share of swallowed features outside of [0, 1]"),
    **dict.fromkeys(("base_norm", "delta_norm"), (0.0, np.inf, "negative norm")),
    "effective_width": (1 - 1e-3, np.inf, "effective width below 1"),
}
"""Name of a stored measure -> (smallest value, largest value, description of a value outside)."""
MAY_BE_NAN = frozenset({"js", "kl", "ablation", "swallowed", *(column.name for column in CHANGE_COLUMNS)})
"""Measures that may be measured for some tokens only."""
MIN_VECTOR_BYTES = 12
"""Smallest vectors that are compared: shorter ones may be equal by chance."""


def value_problems(
    key: str, block: np.ndarray, *, row: int, position: np.ndarray, unadapted: np.ndarray | None
) -> Iterator[Problem]:
    """Yield a Problem for each kind of value in a chunk that no sound capture writes, such as a negative norm.

    `block` is float32 (token, ...), from the chunk with this key; `position`, int (token,), are the tokens' places in
    their samples; `unadapted`, bool (component,), are components without the array's adapter, None for other arrays.
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
        yield from _reduction_problems(key, name, block.reshape(len(block), -1), unadapted)
    else:
        yield from _vector_problems(key, block.reshape(len(block), -1), row, is_state=path.startswith("states/"))


def _reduction_problems(key: str, name: str, block: np.ndarray, unadapted: np.ndarray | None) -> Iterator[Problem]:
    """Yield a Problem if values of a stored measure, such as `js`, are NaN or outside of their allowed range."""
    lowest, largest, what = ALLOWED_RANGES[name]
    if name not in MAY_BE_NAN:
        touched = block if unadapted is None else block[:, ~unadapted]
        yield from _first_token_problem(key, "nan", np.isnan(touched).any(axis=1), "has a NaN")
    outside = (block < lowest) | (block > largest) | np.isinf(block)
    yield from _first_token_problem(key, "range", outside.any(axis=1), f"has a {what}")


def _vector_problems(key: str, block: np.ndarray, row: int, *, is_state: bool) -> Iterator[Problem]:
    """Yield a Problem for vectors of a chunk that aren't finite, and for zero or constant states (layer outputs)."""
    nan, inf = np.isnan(block), np.isinf(block)
    if nan.all():
        yield Problem(key, "blank", f"{key!r}: row {row} is blank, all NaN")
        return
    yield from _first_token_problem(key, "nan", nan.any(axis=1), "has a NaN")
    yield from _first_token_problem(key, "inf", inf.any(axis=1), "has an Inf")
    if not is_state:  # delta is 0 if B is
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
    """Yield one Problem that names the first token of the mask `bad` and counts the others; nothing if all are good."""
    places = np.flatnonzero(bad)
    if len(places):
        more = f", and {len(places) - 1} more" if len(places) > 1 else ""
        yield Problem(key, kind, f"{key!r}: token {places[0]} of the row {what}{more}")


def vector_labels(block: np.ndarray) -> np.ndarray:
    """Return a hash of each token's vector, int64 (token,): equal for equal bits, -1 for zero or very short vectors."""
    n_bytes = block.shape[1] * block.itemsize
    if n_bytes < MIN_VECTOR_BYTES:
        return np.full(len(block), -1)
    vectors = np.ascontiguousarray(block).view(f"V{n_bytes}")[:, 0].tolist()
    labels = np.fromiter(map(hash, vectors), np.int64, len(vectors))  # 64 bits, never -1
    labels[~block.any(axis=1)] = -1
    return labels


class VectorWindow:
    """Detector of equal vectors under different token ids, in one row of 1,024 tokens or two neighbouring ones.

    Token ids may share one embedding (unused rows of a vocabulary): then vectors are equal from the first component on,
    until an attention layer mixes in earlier tokens. So equality in a later component is a problem only if the tokens
    differ in an earlier one, and equality in the first component only if they differ in the second.
    """

    def __init__(self) -> None:
        """Begin without an earlier row."""
        self._before: tuple[np.ndarray, Mapping[str, ChunkFindings]] | None = None
        """Token ids and chunks of the row before."""

    def check(self, chunks: Mapping[str, "ChunkFindings"], ids: np.ndarray) -> Iterator[Problem]:
        """Yield a Problem for each component in which different token ids share an output; call it row after row.

        `chunks` has the findings of each component's chunk by the array's path, in order, all with labels.
        """
        before, self._before = self._before, (ids, chunks)
        labels = {chunk.key: chunk.labels for chunk in chunks.values()}
        if before is None or not chunks.keys() <= before[1].keys():  # the row before has lost a chunk
            yield from _shared_vector_problems(labels, ids, 0)
            return
        joined = {chunk.key: np.concatenate([before[1][path].labels, chunk.labels]) for path, chunk in chunks.items()}
        yield from _shared_vector_problems(joined, np.concatenate([before[0], ids]), len(before[0]))


def _shared_vector_problems(labels: Mapping[str, np.ndarray], ids: np.ndarray, first_new: int) -> Iterator[Problem]:
    """Yield a Problem for each component in which tokens of different ids share a vector, one of them being new.

    New tokens are those from `first_new` on.
    """
    if len(labels) < 2:
        return
    apart = list(labels.values())[1]
    for index, (key, label) in enumerate(labels.items()):
        shared = _n_shared_vectors(label, ids, apart, first_new)
        if shared:
            yield Problem(key, "repeated", f"{key!r}: {shared} vectors stand under more than one token id")
        # Joint label: equal for tokens whose vectors were equal in every component so far.
        apart = label if index == 0 else apart * np.int64(0x9E3779B97F4A7C15 - 2**64) + label


def _n_shared_vectors(label: np.ndarray, ids: np.ndarray, apart: np.ndarray, first_new: int) -> int:
    """Return how many labels are shared by two tokens, one of them new, that differ in `ids` and in `apart`.

    New tokens are those from `first_new` on.
    """
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
    """Detector of rows whose block of an array equals that of an earlier row although their tokens differ.

    It needs 8 bytes of memory per chunk.
    """

    def __init__(self, paths: list[str], n_rows: int, ids_and_positions: Callable[[int], np.ndarray]) -> None:
        """Reserve a hash for each row of each array.

        `ids_and_positions` returns the token ids and positions of a row.
        """
        self._marks = {path: np.zeros(n_rows, np.int64) for path in paths}
        self._ids_and_positions_of = ids_and_positions

    @staticmethod
    def block_hash(block: np.ndarray) -> int | None:
        """Return a hash of a block's bytes; None for a constant or blank block, which different rows may share."""
        if block.size < 2 or (block == block.flat[0]).all() or (_is_zero_or_nan(block[0]) and _is_zero_or_nan(block)):
            return None
        return hash(np.ascontiguousarray(block).tobytes())

    def check(self, path: str, row: int, mark: int | None) -> Iterator[Problem]:
        """Yield a Problem if an earlier row has the same block hash, `mark`, in this array, but other tokens.

        Call it for rows in ascending order.
        """
        if mark is None:
            return
        marks = self._marks[path]
        equal = np.flatnonzero(marks == mark)
        marks[row] = mark
        if not len(equal):
            return
        if not np.array_equal(self._ids_and_positions_of(int(equal[0])), self._ids_and_positions_of(row)):
            yield Problem(f"row {row}", "repeated", f"row {row} of {path!r} equals row {equal[0]} byte for byte")


def _is_zero_or_nan(block: np.ndarray) -> bool:
    """Return whether all values are zero or NaN, as those of the measure `swallowed` may rightly be."""
    return bool(((block == 0) | (block != block)).all())


class ChunkFindings(NamedTuple):
    """Findings in one chunk of a row: its problems, and hashes to compare with other rows."""

    key: str
    problems: list[Problem]
    mark: int | None = None
    """Hash of its block from `RepeatedRows.block_hash`."""
    labels: np.ndarray = np.empty(0, np.int64)
    """`vector_labels` of a chunk of states; empty for other arrays."""


class RowStatistics:
    """Checks of the numbers in a run's rows: each chunk alone, and rows with each other.

    Call `check_chunk` for every chunk of a row, in any thread, then `check_row`; rows ascend.
    """

    def __init__(self, run: Run) -> None:
        """Read what the checks need: token ids, positions, and the components that each adapter leaves alone."""
        self._components = run.component_paths
        self._known = {entry.path for entry in array_specs(stored_spec(run.attributes, run.arrays, run.read_static))}
        self._logical = {
            path: str(array.attributes.get("dtype_logical", "float32")) for path, array in run.arrays.items()
        }
        self._ids_and_positions = np.stack([run.read_static(f"tokens/{name}") for name in ("token_id", "position")])
        by_row = [path for path, array in run.arrays.items() if array.by_row]
        self._repeated = RepeatedRows(by_row, run.n_rows, self._ids_and_positions_of)
        self._windows = {name: VectorWindow() for name in ("base", "adapted")}
        self._unadapted = {name: run.adapter(name)["rank"].values == 0 for name in run.adapters}

    def check_chunk(self, path: str, key: str, row: int, block: np.ndarray) -> ChunkFindings:
        """Return the problems in a chunk's numbers, and hashes that let `check_row` find repeats across rows.

        `block` is as stored.
        """
        names = path.split("/")
        if path not in self._known:  # of a newer writer
            return ChunkFindings(key, [])
        if block.dtype == np.int32:  # token ids, whose range was checked when they were decoded
            return ChunkFindings(key, [], self._repeated.block_hash(block))
        wide = widen_block(block, self._logical[path])
        unadapted = self._unadapted[names[1]] if names[0] == "adapters" else None
        _, position = self._ids_and_positions_of(row)
        problems = list(value_problems(key, wide, row=row, position=position, unadapted=unadapted))
        mark = self._repeated.block_hash(block)
        if names[0] != "states" or any(problem.kind == "blank" for problem in problems):
            return ChunkFindings(key, problems, mark)
        return ChunkFindings(key, problems, mark, vector_labels(block))

    def check_row(self, row: int, findings: Mapping[str, ChunkFindings]) -> Iterator[Problem]:
        """Yield every Problem of a row: those in its chunks, and blocks or vectors that repeat others.

        `findings` has the result of `check_chunk` for each of the row's arrays, by path.
        """
        for path, chunk in findings.items():
            yield from chunk.problems
            yield from self._repeated.check(path, row, chunk.mark)
        token_id, _ = self._ids_and_positions_of(row)
        for name, window in self._windows.items():
            paths = (f"states/{component}/{name}" for component in self._components)
            chunks = {path: findings[path] for path in paths if path in findings and len(findings[path].labels)}
            if chunks:
                yield from window.check(chunks, token_id)

    def _ids_and_positions_of(self, row: int) -> np.ndarray:
        """Return token ids and positions of a row's tokens, int (2, token)."""
        return self._ids_and_positions[:, row * ROW_TOKENS : (row + 1) * ROW_TOKENS]
