import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from lorascope.analyze.figures.maps import component_map, js_map, null_map
from lorascope.analyze.figures.plots import position_figure, sample_spread, share_curve
from lorascope.analyze.qualify import qualify

from ..conftest import Small, as_of_old


@pytest.fixture(scope="module")
def qualified(small: Small) -> xr.Dataset:
    return qualify(small.run)


def values_of(values: Any, *, layers: Any, kinds: Any) -> xr.DataArray:
    names = [f"layers.{layer}.{kind}" for layer, kind in zip(layers, kinds, strict=True)]
    coords = {"component": names, "layer": ("component", layers), "kind": ("component", kinds)}
    return xr.DataArray(np.asarray(values, float), dims="component", coords=coords)


def test_js_map_shows_each_component_on_a_log_scale(small: Small, qualified: xr.Dataset) -> None:
    heat = js_map(qualified).data[0]
    means = small.by_sample(small.js()).mean(axis=0)
    assert (list(heat.x), list(heat.y)) == (["0", "1"], ["q_proj", "up_proj", "down_proj"])
    np.testing.assert_allclose(10.0 ** np.asarray(heat.z).T.ravel(), means, rtol=1e-5)
    text = heat.text[2][1]
    assert text.startswith("<b>model.layers.1.down_proj</b><br>mean JS (nat): ")
    for word in ("share of MIUB", "JS of permuted delta", "effective width", "of 16", "|delta| / |base|", "±"):
        assert word in text
    assert "autosize" in js_map(qualified).layout


def test_js_map_of_a_run_without_states(make_small: Callable[..., Small]) -> None:
    text = js_map(qualify(make_small(states="none").run)).data[0].text[0][0]
    assert "share of MIUB" in text
    assert "effective width" in text
    assert "permuted" not in text


def test_js_map_of_an_early_run_without_states(make_small: Callable[..., Small], tmp_path: Path) -> None:
    run = as_of_old(make_small(states="none").run, tmp_path / "old.zarr", js_share=0.5)
    assert "effective width" not in js_map(qualify(run)).data[0].text[0][0]


def test_js_map_says_which_deltas_are_differences(make_small: Callable[..., Small]) -> None:
    texts = {
        source: js_map(qualify(make_small(factored=False, delta_source=source).run)).data[0].text[0][0]
        for source in ("branch", "difference")
    }
    assert "delta is a difference of outputs" in texts["difference"]
    assert "difference" not in texts["branch"]


def test_null_map_is_centred_on_one(qualified: xr.Dataset) -> None:
    heat = null_map(qualified).data[0]
    ratio = qualified["js_component"].values / qualified["js_permuted"].values
    np.testing.assert_allclose(10.0 ** np.asarray(heat.z).T.ravel(), ratio, rtol=1e-6)
    assert heat.zmin == -heat.zmax
    assert heat.zmax >= np.log10(2)


def test_null_map_leaves_out_what_is_not_finite(qualified: xr.Dataset) -> None:
    js = np.array([np.inf, np.nan, 1.0, 1e308, 5e-324, 2.0])
    permuted = np.array([np.inf, 1.0, np.inf, 5e-324, 1.0, 1.0])
    found = qualified.assign(js_component=("component", js), js_permuted=("component", permuted)).assign_coords(
        kind=qualified["kind"], layer=qualified["layer"]
    )
    heat = null_map(found).data[0]
    shown = np.asarray(heat.z).T.ravel()
    np.testing.assert_allclose(shown, [np.nan, np.nan, np.nan, np.nan, np.log10(5e-324), np.log10(2)])
    assert -heat.zmin == heat.zmax == 300


def test_null_map_of_a_zero_adapter_is_empty(make_small: Callable[..., Small]) -> None:
    heat = null_map(qualify(make_small(zero=True).run)).data[0]
    assert np.isnan(np.asarray(heat.z)).all()


def test_map_puts_outside_components_last_and_leaves_gaps() -> None:
    values = values_of([1, 10, 100], layers=[-1, 0, 2], kinds=["lm_head", "fc", "fc"])
    heat = component_map(values, label="x").data[0]
    assert list(heat.x) == ["0", "2", "outside"]
    assert list(heat.y) == ["lm_head", "fc"]
    np.testing.assert_array_equal(np.asarray(heat.z), [[np.nan, np.nan, 0], [1, 2, np.nan]])


def test_map_averages_components_of_one_cell() -> None:
    heat = component_map(values_of([1, 3], layers=[0, 0], kinds=["fc", "fc"]), label="x").data[0]
    assert 10 ** heat.z[0][0] == pytest.approx(2)
    assert heat.text[0][0] == "<b>layers.0.fc</b> and 1 more<br>x, their mean: 2.00"


