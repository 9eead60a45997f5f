"""Whether a metric orders the settings in each block alike, and whether it does so more than another."""

from typing import NamedTuple

import numpy as np

from .resample import ROUNDING

__all__ = ["Swap", "common_cells", "concordance", "swap_test"]

MOST_SWAPPED = 14
"""Blocks up to which each of the 2^(G - 1) sets is taken."""


class Swap(NamedTuple):
    """A test of a difference of two concordances by swapping the two metrics within blocks."""

    difference: float
    p: float
    """Two-sided."""
    floor: float
    """The least p that so many blocks can give, those in which both metrics have the same ranks left aside."""


def common_cells(block: np.ndarray, setting: np.ndarray) -> np.ndarray:
    """Integers (block, setting): the cells of the settings that every block has, from codes (cell,).

    A block has a setting at most once.
    """
    table = np.full((int(block.max()) + 1, int(setting.max()) + 1), -1)
    table[block, setting] = np.arange(len(block))
    return table[:, (table >= 0).all(axis=0)]


def concordance(values: np.ndarray) -> float:
    """Kendall's W of values (block, setting): 1 where each block orders the settings alike, near 0 where none agree.

    Raises
    ------
    ValueError
        If there are fewer than two blocks or three settings, or no block tells settings apart.

    Notes
    -----
    The share of the variance of within-block ranks that is between settings, which is W corrected for ties. Only
    orders count. A coefficient of variation wouldn't do: adding a constant to a metric makes it as small as one likes.

    References
    ----------
    Kendall and Babington Smith (1939), Annals of Mathematical Statistics 10, 275.

    Examples
    --------
    >>> import numpy as np
    >>> concordance(np.array([[1, 2, 3], [4, 5, 9]])), concordance(np.array([[1, 2, 3], [3, 2, 1]]))
    (1.0, 0.0)
    """
    if values.shape[0] < 2 or values.shape[1] < 3:
        raise ValueError(f"concordance needs two blocks and three settings; there are {values.shape}")
    r = _centred_ranks(values)
    if not r.any():
        raise ValueError("no block tells settings apart; there is nothing to agree on")
    return float(_concordances(r.sum(axis=0), (r * r).sum(), len(r)))


def swap_test(first: np.ndarray, second: np.ndarray, n_resamples: int, rng: np.random.Generator) -> Swap:
    """Test of whether one metric's concordance exceeds another's; values (block, setting) of each.

    Parameters
    ----------
    first, second
        As for `concordance`, which they must suit.
    n_resamples, rng
        Used above 14 blocks only.

    Notes
    -----
    Within any set of blocks the two metrics' ranks are swapped, and p is the share of sets that leave the two
    concordances as far apart as they are: exact if, in each block, either metric could as well have had the other's
    ranks. That null is about these settings. Of two metrics whose effects of settings are drawn alike, but apart, one
    has the larger effects among few settings and with it the larger concordance, which small p rightly tell; they
    don't tell that it would in other settings. Of the sets, 2^(G - 1) differ, for G blocks in which the two metrics'
    ranks do. Where a set leaves a side that varies nowhere, its concordance counts as 0.
    """
    difference = concordance(first) - concordance(second)
    a, b = _centred_ranks(first), _centred_ranks(second)
    kept = _sets(len(a), n_resamples, rng)
    squares = [(r * r).sum(axis=1) for r in (a, b)]
    one = _concordances(kept @ a + (1 - kept) @ b, kept @ squares[0] + (1 - kept) @ squares[1], len(a))
    other = _concordances(kept @ b + (1 - kept) @ a, kept @ squares[1] + (1 - kept) @ squares[0], len(a))
    n_far = int((np.abs(one - other) >= abs(difference) - ROUNDING).sum())
    if len(a) > MOST_SWAPPED:
        return Swap(difference, (1 + n_far) / (1 + n_resamples), 1 / (1 + n_resamples))
    n_moved = int((a != b).any(axis=1).sum())
    return Swap(difference, n_far / len(kept), 0.5 ** max(n_moved - 1, 0))


def _sets(n_blocks: int, n_resamples: int, rng: np.random.Generator) -> np.ndarray:
    """Float64 (set, block): 1 where a block stays, 0 where it is swapped; the first stays unless sets are drawn."""
    if n_blocks > MOST_SWAPPED:
        return rng.integers(0, 2, size=(n_resamples, n_blocks)).astype(np.float64)
    bits = np.arange(2 ** (n_blocks - 1))[:, None] >> np.arange(n_blocks - 1)
    return np.hstack([np.ones((len(bits), 1)), 1.0 - (bits & 1)])


def _centred_ranks(values: np.ndarray) -> np.ndarray:
    """(block, setting), mean ranks of ties, less the mean rank."""
    from scipy.stats import rankdata  # type: ignore[import-untyped]

    return np.asarray(rankdata(values, axis=1) - (values.shape[1] + 1) / 2)


def _concordances(sums: np.ndarray, squares: np.ndarray, n_blocks: int) -> np.ndarray:
    """W from sums of centred ranks (..., setting) over blocks and the sum of all their squares (...)."""
    between = (sums * sums).sum(axis=-1) / n_blocks
    return np.asarray(np.divide(between, squares, out=np.zeros_like(between), where=np.asarray(squares) > 0))
