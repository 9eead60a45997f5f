"""Bootstrap draws of groups, orders of settings, and intervals from draws."""

import math
from itertools import combinations_with_replacement, permutations
from typing import Any, NamedTuple

import numpy as np
from scipy.special import gammaln  # type: ignore[import-untyped]

from lorascope.analyze.results.options import require_whole

FEWEST_DRAWS = 100
"""Smallest allowed number of random draws for a p-value or an interval."""
FEW_GROUPS = 20
"""Number of groups below which intervals from groups are known to be too narrow."""


class Draws(NamedTuple):
    """Bootstrap draws: how often each draw has each group, and the draws' probabilities."""

    counts: np.ndarray
    """Integers (draw, group): how often a group was drawn; each row sums to the number of groups."""
    weights: np.ndarray | None
    """Probabilities (draw,), which sum to 1, if all possible draws were made; None for random draws."""


def group_draws(n_groups: int, n_draws: int, rng: np.random.Generator) -> Draws:
    """Draw groups with replacement: all different draws if at most `n_draws`, else `n_draws` random ones.

    G groups have C(2G - 1, G) different draws: 126 for 5, 1,716 for 7, 92,378 for 10. Counts c have the multinomial
    probability G!/(c_1! ... c_G!) G^-G (Fisher and Hall 1991, Journal of Statistical Planning and Inference 27, 157).

    Examples
    --------
    >>> counts, weights = group_draws(2, 10, np.random.default_rng(0))
    >>> counts.tolist(), weights.round(3).tolist()
    ([[2, 0], [1, 1], [0, 2]], [0.25, 0.5, 0.25])
    """
    if math.comb(2 * n_groups - 1, n_groups) > n_draws:
        return Draws(rng.multinomial(n_groups, np.full(n_groups, 1 / n_groups), size=n_draws), None)
    draws = combinations_with_replacement(range(n_groups), n_groups)
    counts = np.stack([np.bincount(draw, minlength=n_groups) for draw in draws])
    weights = np.exp(-gammaln(counts + 1).sum(axis=1))
    return Draws(counts, weights / weights.sum())


def setting_orders(n_settings: int, n_draws: int, rng: np.random.Generator) -> np.ndarray:
    """Return permutations of settings (order, setting), unchanged first: all, or `n_draws` random ones if more."""
    if math.factorial(n_settings) <= n_draws:
        return np.array(list(permutations(range(n_settings))))
    unchanged = np.arange(n_settings)
    return np.vstack([unchanged, rng.permuted(np.tile(unchanged, (n_draws, 1)), axis=1)])


def percentile_interval(values: np.ndarray, level: float, weights: np.ndarray | None = None) -> tuple[float, float]:
    """Return the percentile interval of a statistic's bootstrap values (draw,), ignoring NaN; NaN if all values are.

    With the weights of `Draws`, an end is the least value at which the cumulated probability reaches its share;
    otherwise quantiles are interpolated linearly (Efron and Tibshirani 1993, section 13.3).
    """
    is_known, shares = ~np.isnan(values), [(1 - level) / 2, (1 + level) / 2]
    if not is_known.any():
        return math.nan, math.nan
    options: dict[str, Any] = {} if weights is None else {"weights": weights[is_known], "method": "inverted_cdf"}
    low, high = np.quantile(values[is_known], shares, **options)
    return float(low), float(high)


def basic_interval(
    estimate: float, values: np.ndarray, level: float, weights: np.ndarray | None = None
) -> tuple[float, float]:
    """Return the basic bootstrap interval: twice the estimate minus the ends of `percentile_interval`.

    It is right if draws differ from the estimate as the estimate differs from the truth (Davison and Hinkley 1997,
    Bootstrap Methods and their Application, eq. 5.6).
    """
    low, high = percentile_interval(values, level, weights)
    return 2 * estimate - high, 2 * estimate - low


def few_groups_note(what: str, n_groups: int) -> list[str]:
    """Return a list with a warning that intervals from fewer than 20 groups may be too narrow, else an empty list.

    `what` begins the sentence, such as `the bootstrap`. See Cameron and Miller (2015), Journal of Human Resources 50,
    317, section VI.
    """
    if n_groups >= FEW_GROUPS:
        return []
    return [f"{what} rests on {n_groups} groups: with fewer than {FEW_GROUPS}, its intervals can be too narrow"]


def refuse_draws(n_draws: int, seed: int, level: float) -> None:
    """Raise ValueError unless `n_draws` is at least 100, `seed` at least 0 and `level` between 0 and 1."""
    require_whole("n_draws", n_draws, FEWEST_DRAWS)
    require_whole("seed", seed, 0)
    if not 0 < level < 1:
        raise ValueError(f"`level` is {level!r}; it must lie between 0 and 1, such as 0.95")
