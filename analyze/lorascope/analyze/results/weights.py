"""Weights of tokens that were sampled at capture, and weighted statistics and standard errors."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float64

from lorascope.stores import Run


def token_weights(run: Run) -> Float64[np.ndarray, " token"]:
    """Return each token's weight, float64 (token,): the inverse of its probability of being captured."""
    return run.tokens["weight"].values.astype(np.float64)


def is_weighted(run: Run) -> bool:
    """Return whether any token has another weight than 1."""
    return bool((token_weights(run) != 1).any())


def standard_error(values: np.ndarray) -> Any:
    """Return the standard error of the mean over the first axis; NaN for one value."""
    if len(values) < 2:
        return np.full(values.shape[1:], np.nan)[()]
    return values.std(axis=0, ddof=1) / np.sqrt(len(values))


def weighted_mean(values: np.ndarray, weights: np.ndarray) -> float:
    """Return the weighted mean of values (token,); NaN if there are no values."""
    return float(np.average(values, weights=weights)) if len(values) else float("nan")


def weighted_quantiles(
    values: np.ndarray, weights: np.ndarray, levels: Sequence[float]
) -> Float64[np.ndarray, " quantile"]:
    """Return weighted quantiles of at least one finite value (token,), interpolated linearly.

    Notes
    -----
    In ascending order, value k is the quantile of level (W_k - w_k/2 - w_1/2) / (W_n - w_1/2 - w_n/2) with W_k = w_1 +
    ... + w_k. For equal weights that is (k - 1) / (n - 1), NumPy's own default, the median of Hyndman and Fan's type 7.
    """
    if (weights == weights[0]).all():
        return np.asarray(np.quantile(values, levels), np.float64)
    order = np.argsort(values, kind="stable")
    w = weights[order]
    places = np.cumsum(w) - w / 2 - w[0] / 2
    return np.asarray(np.interp(np.asarray(levels) * places[-1], places, values[order]), np.float64)
