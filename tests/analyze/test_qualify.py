from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from lorascope.analyze import miub
from lorascope.analyze.qualify import QUALIFIERS, position_profile, qualify
from lorascope.stores import StoreError, open_run

from .conftest import Small, divergence, softmax


def test_miub_and_components_follow_from_the_definition(small: Small) -> None:
    result = qualify(small.run)
    js = small.js()
    by_sample = small.by_sample(js)
    n = len(by_sample)
    np.testing.assert_allclose(result["js_component"], by_sample.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(result["js_component_se"], by_sample.std(axis=0, ddof=1) / n**0.5, rtol=1e-5)
    np.testing.assert_allclose(result["share"], by_sample.mean(axis=0) / by_sample.mean(axis=0).sum(), rtol=1e-5)
    np.testing.assert_allclose(result["js_token"], js.sum(axis=1), rtol=1e-5)
    assert float(result["miub"]) == pytest.approx(by_sample.sum(axis=1).mean(), rel=1e-5)
    assert float(result["miub"]) == float(miub(small.run)["miub"])
    assert result["used"].all()


def test_qualifiers_follow_from_their_definitions(small: Small) -> None:
    result = qualify(small.run)
    for index, path in enumerate(small.run.component_paths):
        base, delta = small.base[path], small.delta[path]
        p = softmax(base)
        width = np.exp(-(p * np.log(p)).sum(axis=1))
        ratio = np.linalg.norm(delta, axis=1) / np.linalg.norm(base, axis=1)
        order = np.random.default_rng(delta.shape[1]).permutation(delta.shape[1])
        permuted = small.by_sample(divergence(base, delta[:, order]))
        assert float(result["effective_width"][index]) == pytest.approx(np.median(width), rel=1e-5)
        assert float(result["delta_ratio"][index]) == pytest.approx(np.median(ratio), rel=1e-5)
        assert float(result["js_permuted"][index]) == pytest.approx(permuted.mean(), rel=1e-5)
    assert result["d_out"].values.tolist() == [24, 40, 16] * 2


def test_a_run_without_states_is_reduced_over_measured_tokens(make_small: Callable[..., Small]) -> None:
    run = make_small(states="none", js_share=0.4).run
    result = qualify(run)
    js = run.js().values
    starts, stops = run.samples["token_start"].values, run.samples["token_stop"].values
    measured = [np.isfinite(js[a:b, 0]).any() for a, b in zip(starts, stops, strict=True)]
    expected = [np.nanmean(js[a:b].astype(float), axis=0).sum() for a, b in zip(starts, stops, strict=True) if b > a]
    assert result["used"].values.tolist() == measured
    np.testing.assert_allclose(result["miub_sample"], expected, rtol=1e-6)
    assert float(result["miub"]) == pytest.approx(np.mean(expected))
    assert result.attrs["n_tokens"] == int(np.isfinite(js[:, 0]).sum())
    assert not set(QUALIFIERS) & set(result.data_vars)


def test_samples_of_which_nothing_was_measured_are_left_out(make_small: Callable[..., Small]) -> None:
    run = make_small(states="none", js_share=0.15).run
    result = qualify(run)
    assert 0 < int(result["used"].sum()) < run.samples.sizes["sample"]
    assert result.attrs["n_samples"] == int(result["used"].sum())
    assert np.isfinite(float(result["miub"]))


def test_a_run_with_neither_states_nor_js_is_refused(make_small: Callable[..., Small]) -> None:
    with pytest.raises(StoreError, match="holds no states, and js of no token"):
        qualify(make_small(states="none", js_share=0.0).run)


def test_incomplete_samples_are_left_out(unfinished: Path) -> None:
    run = open_run(unfinished)
    result = qualify(run)
    assert result["used"].values.tolist() == [True, False, False, False, True]
    assert np.isfinite(result["js_component"]).all()
    assert np.isnan(result["js_token"].values[1024:2048]).all()
    assert np.isfinite(result["effective_width"]).all()


def test_nothing_committed_is_refused(nothing_committed: Path) -> None:
    with pytest.raises(StoreError, match="no sample .* is wholly committed"):
        qualify(open_run(nothing_committed))


def test_zero_adapter_has_no_shares(make_small: Callable[..., Small]) -> None:
    result = qualify(make_small(zero=True).run)
    assert float(result["miub"]) == 0
    assert np.isnan(result["share"]).all()


def test_one_sample_has_no_error(make_small: Callable[..., Small]) -> None:
    result = qualify(make_small(n_samples=1).run)
    assert np.isnan(result["js_component_se"]).all()


def test_several_adapters_need_a_name(make_small: Callable[..., Small]) -> None:
    run = make_small(adapters=("a", "b")).run
    with pytest.raises(StoreError, match=r"`adapter` is None; this run holds \['a', 'b'\]"):
        qualify(run)
    assert float(qualify(run, adapter="a")["miub"]) != float(qualify(run, adapter="b")["miub"])


def test_position_profile_is_numpys_quantiles() -> None:
    values = xr.DataArray([1.0, 2.0, np.nan, 4.0, 10.0], dims="token", attrs={"units": "nat"})
    found = position_profile(values, np.array([5, 3, 3, 5, 5]))
    assert found["position"].values.tolist() == [3, 5]
    assert found["n"].values.tolist() == [1, 3]
    assert found.attrs == {"units": "nat"}
    np.testing.assert_allclose(found["quantiles"].sel(position=5), np.quantile([1, 4, 10], found["quantile"]))
    np.testing.assert_allclose(found["quantiles"].sel(position=3), 2)


def test_position_profile_of_nothing_is_empty() -> None:
    found: Any = position_profile(xr.DataArray([np.nan], dims="token"), np.array([0]))
    assert found["quantiles"].shape == (5, 0)
