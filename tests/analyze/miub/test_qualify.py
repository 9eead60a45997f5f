from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from lorascope.analyze import miub
from lorascope.analyze.measuring.measures import norm_ratio
from lorascope.analyze.measuring.run import measure_run
from lorascope.analyze.miub.qualify import qualify
from lorascope.analyze.results.weights import weighted_quantiles
from lorascope.stores import StoreError

from ..conftest import Small, divergence, width, without_newer


def test_miub_and_components_follow_from_the_definition(small: Small) -> None:
    result = qualify(small.run)
    js = small.js()
    by_sample = small.by_sample(js)
    n = len(by_sample)
    np.testing.assert_allclose(result["js"], by_sample.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(result["js_se"], by_sample.std(axis=0, ddof=1) / n**0.5, rtol=1e-5)
    np.testing.assert_allclose(result["share"], by_sample.mean(axis=0) / by_sample.mean(axis=0).sum(), rtol=1e-5)
    np.testing.assert_allclose(result["tokens/miub"], js.sum(axis=1), rtol=1e-5)
    assert float(result["miub"]) == pytest.approx(by_sample.sum(axis=1).mean(), rel=1e-5)
    assert float(result["miub"]) == float(miub(small.run)["miub"])
    assert result["samples/used"].all()


@pytest.mark.parametrize("is_weighted", [False, True])
def test_qualifiers_follow_from_their_definitions(make_small: Callable[..., Small], is_weighted: bool) -> None:
    small = make_small(is_weighted=is_weighted)
    result = qualify(small.run)
    np.testing.assert_allclose(result["js"], small.by_sample(small.js()).mean(axis=0), rtol=1e-5)
    np.testing.assert_array_equal(result["tokens/weight"], small.weight)
    assert (len(set(small.weight)) > 3) == is_weighted
    for index, path in enumerate(small.run.component_paths):
        base, delta = small.base[path], small.delta[path]
        ratio = np.linalg.norm(delta, axis=1) / np.linalg.norm(base, axis=1)
        order = np.random.default_rng(delta.shape[1]).permutation(delta.shape[1])
        permuted = small.by_sample(divergence(base, delta[:, order]))
        for name, values in (("effective_width", width(base)), ("delta_ratio", ratio)):
            median = weighted_quantiles(values, small.weight, [0.5])[0]
            assert float(result[name][index]) == pytest.approx(median, rel=1e-5)
        assert float(result["js_permuted"][index]) == pytest.approx(permuted.mean(), rel=1e-5)
    assert result["d_out"].values.tolist() == [24, 40, 16] * 2
    weighted = "weighted " if is_weighted else ""
    assert result.attrs["reduction"] == f"tokens: {weighted}mean; components: sum; samples: mean"
    assert miub(small.run, reduction="last").attrs["reduction"] == "tokens: last; components: sum; samples: mean"
    zero = qualify(make_small(zero=True, is_weighted=is_weighted).run)
    assert float(zero["miub"]) == 0
    assert np.isnan(zero["share"]).all()


@pytest.mark.parametrize("is_weighted", [False, True])
def test_a_run_without_states_has_what_capture_measured(make_small: Callable[..., Small], is_weighted: bool) -> None:
    whole = make_small(is_weighted=is_weighted, js_share=1.0)
    small = make_small(states="none", is_weighted=is_weighted)
    result = qualify(small.run)
    check_captured(result, small)
    assert result.attrs["js_source"] == "capture"
    assert qualify(whole.run).attrs["js_source"] == "states"


def check_captured(result: xr.DataTree, small: Small) -> None:
    js, weights = small.js(), np.repeat(small.weight[:, None], 6, axis=1)
    by_sample = small.by_sample(js)
    np.testing.assert_allclose(result["samples/js"], by_sample, rtol=1e-5)
    np.testing.assert_allclose(result["js"], by_sample.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(result["tokens/miub"], js.sum(axis=1), rtol=1e-5)
    for index, path in enumerate(small.run.component_paths):
        base, delta = small.base[path], small.delta[path]
        ratio = np.linalg.norm(delta, axis=1) / np.linalg.norm(base, axis=1)
        for name, values in (("effective_width", width(base)), ("delta_ratio", ratio)):
            expected = weighted_quantiles(values, weights[:, index], [0.5])[0]
            assert float(result[name][index]) == pytest.approx(expected, rel=1e-5)
    assert "js_permuted" not in result
    assert result["samples/used"].all()
    assert (result.attrs["n_tokens"], result.attrs["n_not_finite"]) == (small.run.n_tokens, 0)
    assert result.attrs["fidelity_n"] == 0


def test_a_run_with_some_states_has_js_of_all_tokens(make_small: Callable[..., Small]) -> None:
    small = make_small(states="sample", state_rows=(False, True), n_tokens=120, is_weighted=True)
    assert small.run.n_rows == 2
    assert np.isnan(small.run.base(small.run.component_paths[0]).values[:1024]).all()
    check_captured(qualify(small.run), small)
    result = miub(small.run)
    assert float(result["miub"]) == pytest.approx(small.by_sample(small.js()).sum(axis=1).mean(), rel=1e-5)
    assert result.attrs["n_not_finite"] == 0


def test_a_measure_that_capture_didnt_take_is_refused(make_small: Callable[..., Small]) -> None:
    run = make_small(states="none").run
    with pytest.raises(StoreError, match=r"\(states 'none'\) has no 'js_permuted', which needs all states"):
        measure_run(run, ("js", "js_permuted"))


def test_norms_that_are_zero_or_not_finite_are_as_the_kernels() -> None:
    base = np.float32([0, 0, 2, np.inf, np.nan, 1])
    delta = np.float32([0, 1, 1, 1, 1, np.inf])
    np.testing.assert_array_equal(norm_ratio(delta, base), np.float32([np.nan, np.inf, 0.5, np.nan, np.nan, np.nan]))


@pytest.mark.parametrize("states", ["all", "none"])
def test_a_pairs_delta_is_the_difference_of_its_runs(make_small: Callable[..., Small], states: str) -> None:
    small = make_small(stream="pair", states=states, js_share=1.0)
    result = qualify(small.run)
    by_sample = small.by_sample(small.js())
    np.testing.assert_allclose(result["js"], by_sample.mean(axis=0), rtol=1e-5)
    path = small.run.component_paths[0]
    ratio = np.linalg.norm(small.delta[path], axis=1) / np.linalg.norm(small.base[path], axis=1)
    assert float(result["delta_ratio"][0]) == pytest.approx(np.median(ratio), rel=1e-5)
    assert "delta_source" not in result.coords
    if states == "all":
        assert result.attrs["fidelity_max"] < 1e-4
        adapted = small.run.adapted(path).values
        np.testing.assert_allclose(adapted - small.run.base(path).values, small.delta[path], atol=1e-6)


def test_sources_of_delta_are_told(make_small: Callable[..., Small], tmp_path: Path) -> None:
    run = make_small(factored=False, delta_source="difference").run
    assert qualify(run)["delta_source"].values.tolist() == ["difference"] * 6
    assert qualify(make_small().run)["delta_source"].values.tolist() == ["factor"] * 6
    old = without_newer(make_small().run, tmp_path / "old.zarr")
    assert qualify(old)["delta_source"].values.tolist() == ["factor"] * 6


@pytest.mark.parametrize("states", ["all", "none"])
def test_adapters_beside_each_other_are_told_apart(make_small: Callable[..., Small], states: str) -> None:
    small = make_small(adapters=("a", "b"), states=states)
    found = {name: qualify(small.run, adapter=name) for name in small.run.adapters}
    np.testing.assert_allclose(found["a"]["samples/js"], small.by_sample(small.js()), rtol=1e-5)
    assert float(found["a"]["miub"]) != float(found["b"]["miub"])
    assert [found[name].attrs["adapter"] for name in ("a", "b")] == ["a", "b"]
    with pytest.raises(StoreError, match=r"`adapter` isn't given, .* name one of \['a', 'b'\]"):
        qualify(small.run)
    with pytest.raises(StoreError, match="`adapter` is 'c'"):
        qualify(small.run, adapter="c")
