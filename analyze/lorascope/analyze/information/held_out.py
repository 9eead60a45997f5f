"""Nearest neighbours in few directions: found on one half of the samples, looked at on the other."""

from collections.abc import Callable
from functools import partial

import numpy as np

from .gaussian import normal_scores
from .ksg import ksg
from .projections import canonical_axes, halves, project

__all__ = ["cca_ksg", "quadratic_cca_ksg", "radial_ksg"]

_Groups = tuple[np.ndarray, np.ndarray]

N_JOINT = 2
"""Canonical pairs that go into neighbour distances together; in more dimensions these lose more than they find."""
ROWS_A_FEATURE = 20
"""Rows for each quadratic feature of a side: half of them to fit on, for the features of both sides."""
RIDGE = 1e-4
"""Added to the variance of each feature, which has variance 1."""
LEAST_NORM = 1e-3
"""Added to norms before their logarithm is taken: that of the median of a single coordinate is 0."""
OFF_CENTRE = 1e-9
"""Added to scores before norms are taken: of a single coordinate, those of ranks r and n + 1 - r would tie."""


def cca_ksg(x: np.ndarray, y: np.ndarray, *, k: int, groups_x: np.ndarray, groups_y: np.ndarray, seed: int) -> float:
    """Mutual information in nats between the two first pairs of canonical directions, by neighbours.

    Parameters
    ----------
    x, y
        Float64 (n, dimension): normal scores of whatever was measured.
    k
        Neighbours.
    groups_x, groups_y
        Int64 (n,): samples of both sides; see `ksg.ksg_local`. Those of x are halved.
    seed
        Seed of the halves.

    Raises
    ------
    ValueError
        If a half has too few rows for this many dimensions.

    Notes
    -----
    Directions are fitted on one half of the samples and the value is taken from the other, then the other way round,
    and the two averaged: what was picked because it happened to fit can't raise the value. By data processing few
    directions know less than all, so that apart from the neighbours' own error it is a lower bound. A sum over pairs
    would be none: pairs without correlation may share a scale or a cluster, which it counts once for each.

    References
    ----------
    Hotelling 1936, Biometrika 28, 321, on canonical directions.
    """
    return _cross_fitted(x, y, 0.0, partial(_ksg_value, k=k), groups_x, groups_y, seed)


def quadratic_cca_ksg(
    x: np.ndarray, y: np.ndarray, *, k: int, groups_x: np.ndarray, groups_y: np.ndarray, seed: int
) -> float:
    """Mutual information in nats between two canonical pairs of quadratic features, by neighbours.

    Parameters and errors as of `cca_ksg`, which finds what correlates; this finds what correlates after products and
    norms: shared scales, spirals, signs.

    Notes
    -----
    Features of a side are its coordinates, their products, the norm r, ln r, and each coordinate times r; squares alone
    in place of products, or r and ln r alone, where there are fewer than 20 rows for each feature. Of what the
    directions give on the other half, normal scores are taken.
    """
    features = _features(x), _features(y)
    return _cross_fitted(*features, RIDGE, partial(_ksg_of_scores, k=k), groups_x, groups_y, seed)


def radial_ksg(x: np.ndarray, y: np.ndarray, *, k: int, groups_x: np.ndarray, groups_y: np.ndarray) -> float:
    """Mutual information in nats between the norms of both sides, by neighbours: what a shared scale tells.

    Of one coordinate's scores it is what their sizes share. Of elliptical distributions without correlation, Student's
    for instance, the norms of the values themselves are all of it, and those of scores nearly so.
    """
    sides = [normal_scores(np.linalg.norm(side + OFF_CENTRE, axis=1, keepdims=True)) for side in (x, y)]
    return float(ksg(*sides, k=(k,), groups=(groups_x, groups_y))[0])


def _ksg_value(u: np.ndarray, v: np.ndarray, groups: _Groups, *, k: int) -> float:
    return float(ksg(u, v, k=(k,), groups=groups)[0])


def _ksg_of_scores(u: np.ndarray, v: np.ndarray, groups: _Groups, *, k: int) -> float:
    return _ksg_value(normal_scores(u), normal_scores(v), groups, k=k)


def _features(x: np.ndarray) -> np.ndarray:
    """Float64 (n, feature): as rich a set as there are rows to fit it on."""
    n, d = x.shape
    r = np.linalg.norm(x, axis=1, keepdims=True)
    radial = np.concatenate([r, np.log(r + LEAST_NORM)], axis=1)
    first, second = np.triu_indices(d)
    for columns in ((first, second), (np.arange(d), np.arange(d))):
        if ROWS_A_FEATURE * (2 * d + 2 + len(columns[0])) <= n:
            return np.concatenate([x, x[:, columns[0]] * x[:, columns[1]], radial, x * r], axis=1)
    return radial


def _cross_fitted(
    x: np.ndarray,
    y: np.ndarray,
    ridge: float,
    value: Callable[[np.ndarray, np.ndarray, _Groups], float],
    groups_x: np.ndarray,
    groups_y: np.ndarray,
    seed: int,
) -> float:
    """Mean of value(u, v, groups) over both halves, with canonical directions u, v of the other one."""
    first = halves(groups_x, seed=seed)
    found = []
    for fitted in (first, ~first):
        along_x, along_y = canonical_axes(x[fitted], y[fitted], N_JOINT, ridge=ridge)
        u, v = project(x[~fitted], along_x), project(y[~fitted], along_y)
        found.append(value(u, v, (groups_x[~fitted], groups_y[~fitted])))
    return float(np.mean(found))
