"""Page's test of an ordered alternative: whether blocks rank their levels in the order that is claimed."""

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from .null import Method, NullDistribution, normal_tail, of_random_tables, sorted_share, sum_of_blocks

__all__ = ["PageTest", "page_l"]


class PageTest(NamedTuple):
    """Page's L and what its null distribution says of it; all p are one-sided."""

    L: float
    """Sum over blocks and levels of level times rank, both from 1 on; ranks count in the direction that is claimed."""
    expected: float
    """Mean of L under the null."""
    largest: float
    """The largest L that these ties allow."""
    z: float
    """(L - expected) / standard deviation under the null, given the ties; 0 where L can't vary."""
    p_value: float
    """P(L or more), small where the claim holds: by `method`."""
    p_opposite: float
    """P(L or less), small where the opposite holds: by `method`."""
    p_normal: float
    """P(Z >= z) of a normal Z, for contrast."""
    p_floor: float
    """P(largest): no data of this shape, with these ties, could reach a smaller p."""
    n_blocks: int
    n_levels: int
    n_tied_pairs: int
    """Pairs of levels of one block with equal responses."""
    method: Method
    """`exact`: over all orders of each block's values among its levels, given the ties."""


def page_l(values: np.ndarray, *, increasing: bool) -> PageTest:
    """Page's L of a complete table, with its exact one-sided p and the smallest p that could be.

    Parameters
    ----------
    values
        Responses (block, level), levels in ascending order. Ties share their mean rank.
    increasing
        The claim: responses rise along the levels, or else fall.

    Raises
    ------
    ValueError
        If there aren't two axes with a block and two levels, or a value isn't finite.

    Notes
    -----
    L = sum_b sum_j j r_bj, r_bj the rank of level j in block b: from the smallest response on where it is claimed to
    rise, from the largest on where it is claimed to fall. Under the null every order of a block's values among its k
    levels is as likely, and blocks are independent. So L has mean B k (k + 1)^2/4 and variance sum_b (k (k + 1)/12)
    sum_j (r_bj - (k + 1)/2)^2, which without ties is B k^2 (k + 1)(k^2 - 1)/144. Exact are the distribution of each
    block, counted over all orders of its own ranks, ties included, and the convolution over blocks, both in float64. A
    block of more than 12 levels (with ties: of more than 4096 sets of ranks used up), or a sum over blocks of more than
    40,000 points (half a unit of L apart), gets the normal approximation, without a correction for continuity, and
    `method` says so. A p or floor below 1e-308 comes back as 0.

    References
    ----------
    Page 1963, Journal of the American Statistical Association 58, 216-230.

    Examples
    --------
    >>> import numpy as np
    >>> found = page_l(np.array([[3.0, 2.0, 1.0], [9.0, 8.0, 7.0]]), increasing=False)
    >>> found.L, found.expected, round(found.p_value * 36, 9)
    (28.0, 24.0, 1.0)
    """
    table = _table(values)
    twice_ranks = np.stack([_twice_midranks(row if increasing else -row) for row in table])
    n_blocks, k = table.shape
    levels = np.arange(1, k + 1)
    twice_l = int((twice_ranks @ levels).sum())
    expected = n_blocks * k * (k + 1) ** 2 / 4
    variance = float(((twice_ranks - (k + 1)) ** 2).sum()) * k * (k + 1) / 48
    z = (twice_l / 2 - expected) / math.sqrt(variance) if variance else 0.0
    null = _null(twice_ranks)
    sorted_ranks = np.sort(twice_ranks, axis=1)
    tails = (null.at_least(twice_l), null.at_most(twice_l)) if null else (normal_tail(z), normal_tail(-z))
    return PageTest(
        L=twice_l / 2,
        expected=expected,
        largest=int((sorted_ranks @ levels).sum()) / 2,
        z=z,
        p_value=tails[0],
        p_opposite=tails[1],
        p_normal=normal_tail(z) if variance else 1.0,
        p_floor=math.prod(sorted_share(levels, row) for row in table),
        n_blocks=n_blocks,
        n_levels=k,
        n_tied_pairs=sum(int((row[:, None] == row).sum() - k) // 2 for row in table),
        method="exact" if null else "normal approximation",
    )


def _table(values: np.ndarray) -> np.ndarray:
    table = np.asarray(values, np.float64)
    if table.ndim != 2 or table.shape[0] < 1 or table.shape[1] < 2:
        raise ValueError(
            f"`values` has shape {table.shape}; Page's test needs (block, level) with one block and two levels at least"
        )
    if not np.isfinite(table).all():
        raise ValueError(
            f"`values` holds {float(table[~np.isfinite(table)][0])!r}; allowed are finite numbers: leave out blocks "
            "that lack a level"
        )
    return table


def _twice_midranks(row: np.ndarray) -> np.ndarray:
    """Twice the mean rank of each value, which is a whole number."""
    _, place, counts = np.unique(row, return_inverse=True, return_counts=True)
    return np.asarray((2 * np.cumsum(counts) - counts + 1)[place])


def _null(twice_ranks: np.ndarray) -> NullDistribution | None:
    """Distribution of twice L."""
    blocks = [_block_null(tuple(row)) for row in np.sort(twice_ranks, axis=1).tolist()]
    known = [block for block in blocks if block]
    return sum_of_blocks(known) if len(known) == len(blocks) else None


@lru_cache(maxsize=256)
def _block_null(twice_ranks: tuple[int, ...]) -> NullDistribution | None:
    """Distribution of the sum of level times twice the rank, over all orders of one block's ranks."""
    distinct = sorted(set(twice_ranks))
    kinds = tuple(twice_ranks.count(one) for one in distinct)
    return of_random_tables(
        kinds, (1,) * len(twice_ranks), lambda index, _, column: (index + 1) * distinct[column.index(1)]
    )
