import doctest
import itertools
import math
import re
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from lorascope.analyze.comparison import resample
from lorascope.analyze.comparison.resample import Draws, block_draws, interval, sign_flip

UNUSED = np.random.default_rng(0)


def by_all_signs(values: list[float]) -> float:
    sums = [
        abs(sum(s * v for s, v in zip(signs, values, strict=True)))
        for signs in itertools.product([1, -1], repeat=len(values))
    ]
    return float(np.mean([one >= abs(sum(values)) - 1e-12 for one in sums]))


@given(st.lists(st.integers(-5, 5), min_size=1, max_size=8))
def test_flips_are_all_signs(values: list[int]) -> None:
    found = sign_flip(np.array(values) / 5, 0, UNUSED)
    assert found.p == pytest.approx(by_all_signs([v / 5 for v in values]))
    assert found.mean == pytest.approx(np.mean(values) / 5)
    assert found.n_blocks == len(values)
    assert found.floor <= found.p <= 1
    assert sign_flip(-np.array(values) / 5, 0, UNUSED).p == found.p


@pytest.mark.parametrize("n", [1, 2, 5, 10, 20])
def test_flips_reach_their_floor(n: int) -> None:
    found = sign_flip(np.arange(1.0, n + 1), 0, UNUSED)
    assert found.p == found.floor == 0.5 ** (n - 1)


def test_blocks_that_say_nothing_raise_the_floor() -> None:
    found = sign_flip(np.array([0.2, 0.0, 0.3, 1e-14]), 0, UNUSED)
    assert (found.p, found.floor, found.n_blocks) == (0.5, 0.5, 4)
    assert sign_flip(np.zeros(3), 0, UNUSED)[1:] == (1.0, 1.0, 3)


def test_above_20_blocks_signs_are_drawn() -> None:
    values = np.random.default_rng(3).normal(0.35, 1, 25)
    found = sign_flip(values, 20_000, np.random.default_rng(0))
    exact = 2 * stats.norm.sf(values.sum() / math.sqrt((values**2).sum()))  # nearly
    assert found.p == pytest.approx(exact, abs=0.02)
    assert found.floor == 1 / 20_001
    assert found == sign_flip(values, 20_000, np.random.default_rng(0))
    assert sign_flip(np.ones(25), 1000, np.random.default_rng(0)).p == 1 / 1001


@pytest.mark.parametrize("values", [[], [0.1, math.nan], [math.inf]])
def test_no_number_to_flip(values: list[float]) -> None:
    words = re.escape(f"sign flips need one finite number a block; these are {values}")
    with pytest.raises(ValueError, match=words):
        sign_flip(np.array(values), 0, UNUSED)


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_draws_are_those_of_all_samples(n: int) -> None:
    found = block_draws(n, 100, UNUSED)
    assert found.is_exact
    wanted = Counter(tuple(np.bincount(one, minlength=n)) for one in itertools.product(range(n), repeat=n))
    drawn = {
        tuple(counts.astype(int)): weight * n**n for counts, weight in zip(found.counts, found.weights, strict=True)
    }
    assert drawn == pytest.approx(dict(wanted))


@pytest.mark.parametrize("n", [6, 10])
def test_draws_of_many_blocks_have_multinomial_moments(n: int) -> None:
    counts, weights, is_exact = block_draws(n, 100, UNUSED)
    assert is_exact
    assert len(counts) == math.comb(2 * n - 1, n)
    assert weights.sum() == pytest.approx(1)
    np.testing.assert_allclose(weights @ counts, np.ones(n))
    covariance = (counts - 1).T @ (weights[:, None] * (counts - 1))
    np.testing.assert_allclose(covariance, np.eye(n) - 1 / n, atol=1e-12)


def test_draws_above_ten_blocks_are_random_and_repeatable() -> None:
    found = block_draws(11, 500, np.random.default_rng(4))
    assert not found.is_exact
    assert found.counts.shape == (500, 11)
    assert (found.counts.sum(axis=1) == 11).all()
    np.testing.assert_array_equal(found.counts, block_draws(11, 500, np.random.default_rng(4)).counts)


def test_interval_is_that_of_all_samples() -> None:
    values = np.array([0.1, 0.7, 0.2, 0.9])
    draws = block_draws(4, 100, UNUSED)
    found = interval(draws.counts @ values / 4, draws, 0.1)
    means = sorted(float(np.mean(one)) for one in itertools.product(values, repeat=4))
    assert found.low == pytest.approx(means[math.ceil(0.05 * len(means)) - 1])
    assert found.high == pytest.approx(means[math.ceil(0.95 * len(means)) - 1])
    assert found.degenerate == 0


def test_draws_that_define_nothing_are_counted() -> None:
    draws = Draws(np.ones((4, 1)), np.array([0.1, 0.2, 0.3, 0.4]), True)
    found = interval(np.array([np.nan, 1.0, np.nan, 2.0]), draws, 0.05)
    assert (found.low, found.high) == (1.0, 2.0)
    assert found.degenerate == pytest.approx(0.4)


def test_no_draw_defines_it() -> None:
    words = "no bootstrap draw of blocks defines the number; give more blocks in which it varies"
    with pytest.raises(ValueError, match=words):
        interval(np.array([np.nan]), Draws(np.ones((1, 1)), np.ones(1), True), 0.05)


def test_examples_of_the_module_run() -> None:
    assert doctest.testmod(resample) == (0, 2)
