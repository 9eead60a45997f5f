"""Mutual information from distances to nearest neighbours, by Kraskov, Stögbauer and Grassberger."""

from functools import lru_cache

import numpy as np
from scipy.special import digamma  # type: ignore[import-untyped]

from lorascope.kernels.neighbours import BLOCK, neighbour_counts, neighbour_counts_of_numbers

SIGNIFICANT_SE = 2
"""Standard errors that are subtracted from the difference between near and far neighbours."""

_Groups = np.ndarray | tuple[np.ndarray, np.ndarray] | None
"""Labels (n,) of groups for both sides, or for each side, or none."""


def ksg(x: np.ndarray, y: np.ndarray, *, k: int = 3, groups: _Groups = None) -> float:
    """Return the nearest-neighbour estimate (KSG 1) of mutual information in nats: the mean of `ksg_local`."""
    return float(ksg_local(x, y, k=k, groups=groups).mean())


def ksg_local(x: np.ndarray, y: np.ndarray, *, k: int = 3, groups: _Groups = None) -> np.ndarray:
    """Return the local mutual information in nats of every pair, float64 (n,); its mean is the estimate.

    Parameters
    ----------
    x, y
        Float64 (n, dimension), finite. Distances depend on the relative scales of the coordinates of a side.
    k
        Number of nearest neighbours, in the maximum norm.
    groups
        Labels (n,) of pairs that belong together, such as tokens of a sample: pairs of one group aren't neighbours. Two
        arrays if the sides have different groups, as after a shuffle. By default each pair is a group.

    Raises
    ------
    ValueError
        If a pair has fewer than k pairs of other groups, or its k-th neighbour has distance 0.

    Notes
    -----
    It is psi(k) + psi(M + 1) - psi(n_x + 1) - psi(n_y + 1). M is the number of pairs of other groups, and n_x and n_y
    count those whose distance in x, or in y, is below that of the k-th neighbour. Without groups M + 1 = n. Excluding a
    group is Theiler's window for samples: tokens of one text are close because they follow each other.

    References
    ----------
    Kraskov, Stögbauer and Grassberger 2004, Phys. Rev. E 69, 066138, eq. 8. Theiler 1986, Phys. Rev. A 34, 2427.
    """
    return np.asarray(_nearest_and_kth_local(x, y, k, groups)[1])


def extrapolated_ksg(
    x: np.ndarray, y: np.ndarray, *, k: int = 3, groups: _Groups = None, rows: np.ndarray | None = None
) -> float:
    """Return the nearest-neighbour estimate (KSG 1) in nats, extrapolated to distance 0 if that raises it.

    Parameters
    ----------
    x, y, k, groups
        As for `ksg_local`.
    rows
        Pairs that the mean is over, by default all; neighbours are among all pairs.

    Notes
    -----
    Neighbours average over structure within their distance, so that an estimate from k of them is too low by about c
    k^g. The difference between 1 and k neighbours, minus twice its standard error, is multiplied by k / (k - 1), as if
    g were 1, and added; the result is at most `ksg_ceiling`. In two dimensions g is 1 for smooth densities and 1/2 for
    edges, and smaller in more dimensions: then the result is still too low, not too high.
    """
    near, far = _nearest_and_kth_local(x, y, k, groups, rows)
    value = float(far.mean())
    if k == 1 or not np.isfinite(near).all():
        return value
    more = near - far
    labels = _side_labels(groups, len(x))[0]
    by_group = np.bincount(labels if rows is None else labels[rows], weights=more - more.mean())
    certain = float(more.mean() - SIGNIFICANT_SE * np.sqrt((by_group**2).sum()) / len(more))
    return max(value, min(value + k / (k - 1) * certain, ksg_ceiling(len(x), k)))


