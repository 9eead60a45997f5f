from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from lorascope.analyze.results.weights import (
    is_weighted,
    ratio,
    ratio_error,
    t_test,
    token_weights,
    weighted_quantiles,
)

LEVELS = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)


def run_like(weights: Any) -> Any:
    return SimpleNamespace(tokens=xr.Dataset({"weight": ("token", np.float32(weights))}))


def test_weights_are_the_runs_own() -> None:
    assert token_weights(run_like([1, 2, 2.5])).tolist() == [1.0, 2.0, 2.5]
    assert token_weights(run_like([1, 2, 2.5])).dtype == np.float64
    assert [is_weighted(run_like(weights)) for weights in ([1, 1, 1], [1, 1, 2])] == [False, True]


@given(arrays(np.float64, st.integers(1, 30), elements=st.floats(-1e3, 1e3)), st.floats(0.1, 100))
def test_equal_weights_give_numpys_quantiles(values: np.ndarray, weight: float) -> None:
    found = weighted_quantiles(values, np.full(len(values), weight), LEVELS)
    np.testing.assert_array_equal(found, np.quantile(values, LEVELS))
    # The same from the formula, which the shortcut leaves out.
    nearly = np.full(len(values), weight)
    nearly[-1] *= 1 + 1e-12
    np.testing.assert_allclose(weighted_quantiles(values, nearly, LEVELS), found, rtol=1e-6, atol=1e-6)


def test_quantiles_go_to_where_the_weight_is() -> None:
    # Ascending places 0, (1 + 3)/2 = 2 and 2 + (3 + 6)/2 = 6.5 for weights 1, 3 and 6.
    found = weighted_quantiles(np.array([30.0, 10.0, 20.0]), np.array([6.0, 1.0, 3.0]), [0, 2 / 6.5, 0.5, 1])
    np.testing.assert_allclose(found, [10, 20, 20 + 10 * 1.25 / 4.5, 30])


def test_samples_of_equal_size_give_the_t_test_of_means() -> None:
    values = np.random.default_rng(0).normal(0.3, 1, (15, 4))
    share, residual = ratio(values, np.ones((15, 1)))
    np.testing.assert_allclose(share, values.mean(axis=0))
    np.testing.assert_allclose(ratio_error(residual), stats.sem(values))
    expected = stats.ttest_1samp(values, 0).pvalue
    np.testing.assert_allclose(t_test(share, ratio_error(residual), 15), expected)


def test_error_of_a_ratio_is_its_spread_over_repeated_samples() -> None:
    rng = np.random.default_rng(1)
    sizes = rng.integers(1, 20, (4000, 60)).astype(float)
    sums = sizes * 0.2 + rng.normal(size=sizes.shape) * np.sqrt(sizes)
    shares = sums.sum(axis=1) / sizes.sum(axis=1)
    errors = [ratio_error(ratio(a[:, None], b[:, None])[1])[0] for a, b in zip(sums[:200], sizes[:200], strict=True)]
    # The spread of 4,000 shares has a relative error of 1 / sqrt(2 * 4000) = 1.1 %, the mean of 200 errors less.
    assert np.mean(errors) == pytest.approx(shares.std(), rel=0.05)


def test_too_few_samples_have_no_p() -> None:
    assert np.isnan(ratio_error(np.zeros((1, 3)))).all()
    assert np.isnan(t_test(np.ones(3), np.ones(3), 2)).all()
    assert np.isnan(t_test(np.zeros(1), np.zeros(1), 9)).all()
    assert t_test(np.ones(1), np.zeros(1), 9)[0] == 0
