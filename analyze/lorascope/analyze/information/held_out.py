"""Nearest neighbours in few directions: found on one half of the samples, looked at on the other."""

from collections.abc import Callable

import numpy as np

from .gaussian import normal_scores
from .ksg import ksg
from .pairs import Pairs, Settings
from .projections import canonical_axes, halves, project

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


def cca_ksg(scores: Pairs, settings: Settings) -> float:
    """Mutual information in nats between the two first pairs of canonical directions of normal scores, by neighbours.

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
    return _cross_fitted(scores, settings, ridge=0.0, after=np.asarray)


def quadratic_cca_ksg(scores: Pairs, settings: Settings) -> float:
    """Mutual information in nats between two canonical pairs of quadratic features, by neighbours.

    `cca_ksg` finds what correlates; this finds what correlates after products and norms: shared scales, spirals, signs.

    Notes
    -----
    Features of a side are its coordinates, their products, the norm r, ln r, and each coordinate times r; squares alone
    in place of products, or r and ln r alone, where there are fewer than 20 rows for each feature. Of what the
    directions give on the other half, normal scores are taken.
    """
    features = scores._replace(x=_features(scores.x), y=_features(scores.y))
    return _cross_fitted(features, settings, ridge=RIDGE, after=normal_scores)


def radial_ksg(scores: Pairs, settings: Settings) -> float:
    """Mutual information in nats between the norms of both sides, by neighbours: what a shared scale tells.

    For one coordinate it is what the scores' sizes share. Of elliptical distributions without correlation, Student's
    for instance, the norms of the values themselves tell everything, and those of scores nearly so.
    """
    norms = [normal_scores(np.linalg.norm(side + OFF_CENTRE, axis=1, keepdims=True)) for side in (scores.x, scores.y)]
    return ksg(*norms, k=settings.k, groups=(scores.groups_x, scores.groups_y))


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
    pairs: Pairs, settings: Settings, *, ridge: float, after: Callable[[np.ndarray], np.ndarray]
) -> float:
    """Mean over both halves of what neighbours give along canonical directions of the other one."""
    first = halves(pairs.groups_x, seed=settings.seed)
    found = []
    for fitted in (first, ~first):
        along_x, along_y = canonical_axes(pairs.x[fitted], pairs.y[fitted], N_JOINT, ridge=ridge)
        rest = pairs.take(~fitted)
        u, v = after(project(rest.x, along_x)), after(project(rest.y, along_y))
        found.append(ksg(u, v, k=settings.k, groups=(rest.groups_x, rest.groups_y)))
    return float(np.mean(found))
