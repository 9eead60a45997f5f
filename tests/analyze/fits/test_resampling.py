"""Draws of groups and percentile intervals over them."""

import doctest
from itertools import product

import numpy as np
import pytest
from scipy import stats

from lorascope.analyze.fits import resampling as module
from lorascope.analyze.fits.resampling import group_draws, percentile_interval


def test_all_draws_have_their_probabilities() -> None:
    counts, weights = group_draws(4, 35, np.random.default_rng(0))
    assert weights is not None
    assert len(counts) == 35
    expected = stats.multinomial(4, [0.25] * 4).pmf(counts)
    assert weights == pytest.approx(expected, rel=1e-12)


def test_one_draw_less_than_there_are_makes_random_ones() -> None:
    draws = group_draws(4, 34, np.random.default_rng(0))
    assert draws.weights is None
    assert draws.counts.shape == (34, 4)
    assert (draws.counts.sum(axis=1) == 4).all()
    assert (draws.counts == group_draws(4, 34, np.random.default_rng(0)).counts).all()


def test_one_group_is_drawn_once() -> None:
    counts, weights = group_draws(1, 1, np.random.default_rng(0))
    assert counts.tolist() == [[1]]
    assert weights is not None
    assert weights.tolist() == [1.0]


def test_the_interval_of_all_draws_is_that_of_all_ordered_ones() -> None:
    values = np.array([0.3, 1.1, 2.0, 7.5])
    means = np.array([values[list(order)].mean() for order in product(range(4), repeat=4)])
    expected = np.quantile(means, [0.05, 0.95], method="inverted_cdf")
    counts, weights = group_draws(4, 1000, np.random.default_rng(0))
    assert percentile_interval(counts @ values / 4, 0.9, weights) == pytest.approx(expected, rel=1e-12)


def test_the_interval_of_random_draws_is_that_of_scipy() -> None:
    values = np.random.default_rng(3).normal(size=50)
    ours = group_draws(50, 20_000, np.random.default_rng(0))
    low, high = percentile_interval(ours.counts @ values / 50, 0.9)
    theirs = stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, confidence_level=0.9, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    assert (low, high) == pytest.approx((theirs.low, theirs.high), abs=0.01)


@pytest.mark.parametrize("weights", [None, np.full(4, 0.25)])
def test_draws_that_define_nothing_are_left_out(weights: np.ndarray | None) -> None:
    assert percentile_interval(np.array([np.nan, 2.0, 2.0, np.nan]), 0.95, weights) == (2.0, 2.0)
    assert np.isnan(percentile_interval(np.full(4, np.nan), 0.95, weights)).all()


def test_examples() -> None:
    assert doctest.testmod(module).failed == 0
