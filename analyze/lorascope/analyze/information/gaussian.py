"""Mutual information of Gaussians and Gaussian copulas, its exact bias, and its values under added noise."""

import math
from collections.abc import Sequence

import numpy as np
from scipy.linalg import qr, solve_triangular, svd  # type: ignore[import-untyped]
from scipy.special import digamma, ndtri  # type: ignore[import-untyped]

from .pairs import Pairs, Settings

NOISE = (0.03, 0.1, 0.3, 1.0)
"""Default standard deviations of noise, relative to those of each side."""
MOST_ROWS = 1000
"""Largest number of rows whose pairs are all used: the number of pairs grows with the square."""
NEGLIGIBLE = 0.01
"""Excess in nats of a log density ratio up to which it is subtracted; above, smaller scales are tried."""
SCALE_STEP = 0.1
"""Distance between the scales of a log density ratio, from 0 to 1, that are tried if its excess is larger."""
HEAVY_TAILS = 9.0
"""Kurtosis above which tails are heavy: that of an exponential distribution; a normal one has 3."""
JITTER = 1e-9
"""Standard deviation of the noise that breaks ties, for columns of variance 1."""
SHARED_DIRECTION = 1e-12
"""Value of 1 - rho^2 below which a direction counts as shared exactly, by the precision of float64."""


def normal_scores(x: np.ndarray, *, seed: int | None = None) -> np.ndarray:
    """Return normal scores of each column, float64 (n, dimension): ranks r become Phi^-1(r/(n + 1)).

    Ties get their mean rank or, with a seed, a random order. Monotone maps of single coordinates don't change mutual
    information. A random order of ties doesn't either, if both sides have different seeds: it is independent of the
    other side. So counts and symbols are allowed.

    References
    ----------
    Rueschendorf 2009, J. Statist. Plann. Inference 139, 3921, on this transform of discrete distributions.
    """
    n, columns = len(x), np.ascontiguousarray(x.T)
    order = columns.argsort(axis=1)
    ascending = np.take_along_axis(columns, order, axis=1)
    tied = np.flatnonzero((ascending[:, 1:] == ascending[:, :-1]).any(axis=1))
    if seed is not None:
        rng = np.random.default_rng(seed)
        for column in tied:
            order[column] = np.lexsort((rng.random(n), columns[column]))
    scores = np.empty(columns.shape)
    np.put_along_axis(scores, order, ndtri(np.arange(1, n + 1) / (n + 1))[None], axis=1)
    if seed is None and len(tied):
        from scipy.stats import rankdata  # type: ignore[import-untyped]  # takes half a second

        scores[tied] = ndtri(rankdata(columns[tied], axis=1) / (n + 1))
    return np.ascontiguousarray(scores.T)


def standardised_or_scores(x: np.ndarray, scores: np.ndarray, *, seed: int) -> np.ndarray:
    """Return columns standardised to variance 1, or their normal scores if tails are heavy, float64 (n, dimension).

    Only with values can a rotation be undone; only with scores do heavy tails not dominate. Noise of `JITTER` standard
    deviations breaks ties of values.
    """
    values = (x - x.mean(axis=0)) / x.std(axis=0)
    values += JITTER * np.random.default_rng(seed).normal(size=x.shape)
    return np.where(((values**2) ** 2).mean(axis=0) > HEAVY_TAILS, scores, values)


