"""InfoNCE, a lower bound of mutual information, with a kernel critic fitted on other rows than it is tried on."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float64, Int64, Shaped
from scipy.special import logsumexp, ndtri  # type: ignore[import-untyped]

from .projections import canonical_axes, project
from .sides import check_sides

__all__ = [
    "HeldOutBound",
    "check_rows",
    "choice_halves",
    "error_of_mean",
    "group_halves",
    "infonce",
    "paired_coordinates",
]

LEAST_ROWS = 32
"""Fewer rows leave too few to fit a critic on."""
LEAST_HALF = 12
"""Rows of the smaller half; of half of that, something can still be chosen."""
LEAST_GROUPS = 4
"""Two in each half: a row's counterpart is compared with those of other groups."""
MOST_PAIRS = 8
"""Canonical pairs that are looked at."""
ROWS_PER_AXIS = 8
"""A side that has more dimensions than a share of its rows is reduced to so many principal axes first."""
RIDGE = 1e-3
"""Added to the variance of each score, of 1, before canonical directions are found."""
BANDWIDTHS = (0.005, 0.01, 0.02, 0.04, 0.07, 0.1, 0.15, 0.2, 0.3, 0.45, 0.7)
"""Of kernels on coordinates of variance 1."""
JOINT_PAIRS = (2, 3)
"""Numbers of canonical pairs whose kernels are tried together, as one kernel of that many dimensions."""
LEAST_RATIO = 1e-3
"""Share of independence that is mixed into each kernel ratio: far from all centres it would be 0 by 0."""
MOST_CENTRES = 2500
"""Rows that kernels are centred on: all that are fitted on, of up to 5,000 in all."""
CHOICE_ROWS = 400
"""Rows that bandwidths are chosen on."""
BLOCK_ROWS = 1024
"""Rows and columns of the table of pairs that are worked on at a time."""


class HeldOutBound(NamedTuple):
    """A lower bound that was taken from rows which nothing was fitted on."""

    value_nats: float
    """As it came out: noise may lead below 0."""
    standard_error_nats: float
    """Of rows or groups drawn anew, with everything that was fitted as it is."""
    ceiling_nats: float
    """The most it could have been for so many rows."""


class Kernel(NamedTuple):
    """A Gaussian product kernel on some coordinates of both sides."""

    columns: tuple[int, ...]
    bandwidth: float


class _Rows(NamedTuple):
    """Coordinates of both sides, float64 (row, pair), and group labels (row,)."""

    u: np.ndarray
    v: np.ndarray
    labels: np.ndarray

    def take(self, rows: np.ndarray) -> "_Rows":
        return _Rows(*(values[rows] for values in self))


