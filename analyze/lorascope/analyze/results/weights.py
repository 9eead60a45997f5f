"""Weights of tokens, tokens that repeat an earlier one, and weighted statistics, their standard errors and t tests."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64

from lorascope.stores import Run

LEAST_SAMPLES = 5
"""Fewest samples of a t test."""


def token_weights(run: Run) -> Float64[np.ndarray, " token"]:
    """Return each token's weight, float64 (token,): the inverse of its probability of being captured."""
    return run.tokens["weight"].values.astype(np.float64)


def prefix_repeats(run: Run, usable: Bool[np.ndarray, " token"]) -> Bool[np.ndarray, " token"]:
    """Return a mask of usable tokens whose ids, from position 0 up to them, equal those of an earlier usable token.

    In a causal model these have the same states and predictions. A sample's prefixes are known if its captured
    positions run from 0 without a gap.
    """
    starts = run.samples["token_start"].values
    samples, positions, ids = (run.tokens[name].values for name in ("sample", "position", "token_id"))
    # Positions of a sample ascend: one that equals its place means that none before it is missing.
    known = positions == np.arange(run.n_tokens) - starts[samples]
    n_known = np.bincount(samples[known], minlength=len(starts))
    is_repeat = np.zeros(run.n_tokens, bool)
    alike, prefixes, place = np.flatnonzero(n_known), np.zeros(np.count_nonzero(n_known), np.int64), 0
    while len(alike) > 1:  # samples whose first `place` ids another sample has, and the number of that prefix
        tokens = starts[alike] + place
        keys = prefixes * (int(ids.max()) + 1) + ids[tokens]
        _, prefixes, counts = np.unique(keys, return_inverse=True, return_counts=True)
        candidates = np.flatnonzero(usable[tokens])
        later = np.delete(candidates, np.unique(prefixes[candidates], return_index=True)[1])
        is_repeat[tokens[later]] = True
        place += 1
        shared = (counts[prefixes] > 1) & (n_known[alike] > place)
        alike, prefixes = alike[shared], prefixes[shared]
    return is_repeat


def is_weighted(run: Run) -> bool:
    """Return whether any token has another weight than 1."""
    return bool((token_weights(run) != 1).any())


def standard_error(values: np.ndarray) -> Any:
    """Return the standard error of the mean over the first axis; NaN for one value."""
    if len(values) < 2:
        return np.full(values.shape[1:], np.nan)[()]
    return values.std(axis=0, ddof=1) / np.sqrt(len(values))


def ratio(
    numerator: Float64[np.ndarray, "sample estimate"], denominator: Float64[np.ndarray, "sample ..."]
) -> tuple[Float64[np.ndarray, " estimate"], Float64[np.ndarray, "sample estimate"]]:
    """Return sums over sums, and residuals: what each sample adds to the error (Cochran 1977, Sampling, eq. 2.39)."""
    total = denominator.sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):  # NaN if there is nothing to divide by
        share = numerator.sum(axis=0) / total
        return share, (numerator - share * denominator) / total


def ratio_error(residual: Float64[np.ndarray, "sample estimate"]) -> Float64[np.ndarray, " estimate"]:
    """Return standard errors over samples from the residuals of `ratio`; NaN for one sample."""
    n = len(residual)
    return np.sqrt((residual**2).sum(axis=0) * n / (n - 1)) if n > 1 else np.full(residual.shape[1], np.nan)


def t_test(value: np.ndarray, error: np.ndarray, n_samples: int) -> Float64[np.ndarray, " estimate"]:
    """Return two-sided p-values of Student's t with n_samples - 1 degrees of freedom; NaN for a value and error of 0.

    They are NaN too for fewer than five samples, where the error of a ratio is too rough for a test.
    """
    from scipy.special import stdtr  # type: ignore[import-untyped]  # scipy.stats takes a quarter of a second more

    with np.errstate(invalid="ignore", divide="ignore"):
        t = np.abs(value / error)
    return np.asarray(2 * stdtr(n_samples - 1, -t)) if n_samples >= LEAST_SAMPLES else np.full(len(t), np.nan)


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