def canonical_correlations(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the canonical correlations of x and y, descending, float64 (min(dx, dy),)."""
    bases = [_orthonormal_basis(side, name) for side, name in ((x, "x"), (y, "y"))]
    return np.asarray(np.clip(svd(bases[0].T @ bases[1], compute_uv=False), 0.0, 1.0))


def _orthonormal_basis(side: np.ndarray, name: str) -> np.ndarray:
    """Return an orthonormal basis (n, dimension) of centred columns; raise ValueError if they are dependent."""
    centred = side - side.mean(axis=0)
    basis, triangle, _ = qr(centred / np.linalg.norm(centred, axis=0), mode="economic", pivoting=True)
    sizes = np.abs(np.diag(triangle))
    if sizes[-1] < 1e-10 * sizes[0]:
        rank = int((sizes >= 1e-10 * sizes[0]).sum())
        raise ValueError(
            f"the {side.shape[1]} columns of `{name}` have rank {rank}; project to at most {rank} dimensions"
        )
    return np.asarray(basis)


def gaussian_information(x: np.ndarray, y: np.ndarray) -> float:
    """Return the mutual information in nats of Gaussians with the covariances of x and y; bias isn't subtracted.

    It is infinite if a direction is shared exactly (1 - rho^2 below 1e-12).

    Notes
    -----
    -1/2 sum ln(1 - rho_i^2) over canonical correlations. For data that aren't Gaussian it is no bound: common outliers
    push it above the truth. On `normal_scores` it is the Gaussian-copula estimate, which misses dependence without
    correlation.

    References
    ----------
    Gelfand and Yaglom 1957, Usp. Mat. Nauk 12, on Gaussians. Ince et al. 2017, Human Brain Mapping 38,
    1541, on copulas.
    """
    rest = 1 - canonical_correlations(x, y) ** 2
    return float("inf") if rest.min() < SHARED_DIRECTION else float(-0.5 * np.log(rest).sum())


def gaussian_bias(n: int, dx: int, dy: int) -> float:
    """Return the bias in nats of `gaussian_information` for n rows: exact for Gaussians of any covariance.

    Notes
    -----
    The log determinant of a Wishart matrix with n - 1 degrees of freedom has the mean
    ln det Sigma + sum_i psi((n - i)/2) + d ln 2 over i = 1..d; the terms of x, y and both together don't cancel.

    References
    ----------
    Anderson 2003, An Introduction to Multivariate Statistical Analysis, theorem 7.5.3; Misra, Singh and Demchuk 2005,
    J. Multivar. Anal. 92, 324, eq. 2.4.
    """

    def log_det_bias(d: int) -> float:
        """Return the bias of the log determinant of a covariance of d columns, except terms that cancel."""
        return float(digamma((n - np.arange(1, d + 1)) / 2).sum())

    return 0.5 * (log_det_bias(dx) + log_det_bias(dy) - log_det_bias(dx + dy))


def gaussian_lower_bound(pairs: Pairs, settings: Settings) -> float:
    """Return a lower bound of mutual information in nats: the Gaussian value, lowered to a variational bound.

    Notes
    -----
    For every function f and scale s, I >= s E_joint f - ln E_product exp(s f) (Donsker and Varadhan 1983). Let f be the
    log density ratio of Gaussians with these covariances. Its mean under the joint distribution is
    `gaussian_information`, here minus its bias. For Gaussian data ln E_product exp f is 0, and the bound is the mutual
    information itself. If rows form clusters, or a few rows dominate the covariance, it is far above 0, and the
    Gaussian value alone would be no bound. E_product is the mean over all pairs, of at most 1000 rows, with different
    groups. s is 1 if the excess is negligible, otherwise the best of 0, 0.1, ..., 1.

    References
    ----------
    Donsker and Varadhan 1983, Comm. Pure Appl. Math. 36, 183; Belghazi et al. 2018, arXiv 1801.04062, eq. 2.
    """
    x, y, groups_x, groups_y = pairs
    value = gaussian_information(x, y) - gaussian_bias(len(x), x.shape[1], y.shape[1])
    if not np.isfinite(value):
        return value
    rows = np.random.default_rng(settings.seed).permutation(len(x))[:MOST_ROWS]
    ratios = _log_ratios(x, y, rows)
    labels_x, labels_y = groups_x[rows].astype(np.int32), groups_y[rows].astype(np.int32)
    is_own = (labels_x[:, None] == labels_x) | (labels_y[:, None] == labels_y)
    n_pairs = is_own.size - int(np.count_nonzero(is_own))
    if not n_pairs:
        return value
    ratios[is_own] = -np.inf
    most = float(ratios.max())
    ratios -= np.float32(most)
    excess = most + math.log(float(np.exp(ratios).sum(axis=1).sum(dtype=np.float64)) / n_pairs)
    if excess <= NEGLIGIBLE:
        return value - max(excess, 0.0)
    ratios *= np.float32(SCALE_STEP)
    factors = np.exp(ratios, out=ratios)
    powers, best = np.ones_like(factors), 0.0
    for step in range(1, round(1 / SCALE_STEP) + 1):
        powers *= factors
        mean = float(powers.sum(axis=1).sum(dtype=np.float64)) / n_pairs
        best = max(best, step * SCALE_STEP * (value - most) - math.log(mean))
    return best


def most_checkable(n: int) -> float:
    """Return the largest mutual information in nats that n rows can check: ln of the number of their pairs.

    Pairs that make the mean of exp f too large may be rarer than one in all of them (McAllester and Stratos 2020, arXiv
    1811.04251: no lower bound that is valid for all distributions exceeds O(ln n)).
    """
    return 2 * math.log(min(n, MOST_ROWS))


def _log_ratios(x: np.ndarray, y: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return the Gaussian log density ratio of each of these rows of x with each of y, float32 (row, row)."""
    bases = [_orthonormal_basis(side, name) * np.sqrt(len(side)) for side, name in ((x, "x"), (y, "y"))]
    left, rho, right = svd(bases[0].T @ bases[1] / len(x), full_matrices=False)
    rho = np.minimum(rho, 1 - SHARED_DIRECTION / 4)
    u, v = bases[0][rows] @ left, bases[1][rows] @ right.T
    rest = 1 - rho**2
    own = [(side**2 * (rho**2 / rest)).sum(axis=1) / 2 for side in (u, v)]
    # One product gives all terms; float32 is precise enough, since of the ratios only the mean of many is used.
    left_terms = np.column_stack([u * (rho / rest), -own[0] - 0.5 * np.log(rest).sum(), np.ones(len(rows))])
    right_terms = np.column_stack([v, np.ones(len(rows)), -own[1]])
    return np.asarray((left_terms @ right_terms.T).astype(np.float32))


def noise_curve(x: np.ndarray, y: np.ndarray, noise: Sequence[float] = NOISE) -> np.ndarray:
    """Return Gaussian mutual information in nats, float64 (noise,), after noise of each sd is added to both sides.

    Parameters
    ----------
    x, y
        Float64 (n, dimension). Each side is divided by its root mean square standard deviation first.
    noise
        Standard deviations of the noise, above 0, relative to that.

    Raises
    ------
    ValueError
        If a side is constant.

    Notes
    -----
    -1/2 sum ln(1 - rho_i(s)^2) with canonical correlations of (S_x + s^2 I, S_y + s^2 I, S_xy). It is finite also if x
    and y share directions exactly, as base and lora do; its slope over ln(1/s) counts these directions (the information
    dimension). Its bias has no closed form: subtract the mean over shuffles.

    References
    ----------
    Wu and Verdu 2010, IEEE Trans. Inf. Theory 56, 3721, on the slope; Goldfeld et al. 2019, arXiv 1810.05728, on noise.
    """
    sides = []
    for side, name in ((x, "x"), (y, "y")):
        centred = side - side.mean(axis=0)
        scale = np.sqrt((centred**2).sum() / (len(side) - 1) / side.shape[1])
        if scale == 0:
            raise ValueError(f"`{name}` is constant; nothing depends on it")
        sides.append(centred / scale)
    own = [side.T @ side / (len(side) - 1) for side in sides]
    cross = sides[0].T @ sides[1] / (len(x) - 1)
    values = []
    for sd in noise:
        roots = [np.linalg.cholesky(matrix + sd**2 * np.eye(len(matrix))) for matrix in own]
        half = solve_triangular(roots[0], cross, lower=True)
        rho = svd(solve_triangular(roots[1], half.T, lower=True), compute_uv=False)
        values.append(-0.5 * np.log1p(-(np.minimum(rho, 1.0) ** 2)).sum())
    return np.array(values)
