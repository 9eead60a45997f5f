import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from lorascope.analyze.figures import component_figure, expert_figure, js_figure, null_figure
from lorascope.analyze.figures.captions import run_name
from lorascope.analyze.figures.theme import DIVERGING, MISSING, NEARLY_WHITE
from lorascope.analyze.miub.experts import experts
from lorascope.analyze.miub.miub import miub
from lorascope.analyze.miub.qualify import qualify

from ..conftest import Small
from ..miub.test_experts import N_EXPERTS, UNUSED, write_mixture
from .conftest import title_of


@pytest.fixture(scope="module")
def result(small: Small) -> xr.Dataset:
    return miub(small.run)


@pytest.fixture(scope="module")
def qualified(small: Small) -> xr.Dataset:
    return qualify(small.run)


def values_of(values: Any, *, layers: Any, kinds: Any) -> xr.DataArray:
    names = [f"layers.{layer}.{kind}" for layer, kind in zip(layers, kinds, strict=True)]
    coords = {"component": names, "layer": ("component", layers), "kind": ("component", kinds)}
    return xr.DataArray(np.asarray(values, float), dims="component", coords=coords)


def test_js_figure_shows_each_component_on_a_log_scale(small: Small, qualified: xr.DataTree) -> None:
    heat = js_figure(qualified).data[0]
    means = small.by_sample(small.js()).mean(axis=0)
    assert (list(heat.x), list(heat.y)) == (["0", "1"], ["q_proj", "up_proj", "down_proj"])
    np.testing.assert_allclose(10.0 ** np.asarray(heat.z).T.ravel(), means, rtol=1e-5)
    text = heat.text[2][1]
    assert text.startswith("<b>model.layers.1.down_proj</b><br>mean JS (nat): ")
    for word in ("share of MIUB", "JS of permuted delta", "effective width", "of 16", "|delta| / |base|", "±"):
        assert word in text
    assert text.count("mean JS") == null_figure(qualified).data[0].text[2][1].count("mean JS") == 1
    assert "autosize" in js_figure(qualified).layout


def test_js_figure_says_which_deltas_are_differences(make_small: Callable[..., Small]) -> None:
    texts = {
        source: js_figure(qualify(make_small(factored=False, delta_source=source).run)).data[0].text[0][0]
        for source in ("branch", "difference")
    }
    assert "delta is a difference of outputs" in texts["difference"]
    assert "difference" not in texts["branch"]


def test_null_figure_is_centred_on_one(qualified: xr.DataTree) -> None:
    heat = null_figure(qualified).data[0]
    ratio = qualified["js"].values / qualified["js_permuted"].values
    np.testing.assert_allclose(10.0 ** np.asarray(heat.z).T.ravel(), ratio, rtol=1e-6)
    assert heat.zmin == -heat.zmax
    assert heat.zmax >= np.log10(2)


def test_map_puts_outside_components_last_and_leaves_gaps() -> None:
    values = values_of([1, 10, 100], layers=[-1, 0, 2], kinds=["lm_head", "fc", "fc"])
    heat = component_figure(values, label="x").data[0]
    assert list(heat.x) == ["0", "2", "outside"]
    assert list(heat.y) == ["lm_head", "fc"]
    np.testing.assert_array_equal(np.asarray(heat.z), [[np.nan, np.nan, 0], [1, 2, np.nan]])


def test_zero_not_finite_and_absent_have_three_looks_and_a_legend() -> None:
    values = values_of([1, 0, np.nan], layers=[0, 1, 0], kinds=["o", "o", "q"])
    figure = component_figure(values, label="x", note="n = 3.")
    heat, *others = figure.data
    drawn = [[(y, x) for y in (0, 1) for x in (0, 1) if not np.isnan(trace.z[y][x])] for trace in (heat, *others)]
    assert drawn == [[(0, 0)], [(0, 1)], [(1, 0)], [(1, 1)]]
    looks = [(trace.colorscale[0][1], "".join(np.ravel(trace.text))) for trace in others]
    assert looks == [(NEARLY_WHITE, "0"), (MISSING, "?"), ("rgba(0,0,0,0)", "")]
    assert [trace.hovertext[y][x] for trace, ((y, x),) in zip(others, drawn[1:], strict=True)] == [
        "<b>layers.1.o</b><br>x: 0", "<b>layers.0.q</b><br>x: n/a", "no such component",
    ]  # fmt: skip
    legend = "Marked 0: exactly 0 (1). Marked ?: not finite (1). Empty: no such component (1)."
    assert f"n = 3. {legend}" in title_of(figure)
    assert "Marked" not in title_of(component_figure(values[:1], label="x"))