def infonce(
    x: Float[np.ndarray, "row feature_x"],
    y: Float[np.ndarray, "row feature_y"],
    *,
    groups: Shaped[np.ndarray, " row"] | None = None,
    seed: int = 0,
) -> HeldOutBound:
    """InfoNCE bound of the mutual information of x and y, held out, with its standard error and ceiling, in nats.

    Parameters
    ----------
    x, y
        Samples of both sides, row by row.
    groups
        Labels of rows that aren't independent of each other: halves are made of whole groups, and rows of one group
        aren't compared. By default every row is alone.
    seed
        Of the halves.

    Raises
    ------
    ValueError
        If a side isn't (row, feature), isn't finite, or is constant, be it only in a part that maps are fitted on; if
        sides differ in rows, or labels aren't one a row; if there are fewer than 32 rows or 4 groups, or one group is
        so large that the half without it has fewer than 12 rows.

    Notes
    -----
    With a critic f that is fitted on one half, of the other half's rows the mean over i of

        f(x_i, y_i) - ln mean_j exp f(x_i, y_j),

    where j runs over i itself and the n_i - 1 rows of other groups. The halves then change places, and all rows are
    averaged. Whatever f is, for independent groups of one row the expectation is at most the mutual information, and
    the value itself at most the mean of ln n_i, the ceiling. With larger groups it is so up to terms of the order of
    1/groups, as rows of one group share their counterparts.

    The critic works on `paired_coordinates`. For a kernel K of bandwidth h and centres c of the fitting half, it is the
    logarithm of the ratio of kernel densities n sum_c K(u, u_c) K(v, v_c) / (sum_c K(u, u_c) sum_c K(v, v_c)), into
    which 0.001 of independence is mixed. Pairs are taken up in the order of what each says alone, with its own
    bandwidth, while the sum of their logarithms says more; one kernel over two or three canonical pairs at once
    replaces them if it says more. What says more is judged inside the fitting half: coordinates and centres by one half
    of it, the bound by 400 rows of the other. Where nothing says anything, the critic is constant and the bound 0.

    Time: rows^2 times centres, up to 2,500, for each kernel; 1 to 7 s for 5,000 rows on a core. Memory: a few blocks of
    1,024 x rows.

    References
    ----------
    van den Oord, Li and Vinyals 2018, arXiv 1807.03748, eq. 4 and 5; Poole et al. 2019, arXiv 1905.06922, section 2.

    Examples
    --------
    >>> x = np.random.default_rng(0).normal(size=(400, 1))
    >>> found = infonce(x, x)  # infinite in truth
    >>> round(found.ceiling_nats, 3), found.value_nats > 3
    (5.298, True)
    """
    labels = check_rows(x, y, groups)
    terms, ceilings = np.empty(len(x)), np.empty(len(x))
    first = group_halves(labels, seed)
    for fitted in (first, ~first):
        kernels = _chosen_kernels(x[fitted], y[fitted], labels[fitted], seed)
        rows = _Rows(*paired_coordinates(x, y, fitted), labels)
        centres = rows.take(_some(fitted, MOST_CENTRES, seed))
        terms[~fitted], ceilings[~fitted] = _terms(rows.take(~fitted), centres, kernels)
    return HeldOutBound(float(terms.mean()), error_of_mean(terms, labels), float(ceilings.mean()))


def check_rows(x: np.ndarray, y: np.ndarray, groups: np.ndarray | None) -> Int64[np.ndarray, " row"]:
    """Labels of groups numbered from 0; raises ValueError as `infonce` says."""
    check_sides(x, y, least_rows=LEAST_ROWS)
    for side, name in ((x, "x"), (y, "y")):
        if (side == side[0]).all():
            raise ValueError(f"`{name}` is the same in all {len(side)} rows; nothing depends on it")
    if groups is None:
        return np.arange(len(x))
    if groups.shape != (len(x),):
        raise ValueError(f"`groups` has shape {groups.shape}; it must be ({len(x)},), a label for each row")
    found, labels = np.unique(groups, return_inverse=True)
    if len(found) < LEAST_GROUPS:
        raise ValueError(
            f"`groups` holds {len(found)} groups; two halves need at least {LEAST_GROUPS}: give more, or leave "
            "`groups` out where rows are independent of each other"
        )
    if _smaller_half(labels) < LEAST_HALF:
        raise ValueError(
            f"of the {len(x)} rows one group holds {np.bincount(labels).max()}, which leaves {_smaller_half(labels)} "
            f"to the other half; at least {LEAST_HALF} are needed: give more groups, or fewer rows of the largest"
        )
    return np.asarray(labels, np.int64)


def group_halves(labels: Int64[np.ndarray, " row"], seed: int) -> Bool[np.ndarray, " row"]:
    """Which rows are in the first half: of whole groups, at least two in each half where there are four.

    Groups are dealt out by size, largest first, to one half, twice to the other, to the first again and so on; equal
    ones at random.
    """
    sizes = np.bincount(labels)
    order = np.random.default_rng(seed).permutation(len(sizes))
    order = order[np.argsort(-sizes[order], kind="stable")]
    is_first = np.zeros(len(sizes), np.bool_)
    is_first[order[0::4]] = is_first[order[3::4]] = True
    return np.asarray(is_first[labels])


