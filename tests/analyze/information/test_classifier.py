import importlib.util
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorascope.analyze.information import classifier
from lorascope.analyze.information.bound import gaussian_dependence, js_lower_bound
from lorascope.analyze.information.classifier import (
    classifier_certificate,
    classifier_js,
    classifier_nwj,
    pair_features,
)

BOUNDS = (classifier_js, classifier_certificate, classifier_nwj)


def gaussians(seed: int, n: int, dimension: int, rho: float) -> tuple[np.ndarray, np.ndarray]:
    """Every coordinate of x correlates with the same one of y."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, dimension))
    return x, rho * x + np.sqrt(1 - rho**2) * rng.normal(size=x.shape)


@pytest.mark.parametrize("rho", [0.5, 0.75, 0.9])
def test_gaussians_of_known_js(rho: float) -> None:
    x, y = gaussians(0, 6000, 1, rho)
    truth = gaussian_dependence(rho)
    js, nwj = classifier_js(x, y), classifier_nwj(x, y)
    assert js.value_nats == pytest.approx(truth.js, abs=3 * js.standard_error_nats)
    assert nwj.value_nats == pytest.approx(truth.mutual_information, abs=3 * nwj.standard_error_nats)


def test_the_certificate_is_what_js_needs() -> None:
    x, y = gaussians(1, 500, 2, 0.7)
    js, found = classifier_js(x, y), classifier_certificate(x, y)
    assert found.value_nats == js_lower_bound(js.value_nats)
    assert found.ceiling_nats == js_lower_bound(js.ceiling_nats)
    slope = (js_lower_bound(js.value_nats + 1e-6) - js_lower_bound(js.value_nats - 1e-6)) / 2e-6
    assert found.standard_error_nats == pytest.approx(slope * js.standard_error_nats, rel=1e-6)
    assert found.value_nats < classifier_nwj(x, y).value_nats < 2 * -np.log(1 - 0.7**2) / 2


def test_a_shared_scale_without_correlation() -> None:
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(2, 2000, 5)) / np.sqrt(rng.chisquare(2, (2000, 1)) / 2)
    found = classifier_nwj(x, y)
    assert 0.25 < found.value_nats < 0.448 + 3 * found.standard_error_nats  # Student, 5 + 5, 2 degrees of freedom


@pytest.mark.parametrize(("n", "dimension"), [(40, 1), (400, 1), (300, 3), (100, 40)])
@pytest.mark.parametrize("bound", [classifier_js, classifier_nwj])
def test_independent_sides_stay_at_0(bound: object, n: int, dimension: int) -> None:
    assert callable(bound)
    found = np.array([bound(*gaussians(seed, n, dimension, 0.0))[:2] for seed in range(10)])
    error = found[:, 0].std() / np.sqrt(len(found))
    assert found[:, 0].mean() < 3 * error + 1e-9
    assert found[:, 0].mean() > -0.2  # the penalty keeps many features from making much of noise
    assert (found[:, 0] < 4 * found[:, 1] + 1e-9).all()


def test_below_0_is_reported_and_not_certified() -> None:
    found = {seed: classifier_js(*gaussians(seed, 100, 2, 0.0)) for seed in range(10)}
    seed = min(found, key=lambda seed: found[seed].value_nats)
    assert found[seed].value_nats < 0
    certificate = classifier_certificate(*gaussians(seed, 100, 2, 0.0))
    assert certificate.value_nats == 0
    assert certificate.standard_error_nats == pytest.approx(2 / np.log(2) * found[seed].standard_error_nats)


def test_equal_sides_come_near_the_ceilings() -> None:
    x = gaussians(3, 600, 8, 0)[0]
    js, certificate, nwj = (bound(x, x) for bound in BOUNDS)
    assert js.ceiling_nats == pytest.approx(np.log(2) - np.log1p(1 / 300))
    assert 0.6 < js.value_nats < js.ceiling_nats
    assert 2.5 < certificate.value_nats < certificate.ceiling_nats < np.inf
    assert nwj.ceiling_nats == pytest.approx(4 - np.exp(-3))
    assert 3 < nwj.value_nats < nwj.ceiling_nats


def test_equal_bits_are_certified_to_the_full() -> None:
    x = np.random.default_rng(4).integers(0, 2, (600, 1)).astype(np.float64)
    for bound in (classifier_certificate, classifier_nwj):  # where joint/product takes two values, Xi loses nothing
        found = bound(x, x)
        assert found.value_nats == pytest.approx(np.log(2), abs=3 * found.standard_error_nats)


@given(st.integers(0, 10**6), st.integers(32, 120), st.integers(1, 4), st.floats(-1, 1))
@settings(max_examples=15)
def test_nothing_is_above_its_ceiling(seed: int, n: int, dimension: int, rho: float) -> None:
    x, y = gaussians(seed, n, dimension, rho)
    for bound in BOUNDS:
        found = bound(x, y, groups=np.arange(n) // 3, seed=seed)
        assert np.isfinite(found).all()
        assert found.value_nats <= found.ceiling_nats


def test_monotone_maps_and_sides_count_for_little() -> None:
    x, y = gaussians(5, 1000, 2, 0.8)
    found = classifier_js(x, y)
    assert classifier_js(1e30 * x, np.exp(y) - 7).value_nats == pytest.approx(found.value_nats, abs=0.01)
    assert classifier_js(y, x).value_nats == pytest.approx(found.value_nats, abs=2 * found.standard_error_nats)


@pytest.mark.parametrize("bound", BOUNDS)
def test_a_seed_gives_a_number(bound: object) -> None:
    assert callable(bound)
    x, y = gaussians(6, 300, 2, 0.7)
    state = np.random.get_state()[1].copy()  # type: ignore[index]  # noqa: NPY002
    assert bound(x, y, seed=3) == bound(x, y, seed=3)
    assert bound(x, y, seed=3) != bound(x, y, seed=4)
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # type: ignore[index]  # noqa: NPY002


def test_what_rows_of_a_group_share_is_no_dependence() -> None:
    rng = np.random.default_rng(7)
    groups = np.repeat(np.arange(40), 15)
    x, y = (rng.normal(size=(40, 2))[groups] + 0.1 * rng.normal(size=(600, 2)) for _ in range(2))
    alone, found = classifier_js(x, y), classifier_js(x, y, groups=np.array([f"sample {g}" for g in groups]))
    assert alone.value_nats > 3 * alone.standard_error_nats
    assert found.value_nats < 3 * found.standard_error_nats + 1e-9
    assert found.standard_error_nats > 0


@given(st.lists(st.integers(1, 6), min_size=2, max_size=12), st.integers(0, 99))
def test_partners_are_of_other_groups(sizes: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(3 * np.arange(len(sizes)), sizes))
    partners = classifier._partners(labels, rng)
    assert partners.shape == (len(labels), classifier.N_PARTNERS)
    assert (labels[partners] != labels[:, None]).all()


def test_every_row_of_another_group_is_drawn_alike() -> None:
    labels = np.array([4, 0, 4, 2, 2, 2])
    rng = np.random.default_rng(8)
    drawn = np.concatenate([classifier._partners(labels, rng)[0] for _ in range(3000)])
    counts = np.bincount(drawn, minlength=6)
    assert counts[[0, 2]].sum() == 0
    np.testing.assert_allclose(counts[[1, 3, 4, 5]], 3000, atol=4 * np.sqrt(3000))


def test_features_hold_the_log_density_ratio_of_gaussians() -> None:
    rng = np.random.default_rng(9)
    u, v = rng.normal(size=(2, 40, 3))
    features = pair_features(u, v)
    assert features.shape == (40, 24)
    rho = np.array([0.3, 0.6, 0.9])
    ratio = ((rho * u * v - rho**2 * (u**2 + v**2) / 2) / (1 - rho**2)).sum(axis=1)
    weights, *_ = np.linalg.lstsq(features, ratio)
    np.testing.assert_allclose(features @ weights, ratio, atol=1e-10)


@pytest.mark.parametrize("bound", BOUNDS)
def test_samples_that_are_none(bound: object) -> None:
    assert callable(bound)
    x = gaussians(10, 40, 2, 0)[0]
    with pytest.raises(ValueError, match="there are 31 rows; give at least 32"):
        bound(x[:31], x[:31])
    with pytest.raises(ValueError, match="40 of 40 rows of `y` hold NaN or infinity"):
        bound(x, np.full_like(x, np.nan))
    with pytest.raises(ValueError, match="`groups` holds 1 groups; two halves need at least 4"):
        bound(x, x, groups=np.zeros(40))


def test_scikit_learn_waits_until_it_is_needed() -> None:
    assert importlib.util.find_spec("sklearn")
    code = "import sys, lorascope.analyze.information.classifier; print('sklearn' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
