"""Mutual information along few directions, found on one half of the samples and evaluated on the other."""

from collections.abc import Callable

import numpy as np

from .directions import CHANCE, characteristic_directions, refined_directions, wave_covariance
from .gaussian import normal_scores
from .ksg import extrapolated_ksg, ksg_ceiling
from .pairs import Pairs, Settings
from .projections import canonical_directions, first_half, whitened

N_JOINT, N_JOINT_WAVES = 2, 3
"""Largest numbers of canonical pairs and of pairs of waves that are used jointly: more add more bias than signal."""
MOST_SUMMED = 8
"""Largest number of canonical pairs whose values are summed."""
LEAST_ADDED = 0.02
"""Nats that a pair of directions must add to the sum to be included."""
ROWS_PER_FEATURE = 20
"""Least rows per quadratic feature of a side: half of the rows must fit the features of both sides."""
RIDGE = 1e-4
"""Ridge that is added to the variance 1 of each feature."""
LEAST_NORM = 1e-3
"""Added to norms before their logarithm, since the median of a single coordinate has norm 0."""
OFF_CENTRE = 1e-9
"""Added to scores before their norms, since ranks r and n + 1 - r of a single coordinate would tie."""

_Directions = Callable[[Pairs], tuple[np.ndarray, np.ndarray]]
"""Function (pairs to fit on) -> projections of all rows onto the found directions, (n, pair) of each side."""


def cca_ksg(scores: Pairs, settings: Settings) -> float:
    """Return the mutual information in nats along canonical directions of normal scores, by nearest neighbours.

    It is the largest of three values: the first pair of directions, two pairs jointly, and the sum over pairs; see
    `_held_out_information`. Canonical directions are improved by `refined_directions` and stay uncorrelated.

    References
    ----------
    Hotelling 1936, Biometrika 28, 321, on canonical directions.
    """

    def project_all(fitted: Pairs) -> tuple[np.ndarray, np.ndarray]:
        """Return both sides of all rows along canonical directions of the pairs `fitted`."""
        white_x, white_y = whitened(fitted.x, "x"), whitened(fitted.y, "y")
        axes = canonical_directions(white_x, white_y, MOST_SUMMED)
        a, b = refined_directions(white_x, white_y, *axes, is_apart=True)
        return scores.x @ a, scores.y @ b

    return _held_out_information(scores, settings, project_all, n_joint=N_JOINT, is_summed=True)


def quadratic_cca_ksg(scores: Pairs, settings: Settings) -> float:
    """Return the mutual information in nats along canonical pairs of quadratic features, by nearest neighbours.

    `cca_ksg` finds correlations of coordinates; this finds those of products and norms: shared scales, spirals, signs.

    Notes
    -----
    Features of a side are its coordinates, their products, the norm r, ln r, and each coordinate times r and r^2. If
    there are fewer than 20 rows per feature, squares replace products, or only r and ln r remain. Directions are
    improved by `refined_directions`, and normal scores of the projections are used.
    """
    features = scores._replace(x=_quadratic_features(scores.x), y=_quadratic_features(scores.y))

    def project_all(fitted: Pairs) -> tuple[np.ndarray, np.ndarray]:
        """Return normal scores of all rows along canonical directions of the pairs `fitted`."""
        white_x, white_y = whitened(fitted.x, "x", RIDGE), whitened(fitted.y, "y", RIDGE)
        a, b = refined_directions(white_x, white_y, *canonical_directions(white_x, white_y, N_JOINT))
        return normal_scores(features.x @ a), normal_scores(features.y @ b)

    return _held_out_information(features, settings, project_all, n_joint=N_JOINT, is_summed=False)


def characteristic_ksg(pairs: Pairs, settings: Settings) -> float:
    """Return the mutual information in nats along `characteristic_directions`, by nearest neighbours.

    It is the largest of: one to three pairs jointly, in radians, so that each wave has its own scale; and the sum over
    pairs; see `_held_out_information`.
    """

    def project_all(fitted: Pairs) -> tuple[np.ndarray, np.ndarray]:
        """Return both sides of all rows, in radians, along directions of the pairs `fitted`."""
        a, b = characteristic_directions(fitted.x, fitted.y, seed=settings.seed)
        return pairs.x @ a, pairs.y @ b

    return _held_out_information(pairs, settings, project_all, n_joint=N_JOINT_WAVES, is_summed=True)


