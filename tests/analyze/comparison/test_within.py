import itertools
import math
import re

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from lorascope.analyze.comparison.within import (
    block_pearson,
    block_sums,
    centred,
    correlation_p,
    kendall,
    pooled_pearson,
    ranks,
)

BLOCK = np.array([0, 0, 0, 1, 1, 1, 1, 2, 2])


@st.composite
def columns(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two columns of small whole numbers, so that there are ties, in two to four blocks of at least two cells."""
    sizes = draw(st.lists(st.integers(2, 6), min_size=2, max_size=4))
    block = np.repeat(np.arange(len(sizes)), sizes)
    values = st.lists(st.integers(-4, 4), min_size=len(block), max_size=len(block))
    x, y = (np.array(draw(values), np.float64) for _ in range(2))
    assume(centred(x, block).any() and centred(y, block).any())
    return x, y, block


def test_by_hand() -> None:
    x = np.array([1.0, 2, 3, 10, 20, 30, 40, 7, 7])
    np.testing.assert_array_equal(centred(x, BLOCK), [-1, 0, 1, -15, -5, 5, 15, 0, 0])
    np.testing.assert_array_equal(block_sums(centred(x, BLOCK), centred(x, BLOCK), BLOCK), [2, 500, 0])
    np.testing.assert_array_equal(ranks(x, BLOCK), [1, 2, 3, 1, 2, 3, 4, 1.5, 1.5])
    y = np.array([2.0, 1, 0, 4, 3, 2, 1, 1, 2])
    assert pooled_pearson(x, y, BLOCK) == pytest.approx(-52 / math.sqrt(502 * 7.5))
    np.testing.assert_allclose(block_pearson(x, y, BLOCK), [-1, -1, np.nan])
    np.testing.assert_allclose(kendall(x, y, BLOCK), [-1, -1, np.nan])


def test_a_constant_block_is_exactly_0() -> None:
    values = np.array([0.1, 0.1, 0.1, 1.0, 2.0])  # whose mean is not 0.1 in float64
    assert not centred(values, np.array([0, 0, 0, 1, 1]))[:3].any()


@given(columns())
def test_pooled_is_the_partial_correlation_of_a_regression_with_block_effects(
    drawn: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> None:
    x, y, block = drawn
    r = pooled_pearson(x, y, block)
    assume(abs(r) < 1 - 1e-9)
    n, n_blocks = len(x), int(block.max()) + 1
    assume(n - n_blocks - 1 >= 1)
    design = np.column_stack([x, pd.get_dummies(block).to_numpy(float)])
    fit = sm.OLS(y, design).fit()
    t = fit.tvalues[0]
    assert r == pytest.approx(t / math.sqrt(t * t + n - n_blocks - 1), abs=1e-9)
    assert correlation_p(r, n - n_blocks + 1) == pytest.approx(fit.pvalues[0], abs=1e-9)


@given(columns(), st.floats(0.1, 100), st.floats(-100, 100))
def test_pooled_has_no_unit_and_no_sides(
    drawn: tuple[np.ndarray, np.ndarray, np.ndarray], scale: float, shift: float
) -> None:
    x, y, block = drawn
    r = pooled_pearson(x, y, block)
    assert -1 <= r <= 1
    assert pooled_pearson(y, x, block) == pytest.approx(r)
    assert pooled_pearson(-scale * x + shift * block, y, block) == pytest.approx(-r, abs=1e-9)


@given(columns())
def test_block_coefficients_are_those_of_scipy(drawn: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    x, y, block = drawn
    found = block_pearson(x, y, block), block_pearson(ranks(x, block), ranks(y, block), block), kendall(x, y, block)
    for one, (r, rho, tau) in enumerate(zip(*found, strict=True)):
        a, b = x[block == one], y[block == one]
        if len(set(a)) == 1 or len(set(b)) == 1:
            assert np.isnan([r, rho, tau]).all()
            continue
        assert r == pytest.approx(np.corrcoef(a, b)[0, 1])
        assert rho == pytest.approx(stats.spearmanr(a, b).statistic)
        assert tau == pytest.approx(tau_b(a, b))


def tau_b(a: np.ndarray, b: np.ndarray) -> float:
    signs = [(np.sign(a[i] - a[j]), np.sign(b[i] - b[j])) for i, j in itertools.combinations(range(len(a)), 2)]
    untied = [sum(s[side] != 0 for s in signs) for side in (0, 1)]
    return float(sum(p * q for p, q in signs) / math.sqrt(untied[0] * untied[1]))


def test_p_is_that_of_scipy() -> None:
    a, b = np.random.default_rng(0).normal(size=(2, 12))
    found = stats.pearsonr(a, b)
    assert correlation_p(float(found.statistic), 12) == pytest.approx(found.pvalue)


def test_p_at_its_ends() -> None:
    assert correlation_p(0.0, 3) == 1
    assert correlation_p(1.0, 3) == correlation_p(-1.0, 10) == 0


def test_p_of_two_cells() -> None:
    with pytest.raises(ValueError, match="`n` is 2; a correlation's p-value needs 3 cells"):
        correlation_p(0.5, 2)


def test_nothing_varies() -> None:
    words = re.escape("a column is constant in every block; it has no correlation within blocks")
    with pytest.raises(ValueError, match=words):
        pooled_pearson(BLOCK * 2.0, np.arange(9.0), BLOCK)
    with pytest.raises(ValueError, match=words):
        pooled_pearson(np.arange(9.0), BLOCK * 0.1, BLOCK)
