import doctest
import itertools
import math
import re
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import norm, page_trend_test, rankdata

from lorascope.analyze.trends import page
from lorascope.analyze.trends.page import PageTest, page_l


def by_counting(values: np.ndarray, *, increasing: bool) -> tuple[Fraction, Fraction, Fraction, Fraction]:
    """L, P(L or more), P(L or less) and P(largest), over all orders of each block's ranks, in whole numbers."""
    ranks = [rankdata(row if increasing else -row) for row in values]
    k = values.shape[1]
    counts: Counter[Fraction] = Counter({Fraction(0): 1})
    for row in ranks:
        block = Counter(
            sum((Fraction(j + 1) * Fraction(rank) for j, rank in enumerate(order)), Fraction(0))
            for order in itertools.permutations(row.tolist())
        )
        total: Counter[Fraction] = Counter()
        for (a, n), (b, m) in itertools.product(counts.items(), block.items()):
            total[a + b] += n * m
        counts = total
    found = sum((Fraction(rank) * (j + 1) for row in ranks for j, rank in enumerate(row.tolist())), Fraction(0))
    n_orders = math.factorial(k) ** len(values)
    more = sum(n for value, n in counts.items() if value >= found)
    less = sum(n for value, n in counts.items() if value <= found)
    return found, Fraction(more, n_orders), Fraction(less, n_orders), Fraction(counts[max(counts)], n_orders)


def moments_by_counting(values: np.ndarray) -> tuple[float, float]:
    """Mean and variance of L over all orders, blocks independent."""
    sums = [
        [np.dot(order, range(1, len(row) + 1)) for order in itertools.permutations(rankdata(row))] for row in values
    ]
    return sum(map(np.mean, sums)), sum(map(np.var, sums))


tables = st.tuples(st.integers(1, 3), st.integers(2, 5)).flatmap(
    lambda shape: arrays(np.float64, shape, elements=st.integers(0, 4).map(float))
)
untied = st.tuples(st.integers(2, 4), st.integers(3, 7), st.integers(0, 2**32 - 1)).map(
    lambda drawn: np.random.default_rng(drawn[2]).normal(size=drawn[:2])
)


@pytest.mark.parametrize("increasing", [True, False])
@given(values=tables)
def test_p_is_that_of_all_orders_with_ties(values: np.ndarray, increasing: bool) -> None:
    found = page_l(values, increasing=increasing)
    total, more, less, floor = by_counting(values, increasing=increasing)
    assert total == found.L
    assert found.method == "exact"
    assert found.p_value == pytest.approx(float(more), rel=1e-13)
    assert found.p_opposite == pytest.approx(float(less), rel=1e-13)
    assert found.p_floor == pytest.approx(float(floor), rel=1e-13)
    mean, variance = moments_by_counting(values)
    assert found.expected == pytest.approx(mean)
    assert found.z == pytest.approx((float(total) - mean) / math.sqrt(variance) if variance else 0)


@given(values=untied)
def test_p_is_scipys_without_ties(values: np.ndarray) -> None:
    reference = page_trend_test(values, method="exact")
    found = page_l(values, increasing=True)
    assert reference.statistic == found.L
    assert found.p_value == pytest.approx(reference.pvalue, rel=1e-9)
    # a fall: the levels are predicted to rank from last to first
    k = values.shape[1]
    reference = page_trend_test(values, predicted_ranks=np.arange(k, 0, -1), method="exact")
    found = page_l(values, increasing=False)
    assert reference.statistic == found.L
    assert found.p_value == pytest.approx(reference.pvalue, rel=1e-9)
    assert found.p_normal == pytest.approx(
        page_trend_test(values, predicted_ranks=np.arange(k, 0, -1), method="asymptotic").pvalue, rel=1e-9
    )


def test_p_of_many_blocks_to_its_last_digits() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(40, 5)) + 0.4 * np.arange(5)
    one = Counter(sum((j + 1) * r for j, r in enumerate(order)) for order in itertools.permutations(range(1, 6)))
    width = max(one) + 1
    generating = sum(n << (512 * value) for value, n in one.items()) ** 40  # 120^40 is below 2^512
    counts = [(generating >> (512 * value)) % 2**512 for value in range(40 * width)]
    assert sum(counts) == 120**40
    found = page_l(values, increasing=True)
    assert 1e-20 < found.p_value < 1e-3
    assert found.p_value == pytest.approx(float(Fraction(sum(counts[int(found.L) :]), 120**40)), rel=1e-12)


@pytest.mark.parametrize(("n_blocks", "n_levels"), [(1, 3), (1, 4), (3, 3), (10, 4)])
def test_perfect_order_is_the_floor(n_blocks: int, n_levels: int) -> None:
    values = np.arange(n_blocks * n_levels, dtype=float).reshape(n_blocks, n_levels)
    for found in (page_l(values, increasing=True), page_l(-values, increasing=False)):
        k = n_levels
        assert found.L == found.largest == n_blocks * k * (k + 1) * (2 * k + 1) / 6
        assert found.expected == n_blocks * k * (k + 1) ** 2 / 4
        assert found.z == pytest.approx(
            (found.L - found.expected) / math.sqrt(n_blocks * k**2 * (k + 1) * (k**2 - 1) / 144)
        )
        assert found.p_value == pytest.approx(float(Fraction(1, math.factorial(k)) ** n_blocks), rel=1e-13)
        assert found.p_floor == pytest.approx(found.p_value, rel=1e-13)
        assert found.p_opposite == pytest.approx(1, rel=1e-13)