def radial_ksg(scores: Pairs, settings: Settings) -> float:
    """Return the mutual information in nats between the norms of both sides, by nearest neighbours.

    It detects a shared scale. For elliptical distributions without correlation, such as Student's, norms of the values
    have all the dependence, and norms of scores nearly all.
    """
    norms = [normal_scores(np.linalg.norm(side + OFF_CENTRE, axis=1, keepdims=True)) for side in (scores.x, scores.y)]
    return extrapolated_ksg(*norms, k=settings.k, groups=(scores.groups_x, scores.groups_y))


def _quadratic_features(x: np.ndarray) -> np.ndarray:
    """Return quadratic features of a side's columns, float64 (n, feature): the largest set that n rows suffice for."""
    n, d = x.shape
    r = np.linalg.norm(x + OFF_CENTRE, axis=1, keepdims=True)
    radial = np.concatenate([r, np.log(r + LEAST_NORM)], axis=1)
    first, second = np.triu_indices(d)
    for columns in ((first, second), (np.arange(d), np.arange(d))):
        if ROWS_PER_FEATURE * (3 * d + 2 + len(columns[0])) <= n:
            return np.concatenate([x, x[:, columns[0]] * x[:, columns[1]], radial, x * r, x * r**2], axis=1)
    return radial


def _held_out_information(
    pairs: Pairs, settings: Settings, project_all: _Directions, *, n_joint: int, is_summed: bool
) -> float:
    """Return mutual information in nats on one half of the samples, along directions found on the other half.

    It is the largest value: of the first 1 to `n_joint` pairs of directions jointly or, if `is_summed`, of the sum over
    pairs.

    Directions are found by `project_all` on one half of the samples. The mean of local values is over the other half,
    with neighbours among all rows. The halves change places and both values are averaged, so that overfitted directions
    can't raise the value. By the data processing inequality it is a lower bound, apart from errors of nearest
    neighbours and from the selection of the largest value and of the summed pairs. It is at most `ksg_ceiling`.
    """
    first = first_half(pairs.groups_x, seed=settings.seed)
    groups = pairs.groups_x, pairs.groups_y
    most = ksg_ceiling(len(pairs.x), settings.k)
    of_halves = []
    for fitted in (first, ~first):
        u, v = project_all(pairs.take(fitted))
        rest = np.flatnonzero(~fitted)

        def information(x: np.ndarray, y: np.ndarray, rows: np.ndarray = rest) -> float:
            """Return the extrapolated KSG estimate in nats over `rows`, by default the half that wasn't fitted on."""
            return extrapolated_ksg(x, y, k=settings.k, groups=groups, rows=rows)

        values = [information(u[:, :m], v[:, :m]) for m in range(1, min(n_joint, u.shape[1]) + 1)]
        if is_summed:
            is_seen = [len(rest) * wave_covariance(u[rest, j], v[rest, j]) > CHANCE for j in range(u.shape[1])]
            values.append(
                _sum_over_pairs(u[:, is_seen], v[:, is_seen], information, most) if sum(is_seen) > 1 else values[0]
            )
        of_halves.append(values)
    n_kinds = max(map(len, of_halves))  # halves may have different numbers of pairs
    means = np.mean([values[:-1] + values[-1:] * (n_kinds - len(values) + 1) for values in of_halves], axis=0)
    return min(float(means.max()), max(float(means[0]), most))


def _sum_over_pairs(
    u: np.ndarray, v: np.ndarray, information: Callable[[np.ndarray, np.ndarray], float], most: float
) -> float:
    """Sum the mutual information (nats) of pairs of directions without what they share, until `most` is reached.

    I(U; V) = sum I(u_j; v_j) + T(pairs) - T(U) - T(V). T is total correlation: the sum over j of the information
    between the j-th variable and those before it. T(pairs) >= 0 is omitted. So a cluster, scale or direction that two
    pairs share counts once. Parts of T that neighbours miss, such as a parity of many variables, make the sum too
    large.
    """
    each = np.array([information(u[:, [j]], v[:, [j]]) for j in range(u.shape[1])])
    counted: list[int] = []
    total = 0.0
    for j in np.argsort(-each, kind="stable"):
        if total >= most or each[j] < LEAST_ADDED:
            break
        shared = sum(max(information(side[:, [j]], side[:, counted]), 0.0) for side in (u, v)) if counted else 0.0
        if each[j] - shared >= LEAST_ADDED:
            counted.append(int(j))
            total += float(each[j]) - shared
    return total
