import math

import numpy as np
import pytest
from scipy.special import digamma, ndtri

from lorascope.analyze.information.gaussian import (
    NOISE,
    canonical_correlations,
    gaussian_bias,
    gaussian_information,
    gaussian_lower_bound,
    noise_curve,
    normal_scores,
    standardised_or_scores,
)
from lorascope.analyze.information.pairs import Pairs, Settings


def white(n: int, d: int, seed: int = 0) -> np.ndarray:
    """Columns of mean 0, variance 1 and no correlation in the sample itself, float64 (n, d)."""
    rows = np.random.default_rng([n, d, seed]).normal(size=(n, d))
    return np.linalg.qr(rows - rows.mean(axis=0))[0] * math.sqrt(n - 1)


def with_correlations(rhos: list[float], n: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """Sides whose canonical correlations are these in the sample itself."""
    rows, rho = white(n, 2 * len(rhos)), np.array(rhos)
    x, other = rows[:, : len(rhos)], rows[:, len(rhos) :]
    return x, rho * x + np.sqrt(1 - rho**2) * other


@pytest.mark.parametrize("rhos", [[0.0], [0.5], [-0.9], [0.99999], [0.9, 0.3, 0.0]])
def test_a_gaussian_has_half_the_log_of_each_unexplained_share(rhos: list[float]) -> None:
    x, y = with_correlations(rhos)
    expected = -0.5 * np.log(1 - np.square(rhos)).sum()
    # Correlations are right to some 1e-15, and 1 - rho^2 to that over itself: 2e-5 for the last rho.
    tolerance = 1e-14 / (1 - np.square(rhos).max())
    assert abs(gaussian_information(x, y) - expected) < tolerance
    np.testing.assert_allclose(
        canonical_correlations(x, y), np.sort(np.abs(rhos))[::-1], rtol=0, atol=1e-14 * math.sqrt(60)
    )


def test_sides_that_share_a_direction_exactly_have_infinite_information() -> None:
    x = white(50, 4)
    assert gaussian_information(x[:, :2], x[:, 1:]) == math.inf
    for seed in range(20):  # rounding may lead beyond 1
        rows = np.random.default_rng(seed).normal(size=(50, 4))
        assert canonical_correlations(rows, rows[:, ::-1]).max() <= 1
    assert gaussian_information(x[:, [0]], -3 * x[:, [0]]) == math.inf
    nearly = x[:, [0]] + 1e-4 * x[:, [1]]
    assert gaussian_information(x[:, [0]], nearly) == pytest.approx(-math.log(1e-4), abs=1e-6)


@pytest.mark.parametrize(("n", "dx", "dy"), [(12, 2, 3), (8, 1, 1), (16, 4, 4)])
@pytest.mark.parametrize("strength", [0.0, 1.5])
def test_the_bias_is_exact_in_small_samples(n: int, dx: int, dy: int, strength: float) -> None:
    rng = np.random.default_rng([n, dx, dy])
    mixing = strength * rng.normal(size=(dx, dy))
    truth = 0.5 * np.linalg.slogdet(np.eye(dy) + mixing.T @ mixing)[1]
    found = np.empty(3000)
    for place in range(len(found)):
        x = rng.normal(size=(n, dx))
        found[place] = gaussian_information(x, x @ mixing + rng.normal(size=(n, dy)))
    error = found.std() / math.sqrt(len(found))
    assert abs(found.mean() - gaussian_bias(n, dx, dy) - truth) < 4 * error
    assert gaussian_bias(n, dx, dy) > 8 * error  # or the test would pass without it


def test_the_bias_in_closed_form() -> None:
    assert gaussian_bias(9, 1, 1) == pytest.approx((digamma(4) - digamma(3.5)) / 2, abs=1e-15)
    # -psi(3.5) + psi(4) from psi(4) = 11/6 - gamma and psi(1/2) = -gamma - 2 ln 2
    assert gaussian_bias(9, 1, 1) == pytest.approx((11 / 6 + 2 * math.log(2) - 2 - 2 / 3 - 2 / 5) / 2, abs=1e-14)
    assert gaussian_bias(50, 3, 7) == gaussian_bias(50, 7, 3)
    # dx dy / (2 n) with a relative error of the order of (dx + dy)/n
    assert gaussian_bias(10**6, 4, 5) == pytest.approx(20 / 2e6, rel=1e-4)


def test_scores_are_normal_quantiles_of_ranks() -> None:
    found = normal_scores(np.array([[3.0, 1.0], [-7.0, 1.0], [100.0, 0.0]]))
    np.testing.assert_allclose(found[:, 0], ndtri([2 / 4, 1 / 4, 3 / 4]), rtol=0, atol=1e-15)
    np.testing.assert_allclose(found[:, 1], ndtri([2.5 / 4, 2.5 / 4, 1 / 4]), rtol=0, atol=1e-15)


def test_a_seed_orders_ties_at_random_and_leaves_all_else() -> None:
    x = np.stack([np.arange(40.0) // 10, np.arange(40.0)], axis=1)
    one, again, other = (normal_scores(x, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert (one[:, 0] != other[:, 0]).any()
    np.testing.assert_array_equal(one[:, 1], normal_scores(x)[:, 1])
    for scores in (one, other):
        np.testing.assert_allclose(np.sort(scores[:, 0]), ndtri(np.arange(1, 41) / 41), rtol=0, atol=1e-15)
        np.testing.assert_array_equal(np.argsort(scores[:, 0]) // 10, np.repeat(np.arange(4), 10))


@pytest.mark.parametrize("d", [1, 3])
def test_a_copy_seen_through_noise(d: int) -> None:
    x = white(40, d)
    noise = np.array(NOISE)
    # Correlations are 1/(1 + s^2); 1 - rho^2 = s^2 (2 + s^2)/(1 + s^2)^2
    expected = -d / 2 * np.log(noise**2 * (2 + noise**2) / (1 + noise**2) ** 2)
    np.testing.assert_allclose(noise_curve(x, 5 * x + 2), expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize("n_shared", [0, 1, 3])
def test_the_slope_of_the_noise_curve_counts_shared_directions(n_shared: int) -> None:
    rng = np.random.default_rng(3)
    shared = rng.normal(size=(400, n_shared))
    x, y = (np.concatenate([shared, rng.normal(size=(400, 4 - n_shared))], axis=1) for _ in range(2))
    strong, weak = noise_curve(x @ rng.normal(size=(4, 4)), y @ rng.normal(size=(4, 4)), (1e-4, 1e-5))
    # What isn't shared changes as s^2 over its variance: 1e-8 / 1e-3.
    assert (weak - strong) / math.log(10) == pytest.approx(n_shared, abs=1e-3)


def test_what_no_gaussian_has_is_refused_in_words() -> None:
    x = white(20, 3)
    with pytest.raises(ValueError, match="the 4 columns of `x` have rank 3; project to at most 3 dimensions"):
        gaussian_information(np.concatenate([x, x[:, :1] + 2 * x[:, 1:2]], axis=1), x[:, :1])

    with pytest.raises(ValueError, match="`x` is constant; nothing depends on it"):
        noise_curve(0 * x + 3, x)


@pytest.mark.parametrize(("d", "rho"), [(1, 0.5), (4, 0.7), (10, 0.3), (20, 0.99)])
def test_what_a_gaussian_says_of_gaussians_is_certified(d: int, rho: float) -> None:
    """The check costs no more than its own noise: that of a million pairs, whose mean over either row alone is 1."""
    rng = np.random.default_rng(d)
    x = rng.normal(size=(3000, d))
    y = rho * x + math.sqrt(1 - rho**2) * rng.normal(size=(3000, d))
    plain = gaussian_information(x, y) - gaussian_bias(3000, d, d)
    rows = np.arange(3000)
    certified = gaussian_lower_bound(Pairs(x, y, rows, rows), Settings())
    assert plain - 0.02 < certified <= plain


def test_what_a_gaussian_says_of_clusters_isnt() -> None:
    """A label of 10 that both sides share: at most ln 10 nats, and covariances that would have five times as much."""
    rng = np.random.default_rng(3)
    centres, labels = rng.normal(size=(10, 6)), rng.integers(10, size=2000)
    x, y = (centres[labels] + 0.05 * rng.normal(size=(2000, 6)) for _ in range(2))
    rows = np.arange(2000)
    assert gaussian_information(x, y) > 4 * math.log(10)
    assert 0.5 * math.log(10) < gaussian_lower_bound(Pairs(x, y, rows, rows), Settings()) < math.log(10)


def test_rows_of_a_group_arent_put_together() -> None:
    """Here each row has a near copy in its group: put together like strangers, they would speak against the truth."""
    rng = np.random.default_rng(4)
    groups = np.repeat(np.arange(500), 2)
    x = rng.normal(size=(500, 2))[groups] + 1e-6 * rng.normal(size=(1000, 2))
    y = x + 0.1 * rng.normal(size=(500, 2))[groups] + 1e-6 * rng.normal(size=(1000, 2))
    truth = math.log1p(100)  # twice half of it
    found = gaussian_lower_bound(Pairs(x, y, groups, groups), Settings())
    alone = gaussian_lower_bound(Pairs(x, y, np.arange(1000), np.arange(1000)), Settings())
    assert abs(found - truth) < 0.2  # a standard deviation of 0.06, and ranks
    assert alone < found - 0.1


def test_columns_stay_values_unless_their_tails_are_heavy_and_none_of_them_ties() -> None:
    rng = np.random.default_rng(0)
    x = np.stack([rng.random(2000), rng.integers(3, size=2000), rng.standard_cauchy(2000)], axis=1)
    scores = normal_scores(x, seed=1)
    found = standardised_or_scores(x, scores, seed=1)
    np.testing.assert_array_equal(found[:, 2], scores[:, 2])
    np.testing.assert_allclose(found[:, :2], ((x - x.mean(axis=0)) / x.std(axis=0))[:, :2], rtol=0, atol=1e-8)
    assert all(len(np.unique(column)) == 2000 for column in found.T)
