"""Vectors and rows that stand where others should: equal though the tokens differ."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from itertools import combinations

import numpy as np

from ..errors import Problem

__all__ = ["RepeatedRows", "VectorWindow", "vector_labels"]

MIN_VECTOR_BYTES = 12
"""Vectors of fewer bytes may be equal by chance."""


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
        by_array = {_array(key): found for key, found in before[1].items()} if before else {}
        joined = {
            key: np.concatenate([by_array[_array(key)], label]) if _array(key) in by_array else label
            for key, label in labels.items()
        }
        # A component whose chunk was lost in one of the rows would be shorter than the others.
        if before is None or len({len(label) for label in joined.values()}) > 1:
            joined, all_ids = dict(labels), ids
        else:
            all_ids = np.concatenate([before[0], ids]) if by_array else ids
        yield from _same_vectors(joined, all_ids, len(all_ids) - len(ids))


def _array(key: str) -> str:
    return key.rpartition("/")[0]


def _same_vectors(labels: Mapping[str, np.ndarray], ids: np.ndarray, first_new: int) -> Iterator[Problem]:
    if len(labels) < 2:
        return
    apart = list(labels.values())[1]
    for index, (key, label) in enumerate(labels.items()):
        shared = _n_shared(label, ids, apart, first_new)
        if shared:
            yield Problem(key, "repeated", f"{key!r}: {shared} vectors stand under more than one token id")
        # Joint label: two tokens share it where they were equal in every component so far.
        apart = label if index == 0 else apart * np.int64(0x9E3779B97F4A7C15 - 2**64) + label


def _n_shared(label: np.ndarray, ids: np.ndarray, apart: np.ndarray, first_new: int) -> int:
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
        self._seen = {path: np.zeros(n_rows, np.int64) for path in paths}
        self._tokens = ids_and_positions

    def check(self, path: str, row: int, block: np.ndarray) -> Iterator[Problem]:
        """Compare with the rows before."""
        if block.size < 2 or (block == block.flat[0]).all() or (block != block).all():
            return  # nothing in it tells rows apart, and `value_problems` has its own words for it
        mark = hash(np.ascontiguousarray(block).tobytes())
        seen = self._seen[path]
        equal = np.flatnonzero(seen == mark)
        seen[row] = mark
        if not len(equal):
            return
        if not np.array_equal(self._tokens(int(equal[0])), self._tokens(row)):
            yield Problem(f"row {row}", "repeated", f"row {row} of {path!r} equals row {equal[0]} byte for byte")