@pytest.mark.parametrize("n", [1, 9, 10, 11, 30, 32, 80, 126])
@pytest.mark.parametrize("is_outside", [True, False])
@pytest.mark.parametrize("kind", ["q_proj", "a_kind_with_a_long_name"])
def test_few_layers_have_a_tick_and_what_lies_outside_always(n: int, is_outside: bool, kind: str) -> None:
    layers = [*range(n), -1] if is_outside else list(range(n))
    axis = component_figure(values_of(layers, layers=layers, kinds=[kind] * len(layers)), label="x").layout.xaxis
    places = [list(axis.categoryarray).index(tick) for tick in axis.tickvals]
    assert len(places) <= (10 if kind == "q_proj" else 6)
    assert len(set(np.diff(places if not is_outside else places[:-1]))) <= 1
    if is_outside:
        assert axis.tickvals[-1] == "outside"
        assert min(np.diff(places)) >= places[1] - places[0]  # it is wider than a number


def test_js_figure_says_what_it_rests_on(small: Small, result: xr.DataTree, qualified: xr.DataTree) -> None:
    title = js_figure(result).layout.title.text.replace("\u00a0", " ").replace("<br>", " ")
    assert title.startswith("mean JS (nat) ")
    assert f"{run_name(result.attrs)}. Mean over samples; n = 12 samples. Mean over tokens." in title
    assert js_figure(qualified, titled=False).layout.title.text == "mean JS (nat)"
    assert js_figure(miub(small.run, unit="bit")).layout.title.text.startswith("mean JS (bit)<br>")


def test_js_figure_of_zeros_is_pale_and_of_nan_keeps_its_labels(result: xr.DataTree) -> None:
    zero, missing = (js_figure(result.assign(js=result["js"] * factor)) for factor in (0.0, np.nan))
    assert (zero.data[0].zmin, zero.data[0].zmax) == (0, 1)
    assert not np.asarray(zero.data[0].z).any()
    assert list(missing.layout.xaxis.categoryarray) == ["0", "1"]
    assert list(missing.layout.yaxis.categoryarray) == ["q_proj", "up_proj", "down_proj"]
    assert missing.layout.yaxis.range == (2.5, -0.5)
    assert "Marked ?: not finite (6)." in title_of(missing)
    assert "Marked" not in title_of(zero)


def test_a_map_of_differences_is_linear() -> None:
    values = values_of([1, -2, 3, 4], layers=[0, 1, 0, 0], kinds=["fc", "fc", "o", "o"])
    figure = component_figure(values, label="x < y", limits=(-5, 5), note="n < 3. " * 20)
    heat = figure.data[0]
    np.testing.assert_array_equal(np.asarray(heat.z), [[1, -2], [3.5, np.nan]])
    assert (heat.zmin, heat.zmax, heat.colorbar.tickvals) == (-5, 5, None)
    assert figure.layout.title.text.startswith("x &lt; y<br>")
    assert "n &lt; 3" in figure.layout.title.text
    assert figure.layout.height > component_figure(values, label="x").layout.height


