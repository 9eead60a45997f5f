import math
from typing import Any

import numpy as np
import pytest
from scipy.special import digamma
from sklearn.feature_selection import mutual_info_regression

from lorascope.analyze.information.ksg import Norm, Variant, ksg, ksg_ceiling, ksg_local
from lorascope.analyze.kernels.neighbours import BLOCK

EULER = 0.5772156649015329
ROUNDING = 1e-12
"""Local values are sums of five terms below 10, each right to a few 2e-16 of itself: 1e-14, and some room."""


def slow_local(
    x: np.ndarray, y: np.ndarray, k: int, variant: Variant, norm: Norm, groups_x: np.ndarray, groups_y: np.ndarray
) -> np.ndarray:
    """Kraskov's equations 8 and 9 with all distances at once, float64 (n,)."""
    alike = (groups_x[:, None] == groups_x) | (groups_y[:, None] == groups_y)
    dx, dy = (np.where(alike, np.inf, distances(side, norm)) for side in (x, y))
    nearest = np.argsort(np.maximum(dx, dy), axis=1)[:, :k]
    local = digamma(k) + digamma((~alike).sum(axis=1) + 1)
    if variant == 1:
        radius = np.take_along_axis(np.maximum(dx, dy), nearest[:, -1:], axis=1)
        return local - digamma((dx < radius).sum(axis=1) + 1) - digamma((dy < radius).sum(axis=1) + 1)
    radii = [np.take_along_axis(side, nearest, axis=1).max(axis=1, keepdims=True) for side in (dx, dy)]
    return local - 1 / k - digamma((dx <= radii[0]).sum(axis=1)) - digamma((dy <= radii[1]).sum(axis=1))


