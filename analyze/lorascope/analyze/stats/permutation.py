"""Labels of settings permuted, alike in all groups: what few settings can tell of a metric, however many the groups."""

import math
from itertools import permutations

import numpy as np

from .correlations import centred

__all__ = ["permutation_p", "permuted_pearson", "setting_orders"]

ROUNDING = 1e-12
"""How far two correlations may differ and count as the same; sums of squares below this share count as 0."""


def setting_orders(n_settings: int, n_draws: int, rng: np.random.Generator) -> np.ndarray:
    """Integers (order, setting), the first of which leaves settings as they are: all orders, or `n_draws` random ones.

    Random are those beside the first where there are more than `n_draws` orders in all, such as 40,320 of 8 settings.
    """
    if math.factorial(n_settings) <= n_draws:
        return np.array(list(permutations(range(n_settings))))
    as_it_is = np.arange(n_settings)
    return np.vstack([as_it_is, rng.permuted(np.tile(as_it_is, (n_draws, 1)), axis=1)])


def permuted_pearson(values: np.ndarray, accuracy: np.ndarray, orders: np.ndarray) -> np.ndarray:
    """Pooled Pearson (order,) of accuracy with values under each order of the values' settings.

    Parameters
    ----------
    values, accuracy
        (group, setting), NaN where a group lacks a setting.
    orders
        (order, setting), as `setting_orders` gives them.

    Notes
    -----
    Under an order p, accuracy of setting s stands beside the value of setting p(s) in the same group, in all groups
    alike. A cell whose partner the group lacks is left out, and group means are taken over the others. NaN where
    nothing that is left varies.
    """
    x, y = centred(values), centred(accuracy)
    sums = np.zeros((3, len(orders)))  # of squares of x, of squares of y, of products
    for one, other in zip(x, y, strict=True):
        moved = one[orders]
        both = np.isfinite(moved) & np.isfinite(other)
        n = np.maximum(both.sum(axis=1, keepdims=True), 1)
        a, b = (np.where(both, side, 0.0) for side in (moved, other))
        a, b = (np.where(both, side - side.sum(axis=1, keepdims=True) / n, 0.0) for side in (a, b))
        sums += np.stack([(a * a).sum(axis=1), (b * b).sum(axis=1), (a * b).sum(axis=1)])
    defined = (sums[0] > ROUNDING * np.nansum(x * x)) & (sums[1] > ROUNDING * np.nansum(y * y))
    scale = np.sqrt(sums[0]) * np.sqrt(sums[1])
    return np.asarray(np.divide(sums[2], scale, out=np.full(len(orders), np.nan), where=defined))


def permutation_p(found: np.ndarray) -> float:
    """Two-sided p of a number of 0, from that number under each order (order,), the first of which is the one found.

    NaN if the number found is.

    Notes
    -----
    p is the share of orders that lead as far from 0 as the first. It is exact, where all groups have all settings, if
    settings might as well have had each other's values on one side, in all groups at once, whatever their effects and
    however much groups resemble each other. Orders under which the number isn't defined count as far, which is on the
    safe side. With k settings p can't go below 1/k!.

    References
    ----------
    Mantel (1967), Cancer Research 27, 209: rows of two tables permuted alike.

    Examples
    --------
    >>> permutation_p(np.array([0.9, 0.1, -0.9, 0.3]))
    0.5
    """
    if math.isnan(found[0]):
        return math.nan
    return float((np.isnan(found) | (np.abs(found) >= abs(found[0]) - ROUNDING)).mean())