def test_twelve_levels_are_exact_and_thirteen_are_not() -> None:
    rng = np.random.default_rng(1)
    found = page_l(np.arange(12.0)[None], increasing=True)
    assert found.method == "exact"
    assert found.p_value == pytest.approx(1 / math.factorial(12), rel=1e-12)
    found = page_l(rng.normal(size=(3, 13)), increasing=True)
    assert found.method == "normal approximation"
    assert found.p_value == found.p_normal == pytest.approx(norm.sf(found.z), rel=1e-12)
    assert found.p_opposite == pytest.approx(norm.cdf(found.z), rel=1e-12)
    assert found.p_floor == pytest.approx(float(Fraction(1, math.factorial(13)) ** 3), rel=1e-12)


def test_more_levels_are_exact_where_ties_make_their_orders_few() -> None:
    assert page_l(np.repeat([1.0, 2.0, 3.0], 6)[None], increasing=True).method == "exact"


def test_one_block_of_too_many_levels_makes_the_whole_approximate() -> None:
    values = np.stack([np.arange(14.0), np.repeat([1.0, 2.0], 7)])
    assert page_l(values, increasing=True).method == "normal approximation"


def test_normal_approximation_comes_near() -> None:
    found = page_l(np.random.default_rng(2).normal(size=(60, 8)), increasing=True)
    assert found.method == "exact"
    assert found.p_value == pytest.approx(found.p_normal, rel=0.02)


@given(values=tables)
def test_opposite_claims_mirror_each_other(values: np.ndarray) -> None:
    rise, fall = (page_l(values, increasing=one) for one in (True, False))
    assert rise.p_value == pytest.approx(fall.p_opposite, rel=1e-12)
    assert rise.z == pytest.approx(-fall.z, rel=1e-12)
    assert rise.p_floor == fall.p_floor
    assert page_l(values[:, ::-1], increasing=False) == pytest.approx(rise)
    assert page_l(-values, increasing=False) == rise


@given(values=tables, seed=st.integers(0, 99))
def test_maps_that_keep_the_order_of_a_block_and_the_order_of_blocks_do_not_matter(
    values: np.ndarray, seed: int
) -> None:
    found = page_l(values, increasing=False)
    rng = np.random.default_rng(seed)
    moved = np.exp(values) * rng.uniform(0.5, 2, (len(values), 1)) + rng.normal(size=(len(values), 1))
    assert page_l(moved, increasing=False) == found
    shuffled = page_l(rng.permutation(values), increasing=False)
    assert shuffled[:3] == found[:3]
    assert shuffled.p_value == pytest.approx(found.p_value, rel=1e-12)


@pytest.mark.parametrize("row", [[1, 2, 3, 4], [1, 2, 2, 4], [1, 1, 2, 2], [3, 3, 3, 3]])
def test_p_is_valid_over_all_orders(row: list[int]) -> None:
    other = [[1.0, 2.0, 3.0, 3.0]] * 24
    found = np.array(
        [
            page_l(np.array([first, second], float), increasing=True).p_value
            for first in itertools.permutations(row)
            for second in itertools.islice(itertools.permutations(other[0]), 24)
        ]
    )
    for p in found:  # P(p <= a) is a wherever p can be a, and less between
        assert (found <= p * (1 + 1e-9)).mean() == pytest.approx(p, rel=1e-12)


def test_all_tied_says_nothing() -> None:
    found = page_l(np.ones((2, 3)), increasing=False)
    assert found == PageTest(24.0, 24.0, 24.0, 0.0, 1.0, 1.0, 1.0, 1.0, 2, 3, 6, "exact")


def test_ties_are_counted_within_blocks() -> None:
    assert page_l(np.array([[1, 1, 2], [1, 2, 3], [5, 5, 5]]), increasing=True).n_tied_pairs == 4


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (
            np.ones(3),
            "`values` has shape (3,); Page's test needs (block, level) with one block and two levels at least",
        ),
        (np.ones((3, 1)), "`values` has shape (3, 1); Page's test needs (block, level)"),
        (np.ones((0, 3)), "`values` has shape (0, 3); Page's test needs (block, level)"),
        ([[1, np.nan]], "`values` holds nan; allowed are finite numbers: leave out blocks that lack a level"),
        ([[1, -np.inf]], "`values` holds -inf; allowed are finite numbers"),
    ],
)
def test_tables_that_are_none(values: np.ndarray, words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        page_l(values, increasing=True)


def test_examples_run() -> None:
    assert doctest.testmod(page) == (0, 3)