def distances(points: np.ndarray, norm: Norm) -> np.ndarray:
    differences = np.abs(points[:, None] - points)
    return differences.max(axis=2) if norm == "maximum" else np.sqrt((differences**2).sum(axis=2))


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
@pytest.mark.parametrize("norm", ["maximum", "euclidean"])
@pytest.mark.parametrize("variant", [1, 2])
@pytest.mark.parametrize(("dx", "dy"), [(1, 1), (4, 3), (2, 9)])
def test_local_values_are_those_of_the_definition(dx: int, dy: int, variant: Variant, norm: Norm, groups: str) -> None:
    n, ks = BLOCK + 100, (1, 3, 10)
    x, y = dependent(n, dx, dy)
    given = some_groups(n, groups)
    found = ksg_local(x, y, k=ks, variant=variant, norm=norm, groups=given)
    for place, k in enumerate(ks):
        expected = slow_local(x, y, k, variant, norm, *sides_of(given, n))
        np.testing.assert_allclose(found[:, place], expected, rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("variant", [1, 2])
@pytest.mark.parametrize("n", [BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 1])
def test_no_pair_gets_lost_where_blocks_begin_and_end(n: int, variant: Variant) -> None:
    x, y = dependent(n, 2, 1)
    expected = slow_local(x, y, 4, variant, "euclidean", *sides_of(None, n))
    found = ksg_local(x, y, k=(4,), variant=variant, norm="euclidean")
    np.testing.assert_allclose(found[:, 0], expected, rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("tail", [1.0, 40.0])
def test_first_coordinates_that_crowd_in_one_place_hide_no_neighbour(tail: float) -> None:
    rng = np.random.default_rng(3)
    x = np.stack([rng.choice([-1, 1], 1200) * rng.exponential(size=1200) ** tail, rng.normal(size=1200)], axis=1)
    y = rng.normal(size=(1200, 1))
    expected = slow_local(x, y, 3, 1, "maximum", *sides_of(None, 1200))
    np.testing.assert_allclose(ksg_local(x, y)[:, 0], expected, rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("shape", ["normal", "wave", "tails"])
def test_as_scikit_learn_has_it(shape: str) -> None:
    rng = np.random.default_rng(4)
    x, noise = rng.normal(size=1000), rng.normal(size=1000)
    y = {"normal": x + noise, "wave": np.sin(3 * x) + 0.2 * noise, "tails": x * noise + noise**3}[shape]
    theirs = mutual_info_regression(x[:, None], y, n_neighbors=3, random_state=0)[0]
    ours = ksg((x / x.std())[:, None], (y / y.std())[:, None])[0]
    # Their noise of 1e-10 would have to carry a point across a radius: one chance in some 1e4 for all of them. A change
    # of one count would show as about 1e-3 / n_x, 1e-5 for the largest counts.
    assert abs(ours - theirs) < 1e-5


@pytest.mark.parametrize("norm", ["maximum", "euclidean"])
@pytest.mark.parametrize("k", [1, 2, 3])
def test_of_a_grid_the_first_variant_counts_what_shares_a_coordinate(k: int, norm: Norm) -> None:
    m = 9
    x, y = (side.reshape(-1, 1).astype(float) for side in np.mgrid[:m, :m])
    # All points have three neighbours at distance 1; nearer in x than that are the others of the same row.
    found = ksg_local(x, y, k=(k,), norm=norm)[:, 0]
    np.testing.assert_allclose(found, digamma(k) + digamma(m**2) - 2 * digamma(m), rtol=0, atol=ROUNDING)


@pytest.mark.parametrize(("norm", "n_nearer"), [("maximum", 2), ("euclidean", 0)])
def test_a_neighbour_on_the_radius_counts_in_the_second_variant_alone(norm: Norm, n_nearer: int) -> None:
    n = 300
    steps = np.arange(float(n))[:, None]
    # Neighbours differ by 3 and 4 in x, which are 4 or 5 by the norm, and by 5 in y, all without rounding.
    x, y = steps * [3, 4], steps * 5
    first, second = (ksg_local(x, y, k=(2,), variant=variant, norm=norm)[1:-1, 0] for variant in (1, 2))
    open_counts = digamma(n_nearer + 1) + digamma(1)
    np.testing.assert_allclose(first, digamma(2) + digamma(n) - open_counts, rtol=0, atol=ROUNDING)
    np.testing.assert_allclose(second, digamma(2) - 1 / 2 + digamma(n) - 2 * digamma(2), rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("norm", ["maximum", "euclidean"])
@pytest.mark.parametrize("variant", [1, 2])
def test_numbers_dont_depend_on_workers(variant: Variant, norm: Norm) -> None:
    x, y = dependent(2500, 2, 2)
    alone = ksg_local(x, y, k=(2, 5), variant=variant, norm=norm)
    for n_workers in (2, 3):
        np.testing.assert_array_equal(ksg_local(x, y, k=(2, 5), variant=variant, norm=norm, n_workers=n_workers), alone)


@pytest.mark.parametrize("norm", ["maximum", "euclidean"])
@pytest.mark.parametrize("variant", [1, 2])
def test_the_order_of_rows_means_nothing(variant: Variant, norm: Norm) -> None:
    x, y = dependent(600, 3, 2)
    groups, order = np.arange(600) // 7, np.random.default_rng(5).permutation(600)
    options: dict[str, Any] = {"k": (3,), "variant": variant, "norm": norm}
    moved = ksg_local(x[order], y[order], groups=groups[order], **options)
    np.testing.assert_array_equal(moved, ksg_local(x, y, groups=groups, **options)[order])


@pytest.mark.parametrize("variant", [1, 2])
def test_sides_change_places(variant: Variant) -> None:
    x, y = dependent(600, 3, 2)
    groups = some_groups(600, "of sides")
    there = ksg(x, y, variant=variant, groups=groups)
    back = ksg(y, x, variant=variant, groups=groups[::-1])
    np.testing.assert_allclose(there, back, rtol=0, atol=ROUNDING)


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
        found.append((ksg(x, y)[0], ksg(x, y, groups=groups)[0]))
    with_mates, without = np.transpose(found)
    # Independent, so that the truth is 0. Over 8 other seeds: 0.65 +- 0.03 and -0.025 +- 0.012, a little too low, since
    # a near token of another sample brings its neighbours along.
    assert with_mates.min() > 0.5
    assert -0.1 < without.min() <= without.max() < 4 * 0.012


@pytest.mark.parametrize(("n", "k"), [(50, 1), (300, 3)])
def test_the_ceiling_is_what_a_copy_gets(n: int, k: int) -> None:
    copied = np.cumsum(1 + np.random.default_rng(6).uniform(size=n))[:, None]
    assert abs(ksg(copied, copied, k=(k,))[0] - ksg_ceiling(n, k)) < ROUNDING


@pytest.mark.parametrize("rho", [0.0, 0.6, 0.9])
def test_close_to_the_truth_of_a_gaussian_pair(rho: float) -> None:
    found = []
    for seed in range(10):
        rng = np.random.default_rng(seed)
        x = rng.normal(size=(1000, 1))
        y = rho * x + math.sqrt(1 - rho**2) * rng.normal(size=(1000, 1))
        found.append([ksg(x, y, k=(5,), variant=variant)[0] for variant in (1, 2)])
    error = np.std(found, axis=0, ddof=1) / math.sqrt(10)
    # Kraskov's figure 4: systematic errors stay below 0.01 at n/k = 200.
    assert (np.abs(np.mean(found, axis=0) + 0.5 * math.log(1 - rho**2)) < 0.01 + 4 * error).all()


def test_more_neighbours_than_others_are_refused_in_words() -> None:
    x, y = dependent(50, 1, 1)
    with pytest.raises(
        ValueError, match="`k` is 50, and a pair has 49 pairs of other groups; give pairs of more groups"
    ):
        ksg(x, y, k=(3, 50))
    assert np.isfinite(ksg(x, y, k=(49,))).all()
    with pytest.raises(ValueError, match="`k` is 3, and a pair has 0 pairs of other groups"):
        ksg(x, y, groups=np.zeros(50, int))
    with pytest.raises(ValueError, match="`k` is 3, and a pair has 0 pairs of other groups"):
        ksg(x, y, groups=(np.arange(50) // 25, np.arange(50) // 49))


def test_pairs_on_top_of_each_other_are_refused_in_words() -> None:
    x, y = dependent(60, 2, 1)
    x[10:14], y[10:14] = x[10], y[10]
    with pytest.raises(
        ValueError, match="4 of 60 pairs occur more than 2 times: nearest neighbours need continuous data"
    ):
        ksg(x, y, k=(2, 9))
    assert np.isfinite(ksg(x, y, k=(4,))).all()
