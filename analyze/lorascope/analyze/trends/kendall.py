"""The Mann-Kendall test of a monotone trend, over one block or summed over several."""

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from .null import (
    MOST_POINTS,
    Method,
    NullDistribution,
    count_states,
    normal_tail,
    of_random_tables,
    sorted_share,
    sum_of_blocks,
)

__all__ = ["KendallTest", "mann_kendall"]

Counts = tuple[int, ...]


class KendallTest(NamedTuple):
    """S of Mann and Kendall, summed over blocks, and what its null distribution says of it; all p are one-sided."""

    S: int
    """Pairs of one block that rise along x, less pairs that fall: negative where the response falls."""
    tau: float
    """S / n_pairs, -1 to 1: Kendall's tau a of a block with one cell a level, Somers' d where levels repeat."""
    n_pairs: int
    """Pairs of cells of one block at different x, those of equal responses included."""
    n_tied_pairs: int
    """Those of them whose responses are equal."""
    variance: float
    """Of S under the null, given the ties in x and in y."""
    z: float
    """S, one closer to the side that isn't claimed, over its standard deviation; 0 where S can't vary."""
    p_value: float
    """P(S as extreme as this in the direction claimed): by `method`."""
    p_opposite: float
    """The same in the opposite direction: by `method`."""
    p_normal: float
    """The same as `p_value` of a normal distribution, from z, for contrast."""
    p_floor: float
    """Null probability of the most extreme S in the direction claimed: no data with these ties reach a smaller p."""
    n_blocks: int
    n_cells: int
    method: Method
    """`exact`: over all orders of each block's responses among its cells, given the ties."""


class _Block(NamedTuple):
    """One block's share of all of the above."""

    S: int
    n_pairs: int
    n_tied_pairs: int
    variance: float
    p_floor: float
    null: NullDistribution | None


def mann_kendall(x: np.ndarray, y: np.ndarray, blocks: np.ndarray, *, increasing: bool) -> KendallTest:
    """Regional Mann-Kendall test: S summed over blocks, with its exact one-sided p and the smallest p that could be.

    Parameters
    ----------
    x
        Numbers (cell,) along which the response is claimed to rise or fall; several cells of a block may share one.
    y
        Responses (cell,).
    blocks
        Labels (cell,): pairs are compared within a block only.
    increasing
        The claim: y rises along x, or else falls.

    Raises
    ------
    ValueError
        If the three don't have one axis of the same length, a number isn't finite, or no block has two different x.

    Notes
    -----
    S = sum over blocks and pairs i < j of one block of sign(x_j - x_i) sign(y_j - y_i). Under the null every order of a
    block's responses among its cells is as likely, whatever is tied, and blocks are independent. Exact are the
    distribution of each block, given its ties in x and in y, and the convolution over blocks, both in float64. A block
    without ties, or with ties in one of x and y only, is counted as inversions of a multiset (without ties Mahonian
    numbers), whatever its size; with ties in both by filling a random table, which takes at most 4096 states (any 12
    cells, more where many are tied). Beyond, and where 2 S spans more than 40,000 values over all blocks, p is the
    normal approximation, and `method` says so. A p or floor below 1e-308 comes back as 0.

    With t the sizes of ties in x, u those in y, and n cells, S of a block has variance
    (n (n-1)(2n+5) - sum t (t-1)(2t+5) - sum u (u-1)(2u+5))/18
    + sum t (t-1)(t-2) sum u (u-1)(u-2)/(9n (n-1)(n-2)) + sum t (t-1) sum u (u-1)/(2n (n-1)).
    z takes S + 1 where a fall is claimed and S - 1 where a rise is: the correction for continuity of a one-sided p.

    References
    ----------
    Mann 1945, Econometrica 13, 245-259. Kendall 1970, Rank Correlation Methods, chapters 3 to 5. Hirsch and Slack 1984,
    Water Resources Research 20, 727-732, and Helsel and Frans 2006, Environmental Science and Technology 40, 4066-4073:
    sums over seasons and places.

    Examples
    --------
    >>> import numpy as np
    >>> found = mann_kendall(np.array([1, 2, 4]), np.array([3.0, 2.0, 1.0]), np.zeros(3), increasing=False)
    >>> found.S, found.tau, round(found.p_value * 6, 9)
    (-3, -1.0, 1.0)
    """
    x, y, labels = _cells(x, y, blocks)
    direction = 1 if increasing else -1
    inside = [labels == one for one in dict.fromkeys(labels.tolist())]
    parts = [_block(x[one], y[one], direction) for one in inside if np.ptp(x[one]) > 0]
    if not parts:
        raise ValueError("no block has two different values of `x`; a trend needs two in one block")
    s = sum(part.S for part in parts)
    variance = math.fsum(part.variance for part in parts)
    spread = math.sqrt(variance)
    z = (s - direction) / spread if variance else 0.0
    nulls = [part.null for part in parts if part.null]
    null = sum_of_blocks(nulls) if len(nulls) == len(parts) else None
    p_normal = normal_tail(direction * z) if variance else 1.0
    if null:
        rising, falling = null.at_least(s), null.at_most(s)
        p_value, p_opposite = (rising, falling) if increasing else (falling, rising)
    else:
        p_value, p_opposite = p_normal, normal_tail(-direction * (s + direction) / spread) if variance else 1.0
    n_pairs = sum(part.n_pairs for part in parts)
    return KendallTest(
        S=s,
        tau=s / n_pairs,
        n_pairs=n_pairs,
        n_tied_pairs=sum(part.n_tied_pairs for part in parts),
        variance=variance,
        z=z,
        p_value=p_value,
        p_opposite=p_opposite,
        p_normal=p_normal,
        p_floor=math.prod(part.p_floor for part in parts),
        n_blocks=len(parts),
        n_cells=sum(int(one.sum()) for one in inside if np.ptp(x[one]) > 0),
        method="exact" if null else "normal approximation",
    )


