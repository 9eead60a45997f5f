"""Mutual information of Gaussians and of Gaussian copulas, with its exact bias, and under added noise."""

import math
from collections.abc import Sequence

import numpy as np
from scipy.linalg import qr, solve_triangular, svd  # type: ignore[import-untyped]
from scipy.special import digamma, ndtri  # type: ignore[import-untyped]

from .pairs import Pairs, Settings

NOISE = (0.03, 0.1, 0.3, 1.0)
"""Standard deviations of noise, as shares of a side's own."""
MOST_ROWS = 1000
"""Rows of which all pairs are looked at: their number grows with the square."""
NEGLIGIBLE = 0.01
"""Nats that a log density ratio may say too much without a smaller share of it being tried: they are taken off."""
SHARES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
"""Shares that are tried of a log density ratio that says too much."""
HEAVY = 9.0
"""Mean fourth power of a standardised column, 3 of a normal one, above which its tails are heavy: of an exponential."""
JITTER = 1e-9
"""Standard deviations of the noise that breaks ties."""
SHARED = 1e-12
"""A direction whose 1 - rho^2 is below this counts as shared exactly: float64 can't tell it from 0."""


def normal_scores(x: np.ndarray, *, seed: int | None = None) -> np.ndarray:
    """Each column's ranks as quantiles of a standard normal, float64 (n, dimension): ranks r become Phi^-1(r/(n + 1)).

    Ties share their mean rank, or come in a random order that a seed gives. Mutual information changes neither under
    monotone maps of single coordinates nor by that order, if both sides have seeds of their own: the coordinate can be
    read from its new values, and their order within a tie knows nothing of the other side. So counts, symbols and atoms
    are as good as any.

    References
    ----------
    Rueschendorf 2009, J. Statist. Plann. Inference 139, 3921, on this transform of discrete distributions.
    """
    from scipy.stats import rankdata  # type: ignore[import-untyped]  # half a second, for which nothing else waits

    ranks = np.asarray(rankdata(x, axis=0))
    if seed is not None:
        rng, all_ranks = np.random.default_rng(seed), np.arange(1, len(x) + 1)
        for column in np.flatnonzero((np.sort(ranks, axis=0) != all_ranks[:, None]).any(axis=0)):
            ranks[np.lexsort((rng.random(len(x)), ranks[:, column])), column] = all_ranks
    return np.asarray(ndtri(ranks / (len(x) + 1)))


def tempered(x: np.ndarray, scores: np.ndarray, *, seed: int) -> np.ndarray:
    """Each column with variance 1, float64 (n, dimension): its values, or its normal scores where tails are heavy.

    What a rotation hid can be turned back in values alone; heavy tails hide everything else. So that ties are none, a
    seed gives noise of `JITTER` standard deviations.
    """
    values = (x - x.mean(axis=0)) / x.std(axis=0)
    values += JITTER * np.random.default_rng(seed).normal(size=x.shape)
    return np.where((values**4).mean(axis=0) > HEAVY, scores, values)


