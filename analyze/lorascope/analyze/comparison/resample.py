"""Blocks as the unit that is drawn: sign flips of one number a block, and the bootstrap of whole blocks."""

import math
from itertools import combinations_with_replacement
from typing import NamedTuple

import numpy as np

__all__ = ["MOST_FLIPPED", "Draws", "Interval", "SignFlip", "block_draws", "interval", "sign_flip"]

MOST_FLIPPED = 20
"""Blocks up to which each of the 2^(G - 1) patterns of signs is taken."""
MOST_DRAWN = 10
"""Blocks up to which each of the C(2G - 1, G) different bootstrap draws is taken, which are 92,378 of 10."""
ROUNDING = 1e-12
"""How near to 0 a block's number counts as 0, and how far sums that are the same may differ."""


class SignFlip(NamedTuple):
    """A test of a mean of 0 by flipping signs."""

    mean: float
    p: float
    """Two-sided."""
    floor: float
    """The least p that so many blocks can give."""
    n_blocks: int


class Draws(NamedTuple):
    """Bootstrap draws of blocks."""

    counts: np.ndarray
    """Float64 (draw, block): how often a block was drawn; rows sum to the number of blocks."""
    weights: np.ndarray
    """Float64 (draw,): probabilities, which sum to 1."""
    is_exact: bool
    """Every possible draw is there; nothing depends on a seed."""


class Interval(NamedTuple):
    """Percentiles of bootstrap draws."""

    low: float
    high: float
    degenerate: float
    """Share of draws, by probability, in which the number isn't defined; the percentiles are those of the others."""


def sign_flip(values: np.ndarray, n_resamples: int, rng: np.random.Generator) -> SignFlip:
    """Test of a mean of 0 of one number a block (block,), with the p-value that sign flips give.

    Parameters
    ----------
    values
        A number a block, such as a difference of two correlations in it; at least one. Numbers are of the order of 1:
        one nearer to 0 than 1e-12 is 0.
    n_resamples, rng
        Used above 20 blocks only.

    Raises
    ------
    ValueError
        If there is no value, or one isn't finite.

    Notes
    -----
    p is the share of patterns of signs whose sum is as far from 0 as the one found, which is exact if each block's
    number is independent of the others' and as likely as its negative. Blocks of 0 say nothing: with G others p can't
    go below 2^-(G - 1), the floor. Above 20 blocks p is (1 + k)/(1 + m), k of m random patterns being as far out.

    References
    ----------
    Fisher (1935), The Design of Experiments, section 21.

    Examples
    --------
    >>> import numpy as np
    >>> sign_flip(np.array([1.0, 3.0, 2.0]), 0, np.random.default_rng(0))
    SignFlip(mean=2.0, p=0.25, floor=0.25, n_blocks=3)
    """
    if not (len(values) and np.isfinite(values).all()):
        raise ValueError(f"sign flips need one finite number a block; these are {np.asarray(values).tolist()}")
    moved = values[np.abs(values) > ROUNDING]
    mean = float(np.mean(values))
    if not len(moved):
        return SignFlip(mean, 1.0, 1.0, len(values))
    is_exact = len(moved) <= MOST_FLIPPED
    sums = _all_sums(moved) if is_exact else rng.choice([-1.0, 1.0], size=(n_resamples, len(moved))) @ moved
    n_far = int((np.abs(sums) >= abs(float(moved.sum())) - ROUNDING).sum())
    if is_exact:
        return SignFlip(mean, n_far / len(sums), 1 / len(sums), len(values))
    return SignFlip(mean, (1 + n_far) / (1 + n_resamples), 1 / (1 + n_resamples), len(values))


def _all_sums(values: np.ndarray) -> np.ndarray:
    """Float64 (2^(G - 1),): sums under all signs but the first's, whose change would only change the sum's."""
    sums = values[:1]
    for value in values[1:]:
        sums = np.concatenate([sums + value, sums - value])
    return sums


def block_draws(n_blocks: int, n_resamples: int, rng: np.random.Generator) -> Draws:
    """Draws of as many blocks as there are, with replacement: all of them where they are few, else a random sample.

    Parameters
    ----------
    n_blocks
        G, at least 1.
    n_resamples, rng
        Used above 10 blocks only.

    Notes
    -----
    A draw with counts c has the multinomial probability G!/(c_1! ... c_G!) G^-G.

    References
    ----------
    Fisher and Hall (1991), Journal of Statistical Planning and Inference 27, 157: exact bootstraps of small samples.
    """
    if n_blocks > MOST_DRAWN:
        counts = rng.multinomial(n_blocks, np.full(n_blocks, 1 / n_blocks), size=n_resamples).astype(np.float64)
        return Draws(counts, np.full(n_resamples, 1 / n_resamples), False)
    drawn = np.array(list(combinations_with_replacement(range(n_blocks), n_blocks)))
    counts = np.stack([(drawn == one).sum(axis=1) for one in range(n_blocks)], axis=1)
    factorials = np.array([math.factorial(k) for k in range(n_blocks + 1)], np.float64)
    weights = factorials[n_blocks] / factorials[counts].prod(axis=1) / float(n_blocks) ** n_blocks
    return Draws(counts.astype(np.float64), weights / weights.sum(), True)


def interval(values: np.ndarray, draws: Draws, significance: float) -> Interval:
    """The central 1 - significance of a number over bootstrap draws.

    Parameters
    ----------
    values
        (draw,), NaN where the number isn't defined in a draw.
    draws
        Where they come from.
    significance
        Share left outside, half of it on either side.

    Raises
    ------
    ValueError
        If no draw defines the number.

    Notes
    -----
    An end is the least value at which the cumulated probability reaches its share. Few blocks make such an interval
    too narrow.

    References
    ----------
    Efron and Tibshirani (1993), An Introduction to the Bootstrap, section 13.3.
    """
    good = ~np.isnan(values)
    if not good.any():
        raise ValueError("no bootstrap draw of blocks defines the number; give more blocks in which it varies")
    weights = draws.weights[good]
    low, high = np.quantile(
        values[good], [significance / 2, 1 - significance / 2], weights=weights, method="inverted_cdf"
    )
    return Interval(float(low), float(high), float(1 - weights.sum()) if not good.all() else 0.0)