def choice_halves(
    labels: Int64[np.ndarray, " row"], seed: int
) -> tuple[Int64[np.ndarray, " row"], Bool[np.ndarray, " row"]]:
    """Labels of a fitting half, numbered from 0, and which of its rows are in its own first half.

    Where groups are too few, or one too large, to be halved once more, each row is taken for a group: what is chosen
    may then be worse, but the bound, which other rows give, is still one.
    """
    numbered = np.unique(labels, return_inverse=True)[1]
    if numbered.max() + 1 < LEAST_GROUPS or _smaller_half(numbered) < LEAST_HALF // 2:
        numbered = np.arange(len(labels))
    return numbered, group_halves(numbered, seed)


def paired_coordinates(
    x: Float[np.ndarray, "row feature_x"], y: Float[np.ndarray, "row feature_y"], fitted: Bool[np.ndarray, " row"]
) -> tuple[Float64[np.ndarray, "row pair"], Float64[np.ndarray, "row pair"]]:
    """Coordinates of both sides, pair by pair, by maps that were fitted on some of the rows.

    At most 8 canonical pairs, each of variance about 1, and after them, where a side has several features, a pair of
    norms.

    Parameters
    ----------
    x, y
        Samples of both sides, row by row.
    fitted
        The rows that maps are fitted on.

    Raises
    ------
    ValueError
        If a side is constant in the rows fitted.

    Notes
    -----
    Each feature goes to its normal score, the quantile of a standard normal at its rank among the rows fitted; between
    these, ranks are interpolated, and beyond them they stay. Of a side with more features than an eighth of the rows
    fitted, only so many principal axes of the scores are kept. Canonical directions have a ridge of 0.001. The norm is
    that of a row's scores, again as a normal score; a side of one feature enters as it is. Norms tell what a shared
    scale does to features without correlation, as in a Student distribution.
    """
    scores_x, scores_y = _normal_scores(x, fitted), _normal_scores(y, fitted)
    kept_x, kept_y = _principal(scores_x, fitted), _principal(scores_y, fitted)
    axes = canonical_axes(kept_x[fitted], kept_y[fitted], MOST_PAIRS, ridge=RIDGE)
    u, v = project(kept_x, axes.x), project(kept_y, axes.y)
    if scores_x.shape[1] == scores_y.shape[1] == 1:
        return u, v
    return np.hstack([u, _norm(scores_x, fitted)]), np.hstack([v, _norm(scores_y, fitted)])


def error_of_mean(terms: Float64[np.ndarray, " row"], labels: Int64[np.ndarray, " row"]) -> float:
    """Standard error of the mean of terms whose groups are independent of each other.

    Notes
    -----
    sqrt(G/(G - 1) sum_g s_g^2)/n with the sums s_g of the G groups' differences from the mean.
    """
    sums = np.bincount(labels, terms - terms.mean())
    return float(np.sqrt(len(sums) / (len(sums) - 1) * (sums**2).sum()) / len(terms))


def _smaller_half(labels: np.ndarray) -> int:
    """Rows in it; groups of one size change places with the seed, sizes don't."""
    first = group_halves(labels, 0)
    return int(min(first.sum(), (~first).sum()))


def _normal_scores(side: np.ndarray, fitted: np.ndarray) -> np.ndarray:
    scores = np.empty(side.shape)
    for column, values in enumerate(side.T):
        known, counts = np.unique(values[fitted], return_counts=True)
        middles = np.cumsum(counts) - counts / 2
        scores[:, column] = ndtri(np.interp(values, known, middles / fitted.sum()))
    return scores


