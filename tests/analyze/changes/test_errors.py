"""Ratios over samples, their errors and their t test, compared with scipy and with the definition."""

import numpy as np
import pytest
from scipy import stats

from lorascope.analyze.changes.errors import difference, ratio, standard_errors, t_test


def test_samples_of_equal_size_give_the_t_test_of_means() -> None:
    values = np.random.default_rng(0).normal(0.3, 1, (15, 4))
    share, residual = ratio(values, np.ones((15, 1)))
    np.testing.assert_allclose(share, values.mean(axis=0))
    np.testing.assert_allclose(standard_errors(residual), stats.sem(values))
    expected = stats.ttest_1samp(values, 0).pvalue
    np.testing.assert_allclose(t_test(share, standard_errors(residual), 15), expected)


def test_error_of_a_ratio_is_its_spread_over_repeated_samples() -> None:
    rng = np.random.default_rng(1)
    sizes = rng.integers(1, 20, (4000, 60)).astype(float)
    sums = sizes * 0.2 + rng.normal(size=sizes.shape) * np.sqrt(sizes)
    shares = sums.sum(axis=1) / sizes.sum(axis=1)
    errors = [
        standard_errors(ratio(a[:, None], b[:, None])[1])[0] for a, b in zip(sums[:200], sizes[:200], strict=True)
    ]
    # The spread of 4,000 shares has a relative error of 1 / sqrt(2 * 4000) = 1.1 %, the mean of 200 errors less.
    assert np.mean(errors) == pytest.approx(shares.std(), rel=0.05)


def test_pairs_of_ratios_are_compared_sample_by_sample() -> None:
    values = np.random.default_rng(2).normal(size=(9, 2))
    both = [ratio(values, np.ones((9, 1))), ratio(values + 0.5, np.ones((9, 1)))]
    value, residual = difference(both)
    np.testing.assert_allclose(value, -0.5)
    np.testing.assert_allclose(residual, 0, atol=1e-15)


def test_too_few_samples_have_no_p() -> None:
    assert np.isnan(standard_errors(np.zeros((1, 3)))).all()
    assert np.isnan(t_test(np.ones(3), np.ones(3), 2)).all()
    assert np.isnan(t_test(np.zeros(1), np.zeros(1), 9)).all()
    assert t_test(np.ones(1), np.zeros(1), 9)[0] == 0
