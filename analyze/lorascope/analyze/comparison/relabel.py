"""Labels of settings permuted, alike in all blocks: what few settings can tell of a metric, however many the blocks."""

import math
from itertools import permutations
from typing import NamedTuple

import numpy as np

from .resample import ROUNDING
from .within import centred

__all__ = ["MOST_RELABELLED", "Relabelling", "relabel_test", "relabelled_pearson", "setting_orders"]

MOST_RELABELLED = 7
"""Settings up to which each of the k! orders is taken, which are 5,040 of 7."""


class Relabelling(NamedTuple):
    """A test of no relation between what settings do to two columns."""

    p: float
    """Two-sided."""
    floor: float
    """No p can be below."""


def setting_orders(n_settings: int, n_resamples: int, rng: np.random.Generator) -> np.ndarray:
    """Integers (order, setting): orders of settings, the first of which leaves them as they are.

    Parameters
    ----------
    n_settings
        k, at least 1.
    n_resamples, rng
        Used above 7 settings only, for as many random orders beside the first.
    """
    if n_settings <= MOST_RELABELLED:
        return np.array(list(permutations(range(n_settings))))
    as_it_is = np.arange(n_settings)
    return np.vstack([as_it_is, rng.permuted(np.tile(as_it_is, (n_resamples, 1)), axis=1)])


def relabelled_pearson(
    values: np.ndarray, accuracy: np.ndarray, block: np.ndarray, setting: np.ndarray, orders: np.ndarray
) -> np.ndarray:
    """Pooled Pearson (order,) of accuracy with values under each order of the values' settings.

    Parameters
    ----------
    values, accuracy
        (cell,), in any unit.
    block, setting
        (cell,), codes 0, 1, ...; a block has a setting at most once.
    orders
        (order, setting), as `setting_orders` gives them.

    Notes
    -----
    Under an order p, accuracy of setting s stands beside the value of setting p(s) in the same block, in all blocks
    alike. A cell whose partner the block lacks is left out, and block means are taken over the others. NaN where
    nothing that is left varies.
    """
    x, y = centred(values, block), centred(accuracy, block)
    sums = np.zeros((3, len(orders)))  # of squares of x, of squares of y, of products
    for one in range(int(block.max()) + 1):
        inside = block == one
        table = np.full((2, orders.shape[1]), np.nan)
        table[:, setting[inside]] = x[inside], y[inside]
        sums += _sums(table[0][orders], table[1])
    defined = (sums[0] > ROUNDING * (x @ x)) & (sums[1] > ROUNDING * (y @ y))
    scale = np.sqrt(sums[0]) * np.sqrt(sums[1])
    return np.asarray(np.divide(sums[2], scale, out=np.full(len(orders), np.nan), where=defined))


def relabel_test(found: np.ndarray) -> Relabelling:
    """Test of a number of 0, from that number under each order (order,), the first of which is the one found.

    Raises
    ------
    ValueError
        If the number found isn't finite.

    Notes
    -----
    p is the share of orders that lead as far from 0 as the first. It is exact, where all blocks have all settings, if
    settings might as well have had each other's values on one side, in all blocks at once, whatever their effects and
    however much blocks resemble each other. Orders under which the number isn't defined count as far, which is
    on the safe side. With k settings p can't go below 1/k!; above 7 settings it is (1 + j)/(1 + m), j of m random
    orders being as far out.

    References
    ----------
    Mantel (1967), Cancer Research 27, 209: rows of two tables permuted alike.

    Examples
    --------
    >>> import numpy as np
    >>> relabel_test(np.array([0.9, 0.1, -0.9, 0.3]))
    Relabelling(p=0.5, floor=0.25)
    """
    if not math.isfinite(found[0]):
        raise ValueError(f"the number found is {float(found[0])!r}; a test needs a finite one")
    undefined = np.isnan(found)
    far = undefined | (np.abs(found) >= abs(found[0]) - ROUNDING)
    return Relabelling(float(far.mean()), float((1 + undefined.sum()) / len(found)))


def _sums(values: np.ndarray, accuracy: np.ndarray) -> np.ndarray:
    """Of one block (3, order): squares and products of values (order, setting) and accuracy (setting,), centred."""
    both = ~np.isnan(values) & ~np.isnan(accuracy)
    n = np.maximum(both.sum(axis=1, keepdims=True), 1)
    x, y = (np.where(both, side, 0.0) for side in (values, accuracy))
    x, y = (np.where(both, side - side.sum(axis=1, keepdims=True) / n, 0.0) for side in (x, y))
    return np.stack([(x * x).sum(axis=1), (y * y).sum(axis=1), (x * y).sum(axis=1)])
