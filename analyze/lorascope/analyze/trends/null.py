"""Exact null distributions on whole numbers: of one block by counting its orders, of several by convolution."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np

__all__ = [
    "MOST_POINTS",
    "MOST_STATES",
    "Method",
    "NullDistribution",
    "count_states",
    "normal_tail",
    "of_random_tables",
    "sorted_share",
    "sum_of_blocks",
]

Method = Literal["exact", "normal approximation"]
MOST_STATES = 4096
"""Of one block, in `of_random_tables`: 12 values that all differ, or more of which some are tied."""
MOST_POINTS = 40_000
"""Values that a sum over blocks may span; beyond, the work isn't worth it and normal tails are good."""

Counts = tuple[int, ...]


class NullDistribution(NamedTuple):
    """Probabilities of the whole numbers from `lowest` on; the first and the last aren't 0, unless below 1e-308."""

    lowest: int
    probabilities: np.ndarray
    """Float64 (value,). Sums of products of positive numbers: each is right to about 1e-14 of itself."""

    def at_least(self, value: int) -> float:
        """P(X >= value)."""
        return min(1.0, float(self.probabilities[max(value - self.lowest, 0) :].sum()))

    def at_most(self, value: int) -> float:
        """P(X <= value)."""
        return min(1.0, float(self.probabilities[: max(value - self.lowest + 1, 0)].sum()))


def sum_of_blocks(blocks: Sequence[NullDistribution]) -> NullDistribution | None:
    """Distribution of a sum of independent numbers, one a block; None where it spans more than `MOST_POINTS`.

    Notes
    -----
    Direct convolution of positive numbers, which keeps the digits of the smallest tails; Fourier transforms don't.
    """
    if sum(len(block.probabilities) - 1 for block in blocks) >= MOST_POINTS:
        return None
    probabilities = np.ones(1)
    for block in blocks:
        probabilities = np.convolve(probabilities, block.probabilities)
    return NullDistribution(sum(block.lowest for block in blocks), probabilities)


def of_random_tables(
    rows: Counts, columns: Counts, score: Callable[[int, Counts, Counts], int]
) -> NullDistribution | None:
    """Distribution of a score where labelled things fall into columns at random; None for more than `MOST_STATES`.

    Parameters
    ----------
    rows
        How many things there are of each kind.
    columns
        How many things each column takes; as many in all. Every arrangement is equally likely.
    score
        What a column adds: of its index, of the things of each kind in the columns before, and of those in it.

    Notes
    -----
    Columns are filled one after another. All that the rest depends on is how many things of each kind are used up, so
    that arrangements with the same ones are counted together: prod(rows + 1) states in place of n! orders.

    References
    ----------
    Held and Karp 1962, Journal of SIAM 10: states of what is used up, in place of orders.
    """
    if count_states(rows) > MOST_STATES:
        return None
    layer = {(0,) * len(rows): NullDistribution(0, np.ones(1))}
    for index, size in enumerate(columns):
        parts: dict[Counts, list[NullDistribution]] = defaultdict(list)
        for used, (lowest, probabilities) in layer.items():
            left = tuple(n - k for n, k in zip(rows, used, strict=True))
            for column in _columns(left, size):
                share = math.prod(map(math.comb, left, column)) / math.comb(sum(left), size)
                after = tuple(k + n for k, n in zip(used, column, strict=True))
                parts[after].append(NullDistribution(lowest + score(index, used, column), share * probabilities))
        layer = {state: _added(some) for state, some in parts.items()}
    return layer[rows]


def count_states(rows: Counts) -> int:
    """States that `of_random_tables` visits at most."""
    return math.prod(n + 1 for n in rows)


def sorted_share(x: np.ndarray, y: np.ndarray) -> float:
    """The share of all orders of y, against x as it stands, in which y never falls where x rises.

    Parameters
    ----------
    x, y
        Numbers (cell,), ties allowed.

    Notes
    -----
    n_x! n_y! / (n! n_xy!), each a product of factorials over the distinct values of x, of y, and over the distinct
    pairs when both are sorted. It is the null probability of the largest S of Mann and Kendall, and of Page's largest
    sum: an exchange of two values that are in the wrong order raises either, so that only sorted orders attain it.
    """
    pairs = np.stack([np.sort(x), np.sort(y)])
    sizes = [np.unique(one, return_counts=True, axis=-1)[1].tolist() for one in (pairs[0], pairs[1], pairs)]
    by_x, by_y, by_pair = (math.prod(map(math.factorial, counts)) for counts in sizes)
    return by_x * by_y / (math.factorial(len(x)) * by_pair)


def normal_tail(z: float) -> float:
    """P(Z >= z) of a standard normal Z."""
    return math.erfc(z / math.sqrt(2)) / 2


def _columns(left: Counts, size: int) -> Iterator[Counts]:
    """All ways to take so many things out of those left."""
    if not left:
        yield ()
        return
    rest = sum(left[1:])
    for first in range(max(0, size - rest), min(left[0], size) + 1):
        for others in _columns(left[1:], size - first):
            yield (first, *others)


def _added(parts: Sequence[NullDistribution]) -> NullDistribution:
    lowest = min(part.lowest for part in parts)
    total = np.zeros(max(part.lowest + len(part.probabilities) for part in parts) - lowest)
    for part in parts:
        start = part.lowest - lowest
        total[start : start + len(part.probabilities)] += part.probabilities
    return NullDistribution(lowest, total)