@pytest.mark.parametrize("values", [[0.0, 0.0], [np.nan, np.nan]])
def test_map_without_positive_values_is_linear(values: list[float]) -> None:
    heat = component_map(values_of(values, layers=[0, 1], kinds=["fc", "fc"]), label="x").data[0]
    np.testing.assert_array_equal(np.asarray(heat.z), [values])
    assert heat.zmin < heat.zmax
    assert heat.colorbar.tickvals is None


def test_map_leaves_zero_nan_and_infinity_out_of_a_log_scale() -> None:
    heat = component_map(values_of([0, np.nan, np.inf, 5], layers=range(4), kinds=["fc"] * 4), label="x").data[0]
    np.testing.assert_array_equal(np.isfinite(np.asarray(heat.z)), [[False, False, False, True]])
    assert (heat.zmin, heat.zmax) == pytest.approx((np.log10(5) - 0.5, np.log10(5) + 0.5))


def test_a_few_outliers_dont_stretch_the_scale() -> None:
    values = [1e-18, *np.linspace(1, 9, 199)]
    heat = component_map(values_of(values, layers=range(200), kinds=["fc"] * 200), label="x").data[0]
    assert heat.zmin > -1
    few = component_map(values_of([1e-18, 1], layers=range(2), kinds=["fc"] * 2), label="x").data[0]
    assert few.zmax - few.zmin == pytest.approx(6)


@pytest.mark.parametrize(
    ("high", "ticks"),
    [
        (1.2, ["1.00", "1.20"]),
        (9, ["1", "2", "5"]),
        (99, ["1", "3", "10", "30"]),
        (2e4, ["1", "10", "100", "1000", "10000"]),
    ],
)
def test_ticks_are_round(high: float, ticks: list[str]) -> None:
    heat = component_map(values_of([1, high], layers=[0, 1], kinds=["fc"] * 2), label="x", limits=(1, high)).data[0]
    assert (heat.zmin, heat.zmax) == pytest.approx((0, np.log10(high)))
    assert list(heat.colorbar.ticktext) == ticks


def test_sample_spread_has_every_sample(small: Small, qualified: xr.Dataset) -> None:
    box, bars = sample_spread(qualified).data
    expected = small.by_sample(small.js()).sum(axis=1)
    np.testing.assert_allclose(box.x, expected, rtol=1e-5)
    np.testing.assert_allclose(bars.x, expected, rtol=1e-5)
    assert list(box.text) == [f"item-{i}" for i in range(12)]


def test_sample_spread_leaves_unused_and_not_finite_samples_out(qualified: xr.Dataset) -> None:
    used = np.arange(12) != 3
    changed = qualified.assign_coords(used=("sample", used))
    changed["miub_sample"] = qualified["miub_sample"].where(np.arange(12) != 5)
    assert len(sample_spread(changed).data[0].x) == 10
    assert len(sample_spread(qualified.assign_coords(used=("sample", np.zeros(12, bool)))).data[0].x) == 0


def test_share_curve_ends_at_one(qualified: xr.Dataset) -> None:
    even, line, mark = share_curve(qualified).data
    shares = np.sort(qualified["share"].values)[::-1]
    np.testing.assert_allclose(line.y, np.cumsum(shares))
    assert (mark.x[0], mark.y[0]) == (5, pytest.approx(shares[:5].sum()))
    assert even.y[-1] == 1


def test_share_curve_of_a_zero_adapter_is_flat(make_small: Callable[..., Small]) -> None:
    assert not np.any(share_curve(qualify(make_small(zero=True).run)).data[1].y)


def test_label_of_positions_is_plain_text(small: Small, qualified: xr.Dataset) -> None:
    n = qualified.sizes["token"]
    figure = position_figure(qualified["js_token"], np.zeros(n, int), weights=np.ones(n), label="<b>place")
    assert figure.layout.xaxis2.title.text == "&lt;b&gt;place"


def test_position_figure_shows_quantiles_and_counts(small: Small, qualified: xr.Dataset) -> None:
    position = qualified["position"].values
    weights = qualified["weight"].values
    traces = position_figure(qualified["js_token"], position, weights=weights, label="position").data
    median = next(trace for trace in traces if trace.name == "median")
    counts = traces[-1]
    total = small.js().sum(axis=1)
    for x, y, n in zip(median.x, median.y, counts.y, strict=True):
        assert y == pytest.approx(np.median(total[position == x]), rel=1e-5)
        assert n == (position == x).sum()


def test_names_are_escaped_in_figures(make_small: Callable[..., Small]) -> None:
    qualified = qualify(make_small(sample_id="<a href='https://x.test'>").run)
    assert "<a" not in json.dumps(list(sample_spread(qualified).data[0].text))
    hostile = values_of([1], layers=[0], kinds=["<b>"])
    heat = component_map(hostile.assign_coords(component=["<script>"]), label="x").data[0]
    assert (heat.y[0], "<script>" in heat.text[0][0]) == ("&lt;b&gt;", False)