def _nearest_and_kth_local(
    x: np.ndarray, y: np.ndarray, k: int, groups: _Groups, rows: np.ndarray | None = None
) -> np.ndarray:
    """Return local mutual information (2, row) in nats by the nearest neighbour (NaN at distance 0) and by the k-th."""
    n = len(x)
    labels = _side_labels(groups, n)
    others = n - _group_sizes(*labels)
    if others.min() < k:
        raise ValueError(
            f"`k` is {k}, and a pair has {int(others.min())} pairs of other groups; give more groups, or a smaller k"
        )
    rows = np.arange(n) if rows is None else rows
    n_x, n_y, distances = _neighbour_counts(x, y, *labels, rows, k)
    if not distances[1].all():
        raise ValueError(
            f"{int((distances[1] == 0).sum())} of {len(rows)} pairs occur more than {k} times: nearest neighbours "
            "need continuous data; take each pair once, or add noise far below what matters"
        )
    psi = _digamma_after(n)
    return np.asarray(np.where(distances > 0, psi[others[rows]] + psi[[[0], [k - 1]]] - psi[n_x] - psi[n_y], np.nan))


@lru_cache(maxsize=32)
def _digamma_after(n: int) -> np.ndarray:
    """Return psi(m + 1) for m from 0 to n - 1, float64 (n,)."""
    return np.asarray(digamma(np.arange(1, n + 1)))


def ksg_ceiling(n: int, k: int) -> float:
    """Return the largest possible KSG estimate in nats of n pairs without groups: psi(n) - psi(k)."""
    return float(digamma(n) - digamma(k))


def _side_labels(groups: _Groups, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return int64 labels (n,), at least 0 and below n, of the groups of both sides."""
    sides = groups if isinstance(groups, tuple) else (groups, groups)
    first, second = (_small_labels(np.arange(n) if side is None else np.asarray(side)) for side in sides)
    return first, second


def _small_labels(side: np.ndarray) -> np.ndarray:
    """Return labels as int64 (n,), at least 0 and below n."""
    if side.dtype == np.int64 and side.min() >= 0 and side.max() < len(side):
        return side
    return np.asarray(np.unique(side, return_inverse=True)[1].astype(np.int64))


def _group_sizes(groups_x: np.ndarray, groups_y: np.ndarray) -> np.ndarray:
    """Return the number of pairs that share a group with each pair, including itself, int64 (n,)."""
    in_x, in_y = np.bincount(groups_x)[groups_x], np.bincount(groups_y)[groups_y]
    if np.array_equal(groups_x, groups_y):
        return np.asarray(in_x)
    both = groups_x * (groups_y.max() + 1) + groups_y
    distinct, inverse = np.unique(both, return_inverse=True)
    return np.asarray(in_x + in_y - np.bincount(inverse, minlength=len(distinct))[inverse])


def _neighbour_counts(
    x: np.ndarray, y: np.ndarray, labels_x: np.ndarray, labels_y: np.ndarray, rows: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return how many points are nearer than the nearest and the k-th pair, in x and in y, and these distances.

    Each is (2, row), the counts int64.
    """
    n, m = len(x), len(rows)
    n_x, n_y, distances = np.empty((2, m), np.int64), np.empty((2, m), np.int64), np.empty((2, m))
    order = np.argsort(x[:, 0])
    places = np.full(n, -1)
    places[rows] = np.arange(m)
    if x.shape[1] == y.shape[1] == 1:
        of_x, of_y = (np.asarray(side[order, 0], np.float64) for side in (x, y))
        neighbour_counts_of_numbers(
            of_x, of_y, np.argsort(of_y), labels_x[order], labels_y[order], places[order], k, n_x, n_y, distances
        )
    else:
        # Blocks are in ascending order; within a block the order is random, but always the same.
        order = order[np.lexsort((np.random.default_rng(0).random(n), np.arange(n) // BLOCK))]
        of_x, of_y = (np.ascontiguousarray(side[order].T, np.float64) for side in (x, y))
        starts = np.arange(0, n, BLOCK)
        edges = np.stack([least.reduceat(of_x[0], starts) for least in (np.minimum, np.maximum)], axis=1)
        neighbour_counts(of_x, of_y, edges, labels_x[order], labels_y[order], places[order], k, n_x, n_y, distances)
    return n_x, n_y, distances