def _cells(x: np.ndarray, y: np.ndarray, blocks: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    x, y, labels = np.asarray(x, np.float64), np.asarray(y, np.float64), np.asarray(blocks)
    if not (x.ndim == 1 and x.shape == y.shape == labels.shape):
        raise ValueError(
            f"`x`, `y` and `blocks` have shapes {x.shape}, {y.shape}, {labels.shape}; give one axis, alike"
        )
    for name, values in (("x", x), ("y", y)):
        if not np.isfinite(values).all():
            raise ValueError(
                f"`{name}` holds {float(values[~np.isfinite(values)][0])!r}; allowed are finite numbers: leave the "
                "cell out"
            )
    return x, y, labels


def _block(x: np.ndarray, y: np.ndarray, direction: int) -> _Block:
    rises_x, rises_y = np.sign(x[:, None] - x), np.sign(y[:, None] - y)
    n_x, n_y = (np.unique(one, return_counts=True)[1] for one in (x, y))
    return _Block(
        S=int((rises_x * rises_y).sum()) // 2,
        n_pairs=int(np.abs(rises_x).sum()) // 2,
        n_tied_pairs=int((np.abs(rises_x) * (rises_y == 0)).sum()) // 2,
        variance=_variance(len(x), n_x, n_y),
        p_floor=sorted_share(x, direction * y),
        null=_block_null(tuple(n_x.tolist()), tuple(n_y.tolist())),
    )


def _variance(n: int, t: np.ndarray, u: np.ndarray) -> float:
    plain = [float((one * (one - 1) * (2 * one + 5)).sum()) for one in (np.array([n]), t, u)]
    pairs = [float((one * (one - 1)).sum()) for one in (t, u)]
    triples = [float((one * (one - 1) * (one - 2)).sum()) for one in (t, u)]
    third = math.prod(triples) / (9 * n * (n - 1) * (n - 2)) if n > 2 else 0.0
    # all of one side tied: the terms cancel, but not to the last digit
    varies = len(t) > 1 and len(u) > 1
    return (plain[0] - plain[1] - plain[2]) / 18 + third + math.prod(pairs) / (2 * n * (n - 1)) if varies else 0.0


@lru_cache(maxsize=256)
def _block_null(n_x: Counts, n_y: Counts) -> NullDistribution | None:
    """Distribution of S of one block, given how many cells share each x and each y, in ascending order."""
    if max(n_x) == 1 or max(n_y) == 1:
        return _from_inversions(n_y if max(n_x) == 1 else n_x)
    rows, columns = sorted((n_x, n_y), key=count_states)
    return of_random_tables(rows, columns, _rises_less_falls)


def _rises_less_falls(index: int, used: Counts, column: Counts) -> int:
    """What a column adds to S: pairs of one of its cells with one of the columns before."""
    total, below, score = sum(used), 0, 0
    for before, here in zip(used, column, strict=True):
        score += here * (2 * below + before - total)
        below += before
    return score


def _from_inversions(counts: Counts) -> NullDistribution | None:
    """Distribution of S where only one side is tied: S is the pairs that differ less twice the inversions."""
    n_pairs = (sum(counts) ** 2 - sum(n * n for n in counts)) // 2
    if 2 * n_pairs >= MOST_POINTS:
        return None
    inversions, before = np.ones(1), 0
    for n in counts:
        inversions = np.convolve(inversions, _between(n, before))
        before += n
    spread = np.zeros(2 * n_pairs + 1)
    spread[::2] = inversions
    return NullDistribution(-n_pairs, spread)


def _between(m: int, n: int) -> np.ndarray:
    """Probabilities (m n + 1,) of the inversions between m things of one kind and n of another in random order."""
    row = [np.ones(1)] * (n + 1)
    for i in range(1, m + 1):
        above, row = row, [np.ones(1)]
        for j in range(1, n + 1):
            last = np.zeros(i * j + 1)
            last[j:] = above[j] * (i / (i + j))  # a thing of the first kind comes last, behind all j of the other
            last[: i * (j - 1) + 1] += row[j - 1] * (j / (i + j))
            row.append(last)
    return row[n]