def canonical_correlations(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Canonical correlations of columns that vary, descending, float64 (min(dx, dy),)."""
    bases = [_orthonormal(side, name) for side, name in ((x, "x"), (y, "y"))]
    return np.asarray(np.clip(svd(bases[0].T @ bases[1], compute_uv=False), 0.0, 1.0))


def _orthonormal(side: np.ndarray, name: str) -> np.ndarray:
    """Orthonormal basis (n, dimension) of centred columns; raises ValueError where they depend on each other."""
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
    """Mutual information in nats that Gaussians of these covariances have; its bias isn't taken off.

    Infinite where a direction is shared exactly (1 - rho^2 below 1e-12).

    Notes
    -----
    -1/2 sum ln(1 - rho_i^2) over canonical correlations. Of data that aren't Gaussian it is no bound in general: common
    outliers push it above the truth. On normal scores (`normal_scores`), where each column is Gaussian, it is known as
    the Gaussian-copula estimate and blind to dependence without correlation.

    References
    ----------
    Gelfand and Yaglom 1957, Usp. Mat. Nauk 12, on Gaussians. Ince et al. 2017, Human Brain Mapping 38,
    1541, on copulas.
    """
    rest = 1 - canonical_correlations(x, y) ** 2
    return float("inf") if rest.min() < SHARED else float(-0.5 * np.log(rest).sum())


def gaussian_bias(n: int, dx: int, dy: int) -> float:
    """Mean of `gaussian_information` of n rows less the truth, nats: exact for Gaussians, whatever their covariance.

    Notes
    -----
    The log determinant of a Wishart matrix with n - 1 degrees of freedom has the mean
    ln det Sigma + sum_i psi((n - i)/2) + d ln 2 over i = 1..d; those of x, y and both together don't cancel.

    References
    ----------
    Anderson 2003, An Introduction to Multivariate Statistical Analysis, theorem 7.5.3; Misra, Singh and Demchuk 2005,
    J. Multivar. Anal. 92, 324, eq. 2.4.
    """

    def part(d: int) -> float:
        return float(digamma((n - np.arange(1, d + 1)) / 2).sum())

    return 0.5 * (part(dx) + part(dy) - part(dx + dy))


def certified_information(pairs: Pairs, settings: Settings) -> float:
    """Lower bound of the mutual information in nats: the Gaussian's value, as far as a variational bound holds it.

    Notes
    -----
    For every function f and s, I >= s E_joint f - ln E_product exp(s f) (Donsker and Varadhan 1983). With f the log
    density ratio of Gaussians of these covariances the mean of f is `gaussian_information`, here less its bias, and if
    the data are Gaussian ln E_product exp f is 0: then the bound is the mutual information itself. Where rows come in
    clusters, or a few carry the covariance, it is far above 0, and without it the Gaussian value would be no bound. E
    over the product is the mean over all pairs, of at most 1000 rows, whose groups differ; s is the best one of 0 to 1,
    and 1 wherever that costs next to nothing.

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
    ratios[(groups_x[rows, None] == groups_x[rows]) | (groups_y[rows, None] == groups_y[rows])] = -np.inf
    n_pairs = int(np.isfinite(ratios).sum())
    if not n_pairs:
        return value
    excess = _log_mean_exp(ratios, 1.0, n_pairs)
    if excess <= NEGLIGIBLE:
        return value - max(excess, 0.0)
    return max(share * value - _log_mean_exp(ratios, share, n_pairs) for share in SHARES)


def most_checked(n: int) -> float:
    """Nats up to which n rows can show that a log density ratio says too much: ln of the pairs that are looked at.

    What makes exp f too large on average may be rarer than one pair in all of them (McAllester and Stratos 2020, arXiv
    1811.04251: no lower bound that holds for all distributions exceeds O(ln n)).
    """
    return 2 * math.log(min(n, MOST_ROWS))


def _log_ratios(x: np.ndarray, y: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Gaussian log density ratio of each of these rows of x with each of y, float64 (row, row)."""
    bases = [_orthonormal(side, name) * np.sqrt(len(side)) for side, name in ((x, "x"), (y, "y"))]
    left, rho, right = svd(bases[0].T @ bases[1] / len(x), full_matrices=False)
    rho = np.minimum(rho, 1 - SHARED / 4)
    u, v = bases[0][rows] @ left, bases[1][rows] @ right.T
    rest = 1 - rho**2
    own = [(side**2 * (rho**2 / rest)).sum(axis=1) / 2 for side in (u, v)]
    ratios = (u * (rho / rest)) @ v.T
    ratios -= own[0][:, None]
    ratios -= own[1] + 0.5 * np.log(rest).sum()
    return np.asarray(ratios)


def _log_mean_exp(ratios: np.ndarray, share: float, n_pairs: int) -> float:
    """ln of the mean of exp(share ratios) over those that are finite."""
    if not share:
        return 0.0
    most = float(ratios.max())
    scaled = ratios - most
    scaled *= share
    return share * most + float(np.log(np.exp(scaled, out=scaled).sum() / n_pairs))


def noise_curve(x: np.ndarray, y: np.ndarray, noise: Sequence[float] = NOISE) -> np.ndarray:
    """Gaussian mutual information in nats with independent noise added to both sides, float64 (noise,).

    Parameters
    ----------
    x, y
        Float64 (n, dimension). Each side is divided by its root mean square standard deviation first.
    noise
        Standard deviations of the noise, above 0, as shares of that.

    Raises
    ------
    ValueError
        If a side is constant.

    Notes
    -----
    -1/2 sum ln(1 - rho_i(s)^2) with canonical correlations of (S_x + s^2 I, S_y + s^2 I, S_xy). It is finite where x
    and y share directions exactly, as base and lora do; its slope over ln(1/s) counts these directions (the information
    dimension). Its bias isn't known in closed form: take off the mean of shuffles.

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
