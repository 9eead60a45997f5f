"""Singular values of a product of two thin matrices, and what they say of its size and rank."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float64

__all__ = ["Spectrum", "product_singular_values", "summarise"]


class Spectrum(NamedTuple):
    """A matrix by its singular values."""

    frobenius_norm: float
    spectral_norm: float
    effective_rank: float
    """NaN for the zero matrix."""
    stable_rank: float
    """NaN for the zero matrix."""


def product_singular_values(
    B: Float64[np.ndarray, "d_out rank"], A: Float64[np.ndarray, "rank d_in"], *, scaling: float = 1.0
) -> Float64[np.ndarray, " value"]:
    """Singular values of scaling * B A, descending, min(d_out, rank, d_in) of them; B A itself is never formed.

    Notes
    -----
    With B = Q_B R_B and A^T = Q_A R_A, B A = Q_B (R_B R_A^T) Q_A^T, and orthonormal columns don't change singular
    values. The Gram matrices B^T B and A A^T would be cheaper, but lose half the digits of the small ones.

    Raises
    ------
    OverflowError
        If the product is beyond float64.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        left, right = (np.asarray(np.linalg.qr(factor, mode="r")) for factor in (B, A.T))
        core = scaling * (left @ right.T)
    if not np.isfinite(core).all():
        raise OverflowError("s B A is beyond float64")
    return np.asarray(np.linalg.svd(core, compute_uv=False), np.float64)


def summarise(values: Float64[np.ndarray, " value"]) -> Spectrum:
    """Norms and ranks of the matrix with these singular values, descending.

    Notes
    -----
    Effective rank: exp(-sum p_k ln p_k) with p_k = sigma_k / sum_l sigma_l, singular values themselves and not their
    squares, 0 ln 0 = 0. Stable rank: sum sigma_k^2 / sigma_1^2. Both lie between 1 and the rank.

    References
    ----------
    Roy & Vetterli (2007), "The effective rank", EUSIPCO, eqs. 2 to 4. Rudelson & Vershynin (2007), J. ACM 54(4),
    "numerical rank".

    Examples
    --------
    >>> summarise(np.array([2.0, 2.0, 0.0]))
    Spectrum(frobenius_norm=2.8284271247461903, spectral_norm=2.0, effective_rank=2.0, stable_rank=2.0)
    """
    largest = float(values[0])
    if largest == 0:
        return Spectrum(0.0, 0.0, float("nan"), float("nan"))
    ratios = values / largest  # so that squares neither overflow nor vanish
    p = ratios[ratios > 0] / ratios.sum()
    stable = float(np.square(ratios).sum())
    return Spectrum(largest * stable**0.5, largest, float(np.exp(-(p * np.log(p)).sum())), stable)
