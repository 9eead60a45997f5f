"""Ratios of sums over samples with linearised standard errors, and their t test."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64


def ratio(
    numerator: Float64[np.ndarray, "sample estimate"], denominator: Float64[np.ndarray, "sample ..."]
) -> tuple[Float64[np.ndarray, " estimate"], Float64[np.ndarray, "sample estimate"]]:
    """Return sums over sums, and residuals: what each sample adds to the error (Cochran 1977, Sampling, eq. 2.39)."""
    total = denominator.sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):  # NaN if there is nothing to divide by
        share = numerator.sum(axis=0) / total
        return share, (numerator - share * denominator) / total


def difference(ratios: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Return the first ratio and its residuals, less those of the second (the control's) if there is one."""
    first, *rest = ratios
    return (first[0] - rest[0][0], first[1] - rest[0][1]) if rest else first


def standard_errors(residual: Float64[np.ndarray, "sample estimate"]) -> Float64[np.ndarray, " estimate"]:
    """Return standard errors over samples from residuals; NaN for one sample."""
    n = len(residual)
    return np.sqrt((residual**2).sum(axis=0) * n / (n - 1)) if n > 1 else np.full(residual.shape[1], np.nan)


def t_test(value: np.ndarray, error: np.ndarray, n_samples: int) -> Float64[np.ndarray, " estimate"]:
    """Return two-sided p-values of Student's t with n_samples - 1 degrees of freedom; NaN for a value and error of 0.

    They are NaN too for fewer than three samples.
    """
    from scipy import stats  # type: ignore[import-untyped]  # a quarter of a second

    with np.errstate(invalid="ignore", divide="ignore"):
        t = np.abs(value / error)
    return np.asarray(2 * stats.t.sf(t, n_samples - 1)) if n_samples > 2 else np.full(len(t), np.nan)
