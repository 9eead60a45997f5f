"""Mutual information from distances to nearest neighbours: Kraskov, Stögbauer and Grassberger's two estimators."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import numpy as np
from scipy.special import digamma  # type: ignore[import-untyped]

from ..kernels.neighbours import BLOCK, neighbour_counts

__all__ = ["Norm", "Variant", "ksg", "ksg_ceiling", "ksg_local"]

Norm = Literal["maximum", "euclidean"]
Variant = Literal[1, 2]

_Groups = np.ndarray | tuple[np.ndarray, np.ndarray] | None


def ksg(
    x: np.ndarray,
    y: np.ndarray,
    *,
    k: Sequence[int] = (3,),
    variant: Variant = 1,
    norm: Norm = "maximum",
    groups: _Groups = None,
    n_workers: int = 1,
) -> np.ndarray:
    """Mutual information in nats, float64 (k,), one for each number of neighbours: the mean of `ksg_local`."""
    local = ksg_local(x, y, k=k, variant=variant, norm=norm, groups=groups, n_workers=n_workers)
    return np.asarray(local.mean(axis=0))


def ksg_local(
    x: np.ndarray,
    y: np.ndarray,
    *,
    k: Sequence[int] = (3,),
    variant: Variant = 1,
    norm: Norm = "maximum",
    groups: _Groups = None,
    n_workers: int = 1,
) -> np.ndarray:
    """Local mutual information in nats of every pair, float64 (n, k): their mean is the estimate.

    Parameters
    ----------
    x, y
        Float64 (n, dimension), finite. Distances depend on the scale of a coordinate beside the others of its side.
    k
        Numbers of neighbours, several of which cost little more than the largest.
    variant
        1: one radius, open, for both sides; 2: a radius for each side, closed. 2 has less variance and more bias.
    norm
        Norm of each side; a pair's distance is the larger of its sides'.
    groups
        Labels (n,) of what belongs together, such as tokens of a sample: pairs of one group are no neighbours of each
        other. Two arrays where the sides have groups of their own, as after a shuffle. By default each pair is alone.
    n_workers
        Threads; no number depends on it.

    Raises
    ------
    ValueError
        If some pair has fewer than k pairs of other groups, or its k-th neighbour lies on it.

    Notes
    -----
    With M others outside a pair's group, variant 1 is psi(k) + psi(M + 1) - psi(n_x + 1) - psi(n_y + 1) and variant 2
    psi(k) - 1/k + psi(M + 1) - psi(n_x) - psi(n_y). Without groups M + 1 = n. Excluding a group is Theiler's window for
    samples: tokens of one text lie near each other because they follow each other.

    References
    ----------
    Kraskov, Stögbauer and Grassberger 2004, Phys. Rev. E 69, 066138, eqs. 8 and 9. Theiler 1986, Phys. Rev. A 34, 2427.
    """
    labels = _labels(groups, len(x))
    others = len(x) - _group_mates(*labels)
    most = max(k)
    if others.min() < most:
        raise ValueError(
            f"`k` is {most}, and a pair has {int(others.min())} pairs of other groups; give pairs of more groups, or a "
            "smaller k"
        )
    ks = np.unique(k)
    n_x, n_y, nearest = _counts(x, y, labels, ks, variant == 2, norm == "euclidean", n_workers)
    if not nearest[:, 0].all():
        raise ValueError(
            f"{int((nearest[:, 0] == 0).sum())} of {len(x)} pairs occur more than {ks[0]} times: nearest neighbours "
            "need continuous data; take each pair once, or add noise far below what matters"
        )
    local = digamma(others + 1)[:, None] + digamma(ks)
    if variant == 2:
        local = local - 1 / ks - digamma(n_x) - digamma(n_y)
    else:
        local = local - digamma(n_x + 1) - digamma(n_y + 1)
    return np.asarray(local[:, np.searchsorted(ks, k)])


def ksg_ceiling(n: int, k: int) -> float:
    """Most that n pairs without groups can give, nats: psi(n) - psi(k), where no side has another pair as near."""
    return float(digamma(n) - digamma(k))


def _labels(groups: _Groups, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Int64 labels of both sides."""
    if groups is None:
        return np.arange(n), np.arange(n)
    sides = groups if isinstance(groups, tuple) else (groups, groups)
    first, second = (np.unique(side, return_inverse=True)[1].astype(np.int64) for side in sides)
    return first, second


def _group_mates(groups_x: np.ndarray, groups_y: np.ndarray) -> np.ndarray:
    """How many pairs share a group with each, itself included, int64 (n,)."""
    in_x, in_y = np.bincount(groups_x)[groups_x], np.bincount(groups_y)[groups_y]
    both = groups_x * (groups_y.max() + 1) + groups_y
    found, inverse = np.unique(both, return_inverse=True)
    return np.asarray(in_x + in_y - np.bincount(inverse, minlength=len(found))[inverse])


def _counts(
    x: np.ndarray,
    y: np.ndarray,
    labels: tuple[np.ndarray, np.ndarray],
    ks: np.ndarray,
    is_second: bool,
    euclidean: bool,
    n_workers: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points of other groups within each side's radius, int64 (n, k), and the k-th distances; see the kernel."""
    n = len(x)
    order = _order(x[:, 0])
    of_x, of_y = (np.ascontiguousarray(side[order].T, np.float64) for side in (x, y))
    groups_x, groups_y = labels[0][order], labels[1][order]
    starts = np.arange(0, n, BLOCK)
    edges = np.stack([least.reduceat(of_x[0], starts) for least in (np.minimum, np.maximum)], axis=1)
    is_grouped = max(np.bincount(labels[0]).max(), np.bincount(labels[1]).max()) > 1
    n_x, n_y = np.empty((n, len(ks)), np.int64), np.empty((n, len(ks)), np.int64)
    nearest = np.empty((n, len(ks)))

    def scan(start: int, stop: int) -> None:
        options = groups_x, groups_y, is_grouped, ks, is_second, euclidean
        neighbour_counts(of_x, of_y, edges, *options, start, stop, n_x, n_y, nearest)

    _in_workers(scan, n, n_workers)
    back = np.argsort(order)
    return n_x[back], n_y[back], nearest[back]


def _order(values: np.ndarray) -> np.ndarray:
    """Places of points such that blocks ascend, each in an order of its own that is random but always the same."""
    ascending = np.argsort(values, kind="stable")
    shuffled = np.lexsort((np.random.default_rng(0).random(len(values)), np.arange(len(values)) // BLOCK))
    return np.asarray(ascending[shuffled])


def _in_workers(scan: Callable[[int, int], None], n: int, n_workers: int) -> None:
    """Call scan(start, stop) on parts of range(n)."""
    if n_workers == 1 or n < 2000:
        scan(0, n)
        return
    edges = np.linspace(0, n, 8 * n_workers + 1).astype(int).tolist()  # dense parts take longer than others
    with ThreadPoolExecutor(n_workers) as pool:
        list(pool.map(scan, edges[:-1], edges[1:]))
