"""Nearest neighbours in few directions: found on one half of the samples, looked at on the other."""

from collections.abc import Callable

import numpy as np

from .directions import CHANCE, characteristic_directions, covariance, refined
from .gaussian import normal_scores
from .ksg import extrapolated_ksg, ksg_ceiling
from .pairs import Pairs, Settings
from .projections import Axes, canonical_axes, halves, project

N_JOINT, N_JOINT_WAVES = 2, 3
"""Canonical pairs, and pairs of waves, that go into neighbour distances together: more lose more than they find."""
MOST_SUMMED = 8
"""Pairs of directions that are looked at one by one."""
LEAST = 0.02
"""Nats that a pair of directions must add to be counted with others."""
ROWS_A_FEATURE = 20
"""Rows for each quadratic feature of a side: half of them to fit on, for the features of both sides."""
RIDGE = 1e-4
"""Added to the variance of each feature, which has variance 1."""
LEAST_NORM = 1e-3
"""Added to norms before their logarithm is taken: that of the median of a single coordinate is 0."""
OFF_CENTRE = 1e-9
"""Added to scores before norms are taken: of a single coordinate, those of ranks r and n + 1 - r would tie."""

_Directions = Callable[[Pairs], tuple[np.ndarray, np.ndarray]]
"""Pairs to fit on -> what all rows have along the directions found, (n, pair) of each side, the first pair first."""


def cca_ksg(scores: Pairs, settings: Settings) -> float:
    """Mutual information in nats along canonical directions of normal scores, by neighbours.

    The largest of: the first pair of directions, two pairs jointly, and the sum over pairs; see `_along`. Directions
    are `refined` from canonical ones, each uncorrelated with those before it.

    References
    ----------
    Hotelling 1936, Biometrika 28, 321, on canonical directions.
    """

    def along(fitted: Pairs) -> tuple[np.ndarray, np.ndarray]:
        axes = _refined(fitted, canonical_axes(fitted.x, fitted.y, MOST_SUMMED), is_apart=True)
        return project(scores.x, axes[0]), project(scores.y, axes[1])

    return _along(scores, settings, along, n_joint=N_JOINT, is_summed=True)


def quadratic_cca_ksg(scores: Pairs, settings: Settings) -> float:
    """Mutual information in nats along one or two canonical pairs of quadratic features, by neighbours.

    `cca_ksg` finds what correlates; this finds what correlates after products and norms: shared scales, spirals, signs.

    Notes
    -----
    Features of a side are its coordinates, their products, the norm r, ln r, and each coordinate times r and r^2;
    squares alone in place of products, or r and ln r alone, where there are fewer than 20 rows for each feature. Pairs
    are `refined`. Of what the directions give, normal scores are taken.
    """
    features = scores._replace(x=_features(scores.x), y=_features(scores.y))

    def along(fitted: Pairs) -> tuple[np.ndarray, np.ndarray]:
        axes = _refined(fitted, canonical_axes(fitted.x, fitted.y, N_JOINT, ridge=RIDGE), ridge=RIDGE)
        u, v = (project(side, along_side) for side, along_side in zip((features.x, features.y), axes, strict=True))
        return normal_scores(u), normal_scores(v)

    return _along(features, settings, along, n_joint=N_JOINT, is_summed=False)


def characteristic_ksg(pairs: Pairs, settings: Settings) -> float:
    """Mutual information in nats along directions that `characteristic_directions` finds, by neighbours.

    The largest of: one to three pairs jointly, in radians, so that a wave is seen at its own scale; and the sum over
    pairs; see `_along`.
    """

    def along(fitted: Pairs) -> tuple[np.ndarray, np.ndarray]:
        a, b = characteristic_directions(fitted.x, fitted.y, seed=settings.seed)
        return pairs.x @ a, pairs.y @ b

    return _along(pairs, settings, along, n_joint=N_JOINT_WAVES, is_summed=True)


def radial_ksg(scores: Pairs, settings: Settings) -> float:
    """Mutual information in nats between the norms of both sides, by neighbours: what a shared scale tells.

    For one coordinate it is what the scores' sizes share. Of elliptical distributions without correlation, Student's
    for instance, the norms of the values themselves tell everything, and those of scores nearly so.
    """
    norms = [normal_scores(np.linalg.norm(side + OFF_CENTRE, axis=1, keepdims=True)) for side in (scores.x, scores.y)]
    return extrapolated_ksg(*norms, k=settings.k, groups=(scores.groups_x, scores.groups_y))