def test_differences_are_coloured_about_zero() -> None:
    heat = component_figure(values_of([1, -2], layers=[0, 1], kinds=["o", "o"]), label="x").data[0]
    assert (heat.zmin, heat.zmax) == (-2, 2)
    assert heat.colorscale[len(heat.colorscale) // 2][1] == DIVERGING[2]


@pytest.mark.parametrize("values", [[1.0], [np.inf, 1.0], [0.0, 0.0], [np.nan, np.nan]])
@pytest.mark.parametrize("one_cell", [True, False])
def test_maps_without_a_range_are_drawn(values: list[float], one_cell: bool) -> None:
    layers = [0] * len(values) if one_cell else list(range(len(values)))
    heat = component_figure(values_of(values, layers=layers, kinds=["o"] * len(values)), label="x").data[0]
    assert heat.zmin < heat.zmax
    assert all(np.isfinite(heat.colorbar.tickvals or ()))


@pytest.mark.parametrize("limits", [(2, 1), (1, 1), (1, np.inf)])
def test_limits_that_no_logarithmic_scale_has(limits: tuple[float, float]) -> None:
    values = values_of([1, 2], layers=[0, 1], kinds=["o", "o"])
    words = r"`limits` are \(.*\); on a logarithmic scale the first must be above 0 and below the second: give others"
    with pytest.raises(ValueError, match=words):
        component_figure(values, label="x", limits=limits)


def test_labels_and_units_are_plain_text(result: xr.DataTree) -> None:
    two = values_of([1, 2, 3], layers=[0, 0, 1], kinds=["o", "o", "o"])
    figure = component_figure(two, label="<b>x</b>")
    assert figure.layout.title.text == "&lt;b&gt;x&lt;/b&gt;"
    assert [text.split("<br>")[1].split(":")[0] for text in figure.data[0].text[0]] == [
        "&lt;b&gt;x&lt;/b&gt;, their mean",
        "&lt;b&gt;x&lt;/b&gt;",
    ]
    hostile = result.copy()
    hostile.attrs = {**result.attrs, "units": "<i>nat"}
    figure = js_figure(hostile)
    assert all("<i>" not in text and text.count("&lt;i&gt;nat") == 1 for text in figure.data[0].text[0])
    assert "<i>" not in figure.layout.title.text


def test_names_are_escaped_in_maps() -> None:
    hostile = values_of([1], layers=[0], kinds=["<b>"])
    heat = component_figure(hostile.assign_coords(component=["<script>"]), label="x").data[0]
    assert (heat.y[0], "<script>" in json.dumps(heat.text[0][0])) == ("&lt;b&gt;", False)


@pytest.mark.parametrize("stream", ["adapted", "pair"])
def test_expert_figure_shows_each_expert_and_its_routing(tmp_path: Path, stream: str) -> None:
    run = write_mixture(tmp_path / "run.zarr", stream=stream)
    found = experts(run, miub(run))
    figure = expert_figure(found)
    heat, empty = figure.data
    assert (list(heat.x), list(heat.y)) == (["0", "1"], [*map(str, range(N_EXPERTS))])
    assert [empty.hovertext[UNUSED][layer] for layer in range(2)] == ["no tokens"] * 2
    np.testing.assert_allclose(
        10.0 ** np.asarray(heat.z)[:UNUSED].T.astype(float), found["miub"].values[:, :UNUSED], rtol=1e-6
    )
    text = heat.text[2][1]
    cell = found.sel(layer=1, expert=2)
    for words in ("layer 1, expert 2", "MIUB (nat): ", "|delta| / |base|", f"({int(cell['n_tokens'])})"):
        assert words in text
    assert ("only with the adapter" in text) == (stream == "pair")
    assert figure.layout.yaxis.title.text == "expert"


def test_expert_figure_has_room_for_large_mixtures() -> None:
    shape = (94, 128)
    n_tokens = np.ones(shape, int)
    n_tokens[3, 5] = 0
    names = ("miub", "miub_se", "delta_ratio", "share", "base_share", "gained")
    values = {name: (("layer", "expert"), np.where(n_tokens > 0, 0.5, np.nan)) for name in names}
    coords = {"layer": range(shape[0]), "expert": range(shape[1])}
    table = xr.Dataset({**values, "n_tokens": (("layer", "expert"), n_tokens)}, coords=coords, attrs={"units": "nat"})
    figure = expert_figure(table)
    assert figure.layout.height < 1200
    assert len(figure.data[0].y) == shape[1]
    assert len(figure.layout.yaxis.tickvals) == shape[1] / 2
    assert "Empty: no tokens (1)." in figure.layout.title.text.replace("\u00a0", " ")
    assert figure.data[-1].hovertext[5][3] == "no tokens"
