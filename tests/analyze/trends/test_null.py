import itertools
import math
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorascope.analyze.trends import null
from lorascope.analyze.trends.null import (
    MOST_POINTS,
    MOST_STATES,
    NullDistribution,
    count_states,
    normal_tail,
    of_random_tables,
    sorted_share,
    sum_of_blocks,
)

DIE = NullDistribution(1, np.full(6, 1 / 6))


def test_tails_of_a_die() -> None:
    for value in range(-3, 12):
        assert DIE.at_least(value) == pytest.approx(min(max(7 - value, 0), 6) / 6, abs=1e-15)
        assert DIE.at_most(value) == pytest.approx(min(max(value, 0), 6) / 6, abs=1e-15)
    assert DIE.at_least(1) <= 1


def test_sum_of_two_dice() -> None:
    both = sum_of_blocks([DIE, DIE])
    assert both is not None
    assert both.lowest == 2
    np.testing.assert_allclose(both.probabilities * 36, [1, 2, 3, 4, 5, 6, 5, 4, 3, 2, 1], rtol=1e-14)


def test_no_blocks_sum_to_0() -> None:
    assert sum_of_blocks([]) == (0, np.ones(1))


def test_a_sum_of_many_keeps_the_digits_of_its_tail() -> None:
    total = sum_of_blocks([DIE] * 300)
    assert total is not None
    assert total.at_most(300) == pytest.approx(float(Fraction(1, 6**300)), rel=1e-12)
    assert total.at_most(301) == pytest.approx(float(Fraction(301, 6**300)), rel=1e-12)


def test_a_sum_over_too_many_points_is_none() -> None:
    wide = NullDistribution(0, np.full(MOST_POINTS // 2, 2 / MOST_POINTS))
    assert sum_of_blocks([wide, wide]) is not None
    assert sum_of_blocks([wide, wide, DIE]) is None


@st.composite
def margins(draw: st.DrawFn) -> tuple[list[int], list[int]]:
    rows = draw(st.lists(st.integers(1, 3), min_size=1, max_size=3).filter(lambda some: sum(some) <= 7))
    columns, left = [], sum(rows)
    while left:
        columns.append(draw(st.integers(1, left)))
        left -= columns[-1]
    return rows, columns


@given(margins())
def test_random_tables_against_all_orders(both: tuple[list[int], list[int]]) -> None:
    rows, columns = both

    def score(index: int, used: tuple[int, ...], column: tuple[int, ...]) -> int:
        """Anything that depends on all three."""
        return index * column[0] - 2 * column[-1] * used[0] + column[0] * column[-1]

    kinds = np.repeat(np.arange(len(rows)), rows).tolist()
    counted: Counter[int] = Counter()
    for order in set(itertools.permutations(kinds)):
        used, start, total = [0] * len(rows), 0, 0
        for index, size in enumerate(columns):
            column = [order[start : start + size].count(kind) for kind in range(len(rows))]
            total += score(index, tuple(used), tuple(column))
            used = [a + b for a, b in zip(used, column, strict=True)]
            start += size
        counted[total] += 1
    found = of_random_tables(tuple(rows), tuple(columns), score)
    assert found is not None
    assert found.probabilities.sum() == pytest.approx(1, rel=1e-13)
    assert found.probabilities[0] > 0 < found.probabilities[-1]
    for value, times in counted.items():  # of distinct orders each stands for the same number of labelled ones
        probability = found.probabilities[value - found.lowest]
        assert probability == pytest.approx(times / sum(counted.values()), rel=1e-13)


def test_too_many_states_are_none() -> None:
    assert count_states((1,) * 12) == MOST_STATES
    assert of_random_tables((1,) * 13, (1,) * 13, lambda *_: 0) is None


def test_states_may_be_many_enough_for_12() -> None:
    found = of_random_tables((1,) * 12, (1,) * 12, lambda *_: 0)
    assert found is not None
    assert found.lowest == 0
    np.testing.assert_allclose(found.probabilities, [1], rtol=1e-13)


@pytest.mark.parametrize(
    ("x", "y", "share"),
    [
        ([1, 2, 3], [5, 1, 9], Fraction(1, 6)),
        ([1, 2, 3], [5, 5, 9], Fraction(1, 3)),
        ([1, 2, 3], [5, 5, 5], Fraction(1)),
        ([1, 1, 2], [5, 5, 9], Fraction(1, 3)),
        ([1, 1, 2, 2], [1, 2, 3, 4], Fraction(1, 6)),
        ([1, 1, 1, 2, 2, 2], [1, 2, 3, 4, 5, 6], Fraction(1, 20)),
    ],
)
def test_sorted_share_in_closed_form(x: list[int], y: list[int], share: Fraction) -> None:
    assert sorted_share(np.array(x), np.array(y)) == float(share)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=6))
def test_sorted_share_against_all_orders(cells: list[tuple[int, int]]) -> None:
    x, y = np.array(cells).T
    orders = np.array(list(itertools.permutations(y.tolist())))
    pairs = [(i, j) for i in range(len(x)) for j in range(len(x)) if x[i] < x[j]]
    is_sorted = np.array([all(order[i] <= order[j] for i, j in pairs) for order in orders])
    assert sorted_share(x, y) == pytest.approx(is_sorted.mean(), rel=1e-13)


def test_sorted_share_may_be_too_small_for_a_float() -> None:
    assert sorted_share(np.arange(200), np.arange(200)) == 0


@pytest.mark.parametrize("z", [-2.0, 0.0, 1.0, 6.0, 30.0])
def test_normal_tail(z: float) -> None:
    from scipy.stats import norm

    assert normal_tail(z) == pytest.approx(norm.sf(z), rel=1e-12)


def test_limits_are_those_that_docstrings_name() -> None:
    assert (null.MOST_STATES, null.MOST_POINTS) == (4096, 40_000)
    assert math.log2(MOST_STATES) == 12