def _principal(scores: np.ndarray, fitted: np.ndarray) -> np.ndarray:
    """The scores, or as many principal axes as the rows fitted allow."""
    n_axes = max(1, int(fitted.sum()) // ROWS_PER_AXIS)
    if scores.shape[1] <= n_axes:
        return scores
    return np.asarray(scores @ np.linalg.svd(scores[fitted], full_matrices=False)[2][:n_axes].T)


def _norm(scores: np.ndarray, fitted: np.ndarray) -> np.ndarray:
    if scores.shape[1] == 1:
        return scores
    return _normal_scores(np.linalg.norm(scores, axis=1, keepdims=True), fitted)


def _chosen_kernels(x: np.ndarray, y: np.ndarray, labels: np.ndarray, seed: int) -> tuple[Kernel, ...]:
    """The kernels that say most about part of the fitting half when centred on the rest of it."""
    labels, fitted = choice_halves(labels, seed)
    rows = _Rows(*paired_coordinates(x, y, fitted), labels)
    queries, centres = rows.take(_some(~fitted, CHOICE_ROWS, seed)), rows.take(_some(fitted, MOST_CENTRES, seed))

    def said(kernels: tuple[Kernel, ...]) -> float:
        return float(_terms(queries, centres, kernels)[0].mean())

    def best(columns: Iterable[int]) -> tuple[float, Kernel]:
        return max((said((kernel,)), kernel) for kernel in (Kernel(tuple(columns), h) for h in BANDWIDTHS))

    chosen: tuple[Kernel, ...] = ()
    most = 0.0
    n_columns = rows.u.shape[1]
    for alone, kernel in sorted((best([column]) for column in range(n_columns)), reverse=True):
        if alone > 0 and (value := said((*chosen, kernel))) > most:
            chosen, most = (*chosen, kernel), value
    n_pairs = n_columns - (x.shape[1] > 1 or y.shape[1] > 1)
    for value, kernel in (best(range(n)) for n in JOINT_PAIRS if n <= n_pairs):
        if value > most:
            chosen, most = (kernel,), value
    return chosen


def _some(among: np.ndarray, most: int, seed: int) -> np.ndarray:
    """Places of rows, drawn at random where there are more than so many, int64 (row,)."""
    return np.sort(np.random.default_rng(seed).permutation(np.flatnonzero(among))[:most])


def _terms(rows: _Rows, centres: _Rows, kernels: tuple[Kernel, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Each row's contribution to the bound, and the most that it could have been, float64 (row,) each."""
    terms, ceilings = np.empty(len(rows.u)), np.empty(len(rows.u))
    for start in range(0, len(terms), BLOCK_ROWS):
        own = np.arange(start, min(start + BLOCK_ROWS, len(terms)))
        critic = _critic(rows.take(own), rows, centres, kernels)
        alike = rows.labels[own, None] == rows.labels
        alike[own - start, own] = False
        critic[alike] = -np.inf
        ceilings[own] = np.log(len(rows.u) - alike.sum(axis=1))
        terms[own] = critic[own - start, own] - logsumexp(critic, axis=1) + ceilings[own]
    return terms, ceilings


def _critic(rows: _Rows, others: _Rows, centres: _Rows, kernels: tuple[Kernel, ...]) -> np.ndarray:
    """Sum of log ratios between u of some rows and v of others, float64 (row, other)."""
    critic = np.zeros((len(rows.u), len(others.v)))
    for columns, bandwidth in kernels:
        near_u = _weights(rows.u[:, columns], centres.u[:, columns], bandwidth)
        for start in range(0, len(others.v), BLOCK_ROWS):
            block = slice(start, start + BLOCK_ROWS)
            near_v = _weights(others.v[block, columns], centres.v[:, columns], bandwidth)
            ratio = near_u @ near_v.T * np.float32(len(centres.u) * (1 - LEAST_RATIO)) + np.float32(LEAST_RATIO)
            critic[:, block] += np.log(ratio)
    return critic


def _weights(points: np.ndarray, centres: np.ndarray, bandwidth: float) -> np.ndarray:
    """Each point's kernel on all centres, of sum 1, (point, centre): float32, since any critic gives a bound."""
    points, centres = ((side / bandwidth).astype(np.float32) for side in (points, centres))
    logs = points @ centres.T
    logs -= np.square(centres).sum(axis=1) / 2
    logs -= logs.max(axis=1, keepdims=True)
    weights = np.exp(logs, out=logs)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))