def _refined(pairs: Pairs, axes: tuple[Axes, Axes], *, ridge: float = 0.0, is_apart: bool = False) -> tuple[Axes, Axes]:
    """The axes, each pair turned to where it tells more; see `refined`."""
    a, b = refined(pairs.x, pairs.y, axes[0].vectors, axes[1].vectors, ridge=ridge, is_apart=is_apart)
    return axes[0]._replace(vectors=a), axes[1]._replace(vectors=b)


def _features(x: np.ndarray) -> np.ndarray:
    """Float64 (n, feature): as rich a set as there are rows to fit it on."""
    n, d = x.shape
    r = np.linalg.norm(x + OFF_CENTRE, axis=1, keepdims=True)
    radial = np.concatenate([r, np.log(r + LEAST_NORM)], axis=1)
    first, second = np.triu_indices(d)
    for columns in ((first, second), (np.arange(d), np.arange(d))):
        if ROWS_A_FEATURE * (3 * d + 2 + len(columns[0])) <= n:
            return np.concatenate([x, x[:, columns[0]] * x[:, columns[1]], radial, x * r, x * r**2], axis=1)
    return radial


def _along(pairs: Pairs, settings: Settings, along: _Directions, *, n_joint: int, is_summed: bool) -> float:
    """The most that directions tell: the first 1 to `n_joint` pairs jointly, or the sum over pairs.

    Directions are found on one half of the samples, and the mean is over the other half, whose neighbours are all rows;
    then the other way round, and the two averaged: a direction that happened to fit can't raise the value. By data
    processing few directions know less than all, so that apart from the neighbours' own error, and from the choice of
    the largest of a few and of the pairs that are summed, which the same rows make, it is a lower bound. It is cut at
    what so many rows can show (`ksg_ceiling`).
    """
    first = halves(pairs.groups_x, seed=settings.seed)
    groups = pairs.groups_x, pairs.groups_y
    most = ksg_ceiling(len(pairs.x), settings.k)
    of_halves = []
    for fitted in (first, ~first):
        u, v = along(pairs.take(fitted))
        rest = np.flatnonzero(~fitted)

        def information(x: np.ndarray, y: np.ndarray, rows: np.ndarray = rest) -> float:
            return extrapolated_ksg(x, y, k=settings.k, groups=groups, rows=rows)

        values = [information(u[:, :m], v[:, :m]) for m in range(1, min(n_joint, u.shape[1]) + 1)]
        if is_summed:
            is_seen = [len(rest) * covariance(u[rest, j], v[rest, j]) > CHANCE for j in range(u.shape[1])]
            values.append(_summed(u[:, is_seen], v[:, is_seen], information, most) if sum(is_seen) > 1 else values[0])
        of_halves.append(values)
    n_kinds = max(map(len, of_halves))  # halves may find different numbers of pairs
    means = np.mean([values[:-1] + values[-1:] * (n_kinds - len(values) + 1) for values in of_halves], axis=0)
    return min(float(means.max()), max(float(means[0]), most))


def _summed(u: np.ndarray, v: np.ndarray, information: Callable[[np.ndarray, np.ndarray], float], most: float) -> float:
    """Sum over pairs of what each tells, less what its directions tell about those of earlier ones, until it is `most`.

    I(U; V) = sum I(u_j; v_j) + T(pairs) - T(U) - T(V), where T, total correlation, is the sum over j of what the j-th
    tells about those before it. T(pairs) is at least 0, and left out. A cluster, a scale or a direction that two pairs
    share is so counted once; what neighbours don't see of T, such as a parity of many, is counted too often.
    """
    each = np.array([information(u[:, [j]], v[:, [j]]) for j in range(u.shape[1])])
    counted: list[int] = []
    total = 0.0
    for j in np.argsort(-each, kind="stable"):
        if total >= most or each[j] < LEAST:
            break
        shared = sum(max(information(side[:, [j]], side[:, counted]), 0.0) for side in (u, v)) if counted else 0.0
        if each[j] - shared >= LEAST:
            counted.append(int(j))
            total += float(each[j]) - shared
    return total
