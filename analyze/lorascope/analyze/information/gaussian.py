"""Mutual information of Gaussians and of Gaussian copulas, with its exact bias, and under added noise."""

from collections.abc import Sequence

import numpy as np
from scipy.linalg import qr, solve_triangular, svd  # type: ignore[import-untyped]
from scipy.special import digamma, ndtri  # type: ignore[import-untyped]

__all__ = ["NOISE", "canonical_correlations", "gaussian_bias", "gaussian_information", "noise_curve", "normal_scores"]

NOISE = (0.03, 0.1, 0.3, 1.0)
"""Standard deviations of noise, as shares of a side's own."""
SHARED = 1e-12
"""1 - rho^2 from which on a direction counts as shared exactly: float64 can't tell smaller ones from 0."""


def normal_scores(x: np.ndarray) -> np.ndarray:
    """Each column's ranks as quantiles of a standard normal, float64 (n, dimension): ranks r become Phi^-1(r/(n + 1)).

    Ties share their mean rank. Mutual information doesn't change under monotone maps of single coordinates; what
    remains of a column are its ranks.
    """
    from scipy.stats import rankdata  # type: ignore[import-untyped]  # half a second, for which nothing else waits

    return np.asarray(ndtri(rankdata(x, axis=0) / (len(x) + 1)))


def canonical_correlations(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Canonical correlations of the columns of x and y, descending, float64 (min(dx, dy),).

    Raises
    ------
    ValueError
        If a side has linearly dependent columns, constant ones for instance, or no more rows than columns in all.
    """
    n, width = len(x), x.shape[1] + y.shape[1]
    if n <= width + 1:
        raise ValueError(
            f"there are {n} rows for {x.shape[1]} + {y.shape[1]} dimensions; a Gaussian estimate needs more than "
            f"{width + 1}: give more rows, or project to fewer dimensions"
        )
    bases = [_orthonormal(side, name) for side, name in ((x, "x"), (y, "y"))]
    return np.asarray(np.clip(svd(bases[0].T @ bases[1], compute_uv=False), 0.0, 1.0))


def _orthonormal(side: np.ndarray, name: str) -> np.ndarray:
    """Orthonormal basis (n, dimension) of centred columns."""
    centred = side - side.mean(axis=0)
    scales = np.linalg.norm(centred, axis=0)
    if not scales.all():
        raise ValueError(f"column {int(np.argmin(scales))} of `{name}` is constant; leave it out")
    basis, triangle, _ = qr(centred / scales, mode="economic", pivoting=True)
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


def noise_curve(x: np.ndarray, y: np.ndarray, noise: Sequence[float] = NOISE) -> np.ndarray:
    """Gaussian mutual information in nats with independent noise added to both sides, float64 (noise,).

    Parameters
    ----------
    x, y
        Float64 (n, dimension). Each side is divided by its root mean square standard deviation first.
    noise
        Standard deviations of the noise, as shares of that.

    Raises
    ------
    ValueError
        If a noise isn't above 0, or a side is constant.

    Notes
    -----
    -1/2 sum ln(1 - rho_i(s)^2) with canonical correlations of (S_x + s^2 I, S_y + s^2 I, S_xy). It is finite where x
    and y share directions exactly, as base and lora do; its slope over ln(1/s) counts these directions (the information
    dimension). Its bias isn't known in closed form: take off the mean of shuffles.

    References
    ----------
    Wu and Verdu 2010, IEEE Trans. Inf. Theory 56, 3721, on the slope; Goldfeld et al. 2019, arXiv 1810.05728, on noise.
    """
    if min(noise) <= 0:
        raise ValueError(f"`noise` holds {min(noise)!r}; standard deviations of noise must be above 0")
    sides = [_unit_sd(side, name) for side, name in ((x, "x"), (y, "y"))]
    own = [side.T @ side / (len(side) - 1) for side in sides]
    cross = sides[0].T @ sides[1] / (len(x) - 1)
    values = []
    for sd in noise:
        roots = [np.linalg.cholesky(matrix + sd**2 * np.eye(len(matrix))) for matrix in own]
        half = solve_triangular(roots[0], cross, lower=True)
        rho = svd(solve_triangular(roots[1], half.T, lower=True), compute_uv=False)
        values.append(-0.5 * np.log1p(-(np.minimum(rho, 1.0) ** 2)).sum())
    return np.array(values)


def _unit_sd(side: np.ndarray, name: str) -> np.ndarray:
    centred = side - side.mean(axis=0)
    scale = np.sqrt((centred**2).sum() / (len(side) - 1) / side.shape[1])
    if scale == 0:
        raise ValueError(f"`{name}` is constant; nothing depends on it")
    return np.asarray(centred / scale)
