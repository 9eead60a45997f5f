"""How much of an accuracy's variation a test set of so many items gives by chance."""

from typing import NamedTuple

import numpy as np

from .within import centred

__all__ = ["NoiseShare", "accuracy_error", "items_needed", "noise_share", "pair_z"]

TELLING = 2.0
"""Standard errors from which on two accuracies count as different."""


class NoiseShare(NamedTuple):
    """Variance of accuracy within blocks, and what sampling of test items explains of it."""

    noise: float
    """Mean variance of sampling."""
    within: float
    """Variance within blocks."""
    share: float
    """The first over the second; above 1 where chance alone would give more than there is."""


def accuracy_error(accuracy: np.ndarray, n_items: np.ndarray) -> np.ndarray:
    """Standard error (cell,) of accuracies, shares of n_items (cell,) independent items: sqrt(p(1 - p)/n).

    It is 0 at an accuracy of 0 or 1, where this formula fails.
    """
    return np.asarray(np.sqrt(accuracy * (1 - accuracy) / n_items))


def noise_share(accuracy: np.ndarray, error: np.ndarray, block: np.ndarray) -> NoiseShare:
    """How much of the variance of accuracy within blocks its standard errors (cell,) explain.

    Raises
    ------
    ValueError
        If accuracy is constant in every block.

    Notes
    -----
    Within: sum of squares about block means over n - G. Noise: what independent errors add to that, the mean of squared
    errors in a block, weighed by its cells less 1. No correlation of accuracy with an exact quantity is expected above
    sqrt(1 - share). Settings that answer the same items share part of their error, which then doesn't vary within a
    block: the true share is smaller.

    References
    ----------
    Spearman (1904), American Journal of Psychology 15, 72: attenuation by errors of measurement.
    """
    inside = centred(accuracy, block)
    if not inside.any():
        raise ValueError("accuracy is constant in every block; noise has no share of a variance of 0")
    n = np.bincount(block)
    df = float((n - 1).sum())
    noise = float((np.bincount(block, error**2) / n) @ (n - 1)) / df
    within = float(inside @ inside) / df
    return NoiseShare(noise, within, noise / within)


def pair_z(accuracy: np.ndarray, error: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Differences of accuracy (pair,), first less second, over their standard error; infinite if that is 0.

    Errors of the two are taken as independent; pairs with the same accuracy have 0.
    """
    difference = accuracy[pairs[:, 0]] - accuracy[pairs[:, 1]]
    spread = np.hypot(error[pairs[:, 0]], error[pairs[:, 1]])
    far = np.where(difference == 0, 0.0, np.copysign(np.inf, difference))
    return np.asarray(np.divide(difference, spread, out=far, where=spread > 0))


def items_needed(accuracy: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Float64 (pair,): items at which a difference of accuracy is 2 standard errors; infinite for equal accuracies.

    n = 4 (p(1 - p) + q(1 - q))/(p - q)^2, not rounded, for accuracies p and q on n items each, independent.
    """
    p, q = accuracy[pairs[:, 0]], accuracy[pairs[:, 1]]
    apart = (p - q) ** 2
    spread = p * (1 - p) + q * (1 - q)
    return np.asarray(TELLING**2 * np.divide(spread, apart, out=np.full(len(pairs), np.inf), where=apart > 0))
