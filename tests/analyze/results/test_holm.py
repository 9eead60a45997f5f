"""Holm's correction, compared with statsmodels."""

import numpy as np
from statsmodels.stats.multitest import multipletests

from lorascope.analyze.results.holm import holm


def test_equals_statsmodels() -> None:
    p = np.random.default_rng(1).uniform(size=200) ** 4
    p[[7, 19]] = p[3]
    np.testing.assert_allclose(holm(p), multipletests(p, method="holm")[1], rtol=1e-12)


def test_tests_that_were_not_made_do_not_count() -> None:
    p = np.array([np.nan, 0.02, 0.5, np.nan, 0.03])
    np.testing.assert_allclose(holm(p), [np.nan, 0.06, 0.5, np.nan, 0.06])


def test_no_test_at_all() -> None:
    assert not len(holm(np.empty(0)))
    assert np.isnan(holm(np.array([np.nan]))).all()
