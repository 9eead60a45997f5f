import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorascope.analyze.information import classifier
from lorascope.analyze.information.bound import js_lower_bound
from lorascope.analyze.information.classifier import classifier_js
from lorascope.analyze.information.estimators import evaluate
from lorascope.analyze.information.pairs import Settings, check_pairs

from ...dependence import dependence, normals


def gaussians(seed: int, n: int, dimension: int, rho: float) -> tuple[np.ndarray, np.ndarray]:
    """Every coordinate of x correlates with the same one of y."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, dimension))
    return x, rho * x + np.sqrt(1 - rho**2) * rng.normal(size=x.shape)


def information(x: np.ndarray, y: np.ndarray) -> float:
    """Xi of what the classifier certifies."""
    return float(evaluate(check_pairs(x, y), ["classifier"], Settings())[0])


@pytest.mark.parametrize("rho", [0.5, 0.75, 0.9])
def test_gaussians_of_known_js(rho: float) -> None:
    found = [classifier_js(*gaussians(seed, 4000, 1, rho)) for seed in range(5)]
    error = np.std(found, ddof=1) / np.sqrt(5)
    assert abs(np.mean(found) - dependence(normals(rho)).js) < 4 * error


def test_the_information_is_the_least_that_js_needs() -> None:
    x, y = gaussians(1, 500, 2, 0.7)
    assert information(x, y) == js_lower_bound(classifier_js(x, y))
    assert 0.1 < information(x, y) < -np.log(1 - 0.7**2)


def test_a_shared_scale_without_correlation() -> None:
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(2, 2000, 5)) / np.sqrt(rng.chisquare(2, (2000, 1)) / 2)
    assert 0.2 < information(x, y) < 0.448  # Student, 5 + 5, 2 degrees of freedom


@pytest.mark.parametrize(("n", "dimension"), [(40, 1), (400, 1), (300, 3), (100, 40)])
def test_independent_sides_stay_at_0(n: int, dimension: int) -> None:
    found = np.array([classifier_js(*gaussians(seed, n, dimension, 0.0)) for seed in range(10)])
    assert found.mean() < 3 * found.std() / np.sqrt(len(found)) + 1e-9


def test_below_0_is_reported_and_not_certified() -> None:
    found = {seed: classifier_js(*gaussians(seed, 100, 2, 0.0)) for seed in range(10)}
    seed = min(found, key=lambda seed: found[seed])
    assert found[seed] < 0
    assert information(*gaussians(seed, 100, 2, 0.0)) == 0


def test_equal_bits_are_certified_to_the_full() -> None:
    x = np.random.default_rng(4).integers(0, 2, (2000, 1)).astype(np.float64)
    # Where joint/product takes two values, Xi loses nothing except by the penalty.
    assert js_lower_bound(classifier_js(x, x)) == pytest.approx(np.log(2), abs=0.03)


@given(st.integers(0, 10**6), st.integers(32, 120), st.integers(1, 4), st.floats(-1, 1))
@settings(max_examples=15)
def test_nothing_is_above_the_ceiling(seed: int, n: int, dimension: int, rho: float) -> None:
    x, y = gaussians(seed, n, dimension, rho)
    assert classifier_js(x, y, groups=np.arange(n) // 3, seed=seed) <= np.log(2) - np.log1p(2 / (n + 3))


def test_monotone_maps_count_for_nothing_and_seeds_for_little() -> None:
    x, y = gaussians(5, 1000, 2, 0.8)
    found = classifier_js(x, y)
    assert classifier_js(1e30 * x, np.exp(y) - 7) == found
    assert classifier_js(y, x) == pytest.approx(found, abs=0.03)
    assert found != classifier_js(x, y, seed=4) == pytest.approx(found, abs=0.03)


def test_what_rows_of_a_group_share_is_no_dependence() -> None:
    groups, found = np.repeat(np.arange(40), 15), []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        x, y = (rng.normal(size=(40, 2))[groups] + 0.1 * rng.normal(size=(600, 2)) for _ in range(2))
        named = np.array([f"sample {group}" for group in groups])
        found.append((classifier_js(x, y), classifier_js(x, y, groups=named)))
    alone, together = np.transpose(found)
    assert alone.mean() > 0.02
    assert together.max() < 0


def test_few_groups_are_parted_by_rows_for_fitting_alone() -> None:
    x, y = gaussians(8, 400, 1, 0.9)
    assert classifier_js(x, y, groups=np.arange(400) // 100) > 0.15
    for groups in (np.zeros(400), np.arange(400) // 200):
        with pytest.raises(ValueError, match="a half of the rows has only one group; give more groups"):
            classifier_js(x, y, groups=groups)


def test_a_constant_side_is_refused_in_words() -> None:
    x = gaussians(9, 100, 2, 0)[0]
    with pytest.raises(ValueError, match="`y` is the same in all 25 samples"):
        classifier_js(x, np.ones((100, 1)))


@given(st.lists(st.integers(1, 6), min_size=2, max_size=12), st.integers(0, 99))
def test_partners_are_of_other_groups(sizes: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(3 * np.arange(len(sizes)), sizes))
    partners = classifier._draw_partners(labels, rng)
    assert partners.shape == (len(labels), classifier.N_PARTNERS)
    assert (labels[partners] != labels[:, None]).all()


def test_features_hold_the_log_density_ratio_of_gaussians() -> None:
    rng = np.random.default_rng(9)
    u, v = rng.normal(size=(2, 40, 3))
    features = classifier._quadratic(u, v)
    assert features.shape == (40, 24)
    rho = np.array([0.3, 0.6, 0.9])
    ratio = ((rho * u * v - rho**2 * (u**2 + v**2) / 2) / (1 - rho**2)).sum(axis=1)
    weights, *_ = np.linalg.lstsq(features, ratio)
    np.testing.assert_allclose(features @ weights, ratio, atol=1e-10)
