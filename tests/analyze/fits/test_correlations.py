"""Correlations within groups against scipy, statsmodels and published numbers."""

import doctest
import math

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm

from lorascope.analyze.fits import correlations as module
from lorascope.analyze.fits.correlations import centred, pooled_pearson, setting_residuals, williams

NAN = np.nan


def tables(seed: int, *, n_lacking: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Two tables (6, 5) that have effects of groups and settings in common, with gaps."""
    rng = np.random.default_rng(seed)
    effects = 10 * rng.normal(size=(6, 1)) + 10 * rng.normal(size=5)
    x = effects + rng.normal(size=(6, 5))
    y = effects + rng.normal(size=(6, 5)) + x
    lacking = rng.permutation(30)[:n_lacking]
    x.flat[lacking] = y.flat[lacking] = NAN
    return x, y


def dummies(values: np.ndarray, axis: int) -> np.ndarray:
    """Indicators (cell, code) of the groups or settings of the cells, without the first setting."""
    codes = np.argwhere(np.isfinite(values))[:, axis]
    return pd.get_dummies(codes, drop_first=axis == 1).to_numpy(float)


def test_by_hand() -> None:
    x = np.array([[1.0, 2, 3, NAN], [10, 20, 30, 40], [7, 7, NAN, NAN]])
    np.testing.assert_array_equal(centred(x), [[-1, 0, 1, NAN], [-15, -5, 5, 15], [0, 0, NAN, NAN]])
    assert not centred(np.array([[0.1, 0.1, 0.1]])).any()  # whose mean is not 0.1 in float64
    y = np.array([[2.0, 1, 0, NAN], [4, 3, 2, 1], [1, 2, NAN, NAN]])
    assert pooled_pearson(x, y) == pytest.approx(-52 / math.sqrt(502 * 7.5))
    assert np.isnan(pooled_pearson(x[2:], y[2:])).all()


def test_draws_count_groups() -> None:
    x, y = tables(0)
    counts = np.array([[1, 1, 1, 1, 1, 1], [0, 3, 0, 1, 0, 2]])
    expected = [pooled_pearson(*(np.repeat(table, times, axis=0) for table in (x, y)))[0] for times in counts]
    np.testing.assert_allclose(pooled_pearson(x, y, counts), expected)


@pytest.mark.parametrize("n_lacking", [0, 7])
@pytest.mark.parametrize("seed", range(3))
def test_pooled_is_the_partial_correlation_of_a_regression_on_groups(seed: int, n_lacking: int) -> None:
    x, y = tables(seed, n_lacking=n_lacking)
    there = np.isfinite(x)
    fit = sm.OLS(y[there], np.column_stack([x[there], dummies(x, 0)])).fit()
    (r,) = pooled_pearson(x, y)
    assert r == pytest.approx(fit.tvalues[0] / math.sqrt(fit.tvalues[0] ** 2 + fit.df_resid))


@pytest.mark.parametrize("n_lacking", [0, 7])
@pytest.mark.parametrize("seed", range(3))
def test_what_is_left_beyond_the_setting_is_that_of_a_regression(seed: int, n_lacking: int) -> None:
    x, y = tables(seed, n_lacking=n_lacking)
    there = np.isfinite(x)
    fit = sm.OLS(y[there], np.column_stack([x[there], dummies(x, 0), dummies(x, 1)])).fit()
    partial = pooled_pearson(setting_residuals(x)[0], setting_residuals(y)[0])
    assert partial == pytest.approx(fit.tvalues[0] / math.sqrt(fit.tvalues[0] ** 2 + fit.df_resid))
    moved = x + np.arange(6)[:, None] - 3 * np.arange(5) ** 2
    assert pooled_pearson(setting_residuals(moved)[0], setting_residuals(y)[0]) == pytest.approx(partial)


def test_nothing_is_left_beyond_the_setting() -> None:
    additive = 1000 * np.arange(4)[:, None] + 0.1 * np.arange(5) ** 2
    assert not setting_residuals(additive)[0].any()
    assert not setting_residuals(np.ones((4, 5)))[0].any()
    apart = np.array([[1.0, 4, 9, NAN, NAN, NAN], [NAN, NAN, NAN, 1, 3, 7]])  # settings link no groups
    assert not np.nan_to_num(setting_residuals(apart)[0]).any()


def test_williams_published_example() -> None:
    """Of `psych::r.test(103, 0.4, 0.5, 0.1)`, whose manual prints t = -0.89 with p = 0.37."""
    t, p_value = williams(0.4, 0.5, 0.1, 103)
    assert (round(t, 4), round(p_value, 4)) == (-0.8913, 0.3749)
    assert williams(0.5, 0.4, 0.1, 103)[0] == -t


def test_williams_holds_its_level() -> None:
    """Three normal columns, the first correlated alike with the others."""
    rng, n = np.random.default_rng(0), 20
    cov = np.array([[1, 0.5, 0.5], [0.5, 1, 0.6], [0.5, 0.6, 1]])
    p = []
    for _ in range(1500):
        r = np.corrcoef(rng.multivariate_normal(np.zeros(3), cov, size=n).T)
        p.append(williams(r[0, 1], r[0, 2], r[1, 2], n)[1])
    assert np.mean(np.array(p) <= 0.05) == pytest.approx(0.05, abs=2.6 * math.sqrt(0.05 * 0.95 / 1500))


def test_williams_of_two_columns_that_are_one() -> None:
    assert all(map(math.isnan, williams(0.5, 0.5, 1.0, 20)))


def test_examples() -> None:
    assert doctest.testmod(module).failed == 0
