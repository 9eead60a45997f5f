import math
from typing import Any

import numpy as np
import pytest
from scipy.special import digamma
from sklearn.feature_selection import mutual_info_regression

from lorascope.analyze.information.ksg import extrapolated_ksg, ksg, ksg_ceiling, ksg_local
from lorascope.kernels.neighbours import BLOCK

ROUNDING = 1e-12
"""Local values are sums of four terms below 10, each right to a few 2e-16 of itself: 1e-14, and some room."""


def slow_local(x: np.ndarray, y: np.ndarray, k: int, groups_x: np.ndarray, groups_y: np.ndarray) -> np.ndarray:
    """Kraskov's equation 8 with all distances at once, float64 (n,)."""
    alike = (groups_x[:, None] == groups_x) | (groups_y[:, None] == groups_y)
    dx, dy = (np.where(alike, np.inf, np.abs(side[:, None] - side).max(axis=2)) for side in (x, y))
    radius = np.sort(np.maximum(dx, dy), axis=1)[:, k - 1 : k]
    counts = digamma((dx < radius).sum(axis=1) + 1) + digamma((dy < radius).sum(axis=1) + 1)
    return np.asarray(digamma(k) + digamma((~alike).sum(axis=1) + 1) - counts)


def dependent(n: int, dx: int, dy: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Correlated, with columns of different scales."""
    rng = np.random.default_rng([seed, n, dx, dy])
    x = rng.normal(size=(n, dx)) * rng.uniform(0.5, 2, dx)
    return x, x @ rng.normal(size=(dx, dy)) + rng.normal(size=(n, dy))


def some_groups(n: int, kind: str) -> Any:
    """What `ksg` gets as `groups`."""
    rng = np.random.default_rng(n)
    labels = rng.integers(0, n // 6, n), rng.integers(0, n // 9, n)
    return {"none": None, "of pairs": labels[0], "of sides": labels}[kind]


def sides_of(groups: Any, n: int) -> tuple[np.ndarray, np.ndarray]:
    if groups is None:
        return np.arange(n), np.arange(n)
    return groups if isinstance(groups, tuple) else (groups, groups)


@pytest.mark.parametrize("groups", ["none", "of pairs", "of sides"])
@pytest.mark.parametrize(("dx", "dy"), [(1, 1), (4, 3), (2, 9)])
def test_local_values_are_those_of_the_definition(dx: int, dy: int, groups: str) -> None:
    n = BLOCK + 100
    x, y = dependent(n, dx, dy)
    given = some_groups(n, groups)
    for k in (1, 3, 10):
        expected = slow_local(x, y, k, *sides_of(given, n))
        np.testing.assert_allclose(ksg_local(x, y, k=k, groups=given), expected, rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("n", [BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 1])
def test_no_pair_gets_lost_where_blocks_begin_and_end(n: int) -> None:
    x, y = dependent(n, 2, 1)
    expected = slow_local(x, y, 4, *sides_of(None, n))
    np.testing.assert_allclose(ksg_local(x, y, k=4), expected, rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("tail", [1.0, 40.0])
def test_first_coordinates_that_crowd_in_one_place_hide_no_neighbour(tail: float) -> None:
    rng = np.random.default_rng(3)
    x = np.stack([rng.choice([-1, 1], 1200) * rng.exponential(size=1200) ** tail, rng.normal(size=1200)], axis=1)
    y = rng.normal(size=(1200, 1))
    expected = slow_local(x, y, 3, *sides_of(None, 1200))
    np.testing.assert_allclose(ksg_local(x, y), expected, rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("shape", ["normal", "wave", "tails"])
def test_as_scikit_learn_has_it(shape: str) -> None:
    rng = np.random.default_rng(4)
    x, noise = rng.normal(size=1000), rng.normal(size=1000)
    y = {"normal": x + noise, "wave": np.sin(3 * x) + 0.2 * noise, "tails": x * noise + noise**3}[shape]
    theirs = mutual_info_regression(x[:, None], y, n_neighbors=3, random_state=0)[0]
    ours = ksg((x / x.std())[:, None], (y / y.std())[:, None])
    # Their noise of 1e-10 would have to carry a point across a radius: one chance in some 1e4 for all of them. A change
    # of one count would show as about 1e-3 / n_x, 1e-5 for the largest counts.
    assert abs(ours - theirs) < 1e-5


@pytest.mark.parametrize("k", [1, 2, 3])
def test_of_a_grid_it_counts_what_shares_a_coordinate(k: int) -> None:
    m = 9
    x, y = (side.reshape(-1, 1).astype(float) for side in np.mgrid[:m, :m])
    # All points have three neighbours at distance 1; nearer in x than that are the others of the same row.
    expected = digamma(k) + digamma(m**2) - 2 * digamma(m)
    np.testing.assert_allclose(ksg_local(x, y, k=k), expected, rtol=0, atol=ROUNDING)


def test_the_order_of_rows_means_nothing_and_sides_change_places() -> None:
    x, y = dependent(600, 3, 2)
    groups, order = np.arange(600) // 7, np.random.default_rng(5).permutation(600)
    expected = ksg_local(x, y, groups=groups)
    np.testing.assert_array_equal(ksg_local(x[order], y[order], groups=groups[order]), expected[order])
    of_sides = some_groups(600, "of sides")
    there, back = ksg(x, y, groups=of_sides), ksg(y, x, groups=of_sides[::-1])
    assert there == pytest.approx(back, abs=ROUNDING)


def autocorrelated(rng: np.random.Generator, n_groups: int, length: int) -> np.ndarray:
    """Stationary AR(1) series in four dimensions, one after the other, float64 (row, 4)."""
    series = rng.normal(size=(n_groups, length, 4))
    for t in range(1, length):
        series[:, t] = 0.9 * series[:, t - 1] + math.sqrt(1 - 0.9**2) * series[:, t]
    return series.reshape(-1, 4)


def test_tokens_that_follow_each_other_look_dependent_unless_their_sample_is_left_out() -> None:
    groups = np.repeat(np.arange(400), 10)
    found = []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        x, y = (autocorrelated(rng, 400, 10) for _ in range(2))
        found.append((ksg(x, y), ksg(x, y, groups=groups)))
    with_mates, without = np.transpose(found)
    # Independent, so that the truth is 0. Over 8 other seeds: 0.65 +- 0.03 and -0.025 +- 0.012, a little too low, since
    # a near token of another sample brings its neighbours along.
    assert with_mates.min() > 0.5
    assert -0.1 < without.min() <= without.max() < 4 * 0.012


@pytest.mark.parametrize(("n", "k"), [(50, 1), (300, 3)])
def test_the_ceiling_is_what_a_copy_gets(n: int, k: int) -> None:
    copied = np.cumsum(1 + np.random.default_rng(6).uniform(size=n))[:, None]
    assert abs(ksg(copied, copied, k=k) - ksg_ceiling(n, k)) < ROUNDING


@pytest.mark.parametrize("rho", [0.0, 0.6, 0.9])
def test_close_to_the_truth_of_a_gaussian_pair(rho: float) -> None:
    found = []
    for seed in range(10):
        rng = np.random.default_rng(seed)
        x = rng.normal(size=(1000, 1))
        y = rho * x + math.sqrt(1 - rho**2) * rng.normal(size=(1000, 1))
        found.append(ksg(x, y, k=5))
    error = np.std(found, ddof=1) / math.sqrt(10)
    # Kraskov's figure 4: systematic errors stay below 0.01 at n/k = 200.
    assert abs(np.mean(found) + 0.5 * math.log(1 - rho**2)) < 0.01 + 4 * error


def test_more_neighbours_than_others_are_refused_in_words() -> None:
    x, y = dependent(50, 1, 1)
    with pytest.raises(ValueError, match="`k` is 50, and a pair has 49 pairs of other groups; give more groups"):
        ksg(x, y, k=50)
    assert math.isfinite(ksg(x, y, k=49))
    for groups in (np.zeros(50, int), (np.arange(50) // 25, np.arange(50) // 49)):
        with pytest.raises(ValueError, match="`k` is 3, and a pair has 0 pairs of other groups"):
            ksg(x, y, groups=groups)


def test_pairs_on_top_of_each_other_are_refused_in_words() -> None:
    x, y = dependent(60, 2, 1)
    x[10:14], y[10:14] = x[10], y[10]
    with pytest.raises(
        ValueError, match="4 of 60 pairs occur more than 2 times: nearest neighbours need continuous data"
    ):
        ksg(x, y, k=2)
    assert math.isfinite(ksg(x, y, k=4))


@pytest.mark.parametrize("k", [2, 3, 8])
def test_extrapolation_adds_what_nearer_neighbours_see_for_certain(k: int) -> None:
    """Squares of a checkerboard: neighbours across an edge smooth it, fewer the less."""
    rng = np.random.default_rng(0)
    cell = rng.integers(8, size=2000)
    x = (cell + rng.random(2000))[:, None]
    y = ((cell + 2 * rng.integers(4, size=2000)) % 8 + rng.random(2000))[:, None]
    near, far = (ksg_local(x, y, k=of) for of in (1, k))
    more = near - far
    certain = more.mean() - 2 * more.std() / math.sqrt(2000)
    found = extrapolated_ksg(x, y, k=k)
    assert found == pytest.approx(far.mean() + k / (k - 1) * max(certain, 0), rel=1e-12)
    if k == 8:
        assert far.mean() < found < math.log(2)
    rows = np.arange(0, 2000, 3)
    certain = more[rows].mean() - 2 * more[rows].std() / math.sqrt(len(rows))
    expected = far[rows].mean() + k / (k - 1) * max(certain, 0)
    assert extrapolated_ksg(x, y, k=k, rows=rows) == pytest.approx(expected, rel=1e-12)


def test_extrapolation_of_gaussians_adds_next_to_nothing() -> None:
    gains = []
    for seed in range(20):
        x, y = np.random.default_rng(seed).normal(size=(2, 500, 1))
        gains.append(extrapolated_ksg(x, 0.6 * x + 0.8 * y) - ksg(x, 0.6 * x + 0.8 * y))
    # The mean of what a standard normal exceeds 2 by is 0.0085; one neighbour scatters by some 0.05 more than three.
    assert 0 <= np.mean(gains) < 4 * 1.5 * 0.0085 * 0.05


def test_extrapolation_needs_a_nearer_neighbour_and_ends_at_the_ceiling() -> None:
    x = np.random.default_rng(0).normal(size=(500, 1))
    assert extrapolated_ksg(x, x) == pytest.approx(ksg_ceiling(500, 3), abs=ROUNDING)
    assert extrapolated_ksg(x, -x, k=1) == ksg(x, -x, k=1)
    x[1] = x[0]  # a pair twice has no nearest pair at a distance
    assert extrapolated_ksg(x, 2 * x, k=2) == ksg(x, 2 * x, k=2)
