import doctest
import itertools
import math
import re

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from lorascope.analyze.comparison import steady
from lorascope.analyze.comparison.steady import common_cells, concordance, swap_test

UNUSED = np.random.default_rng(0)


@st.composite
def tables(draw: st.DrawFn, n: int = 1) -> list[np.ndarray]:
    shape = draw(st.tuples(st.integers(2, 5), st.integers(3, 6)))
    return [
        np.array(draw(st.lists(st.integers(0, 5), min_size=shape[0] * shape[1], max_size=shape[0] * shape[1]))).reshape(
            shape
        )
        for _ in range(n)
    ]


def test_common_cells() -> None:
    block, setting = np.array([0, 0, 0, 1, 1, 1]), np.array([2, 0, 1, 0, 3, 2])
    np.testing.assert_array_equal(common_cells(block, setting), [[1, 0], [3, 5]])
    assert common_cells(np.array([0, 1]), np.array([0, 1])).shape == (2, 0)


@given(tables())
def test_concordance_is_that_of_friedman(drawn: list[np.ndarray]) -> None:
    (values,) = drawn
    assume((np.ptp(values, axis=1) > 0).any())
    found = concordance(values)
    assert 0 <= found <= 1 + 1e-12
    chi2 = stats.friedmanchisquare(*values.T).statistic
    assert found == pytest.approx(chi2 / (values.shape[0] * (values.shape[1] - 1)), abs=1e-9)
    assert concordance(np.exp(values / 3.0) + 7) == pytest.approx(found)


@given(tables(2))
def test_swaps_are_all_swaps(drawn: list[np.ndarray]) -> None:
    first, second = drawn
    assume(all((np.ptp(values, axis=1) > 0).all() for values in drawn))
    found = swap_test(first, second, 0, UNUSED)
    gaps = []
    for swapped in itertools.product([False, True], repeat=len(first)):
        s = np.array(swapped)[:, None]
        gaps.append(abs(concordance(np.where(s, second, first)) - concordance(np.where(s, first, second))))
    assert found.difference == pytest.approx(concordance(first) - concordance(second), abs=1e-12)
    assert found.p == pytest.approx(np.mean(np.array(gaps) >= abs(found.difference) - 1e-11))
    assert found.floor <= found.p
    assert swap_test(second, first, 0, UNUSED).p == found.p


def test_swaps_reach_their_floor() -> None:
    first = np.tile(np.arange(4), (5, 1))
    second = np.array([[0, 1, 3, 2], [3, 2, 1, 0], [1, 0, 3, 2], [2, 3, 0, 1], [0, 1, 2, 3]])
    found = swap_test(first, second, 0, UNUSED)
    assert found.floor == 0.5**3  # the fifth block has the same ranks twice
    assert swap_test(first, first, 0, UNUSED) == (0, 1, 1)


def test_above_14_blocks_swaps_are_drawn() -> None:
    rng = np.random.default_rng(0)
    first, second = np.tile(np.arange(5), (15, 1)), rng.permuted(np.tile(np.arange(5), (15, 1)), axis=1)
    found = swap_test(first, second, 500, np.random.default_rng(1))
    assert found.p == found.floor == 1 / 501
    noise = swap_test(rng.normal(size=(15, 5)), rng.normal(size=(15, 5)), 500, np.random.default_rng(1))
    assert noise.p > 0.01


def test_swaps_hold_their_level_where_either_metric_could_have_had_the_ranks_of_the_other() -> None:
    """Two metrics with the same effects of settings hold it. Effects drawn apart differ in size, which is found."""
    rng = np.random.default_rng(0)
    p = []
    for _ in range(400):
        effects, own = rng.normal(size=(2, 1, 6))
        first, second, apart = (one + rng.normal(size=(8, 6)) for one in (effects, effects, own))
        p.append([swap_test(first, other, 0, UNUSED).p for other in (second, apart)])
    same, apart_share = (np.array(p) <= 0.05).mean(axis=0)
    assert same < 0.05 + 2.6 * np.sqrt(0.05 * 0.95 / 400)
    assert apart_share > 0.1


def test_a_side_that_varies_nowhere_counts_as_0() -> None:
    flat, steep = [1, 1, 1], [1, 2, 3]
    found = swap_test(np.array([flat, steep]), np.array([steep, flat]), 0, UNUSED)
    assert found.difference == 0
    assert found.p == 1
    assert math.isfinite(found.floor)


def test_no_agreement_to_speak_of() -> None:
    words = re.escape("concordance needs two blocks and three settings; there are (1, 3)")
    with pytest.raises(ValueError, match=words):
        concordance(np.arange(3.0)[None])
    with pytest.raises(ValueError, match=re.escape("there are (2, 2)")):
        concordance(np.arange(4.0).reshape(2, 2))
    with pytest.raises(ValueError, match="no block tells settings apart; there is nothing to agree on"):
        concordance(np.ones((2, 3)))


def test_examples_of_the_module_run() -> None:
    assert doctest.testmod(steady) == (0, 2)
