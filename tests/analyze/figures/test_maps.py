from collections.abc import Callable

import numpy as np
import pytest
import xarray as xr

from lorascope.analyze.figures.maps import component_map, js_map
from lorascope.analyze.groups import group_by
from lorascope.analyze.miub import miub
from lorascope.analyze.qualify import qualify

from ..conftest import Small
from .test_plots import values_of


@pytest.fixture(scope="module")
def result(small: Small) -> xr.Dataset:
    return miub(small.run)


def test_js_map_takes_results_as_they_are(small: Small, result: xr.Dataset) -> None:
    maps = [js_map(found) for found in (qualify(small.run), result, group_by(result, ["layer", "kind"]))]
    for figure in maps[1:]:
        assert list(figure.data[0].x) == list(maps[0].data[0].x)
        assert list(figure.data[0].y) == list(maps[0].data[0].y)
        np.testing.assert_allclose(np.asarray(figure.data[0].z), np.asarray(maps[0].data[0].z), rtol=1e-6)
    texts = [figure.data[0].text[2][1] for figure in maps]
    assert texts[0].startswith(texts[1])  # but for what else qualifies it
    assert texts[2].startswith("<b>down_proj, layer 1</b><br>mean JS (nat): ")
    assert texts[2].split("<br>")[1:] == texts[1].split("<br>")[1:]


def test_js_map_says_what_it_rests_on(small: Small, result: xr.Dataset) -> None:
    for found in (result, group_by(result, ["kind", "layer"])):
        title = js_map(found).layout.title.text.replace("\u00a0", " ").replace("<br>", " ")
        assert title.startswith("mean JS (nat) ")
        assert "run.zarr (default). Mean over samples; n = 12 samples. Tokens: mean." in title
    assert js_map(qualify(small.run)).layout.title.text == "mean JS (nat)"
    assert js_map(miub(small.run, unit="bit")).layout.title.text.startswith("mean JS (bit)<br>")


def test_js_map_leaves_gaps_where_no_component_is(make_small: Callable[..., Small]) -> None:
    outside = miub(make_small(outside=True).run)
    for found in (outside, group_by(outside, ["layer", "kind"])):
        heat = js_map(found).data[0]
        assert list(heat.x) == ["0", "1", "outside"]
        assert list(heat.y) == ["q_proj", "up_proj", "down_proj", "lm_head"]
        np.testing.assert_array_equal(np.isfinite(np.asarray(heat.z)).sum(axis=1), [2, 2, 2, 1])
    assert js_map(found).data[0].text[3][2].startswith("<b>lm_head, outside</b>")


def test_js_map_of_zeros_is_pale_and_of_nan_keeps_its_labels(result: xr.Dataset) -> None:
    zero, missing = (js_map(result.assign(js_sample=result["js_sample"] * factor)) for factor in (0.0, np.nan))
    assert (zero.data[0].zmin, zero.data[0].zmax) == (0, 1)
    assert not np.asarray(zero.data[0].z).any()
    assert list(missing.layout.xaxis.categoryarray) == ["0", "1"]
    assert list(missing.layout.yaxis.categoryarray) == ["q_proj", "up_proj", "down_proj"]
    assert missing.layout.yaxis.range == (2.5, -0.5)
    assert "6\u00a0not finite" in missing.layout.title.text


def test_js_map_counts_grey_components(result: xr.Dataset) -> None:
    factors = np.array([0, np.nan, 1, 1, np.inf, 0])
    with np.errstate(invalid="ignore"):
        title = js_map(result.assign(js_sample=result["js_sample"] * factors)).layout.title.text
    assert "Grey components: 2\u00a0not finite and 2\u00a0exactly 0." in title.replace("<br>", " ")


def test_long_kinds_are_cut(result: xr.Dataset) -> None:
    kinds = np.array(["a_kind_whose_name_is_much_too_long", "a_kind_whose_name_is_also_too_long", "o"] * 2, object)
    figure = js_map(result.assign_coords(kind=("component", kinds)))
    assert list(figure.layout.yaxis.ticktext) == ["a_kind_whose…ch_too_long", "a_kind_whose…so_too_long", "o"]
    assert list(figure.layout.yaxis.tickvals) == kinds[:3].tolist()


def test_js_map_refuses_other_groups(result: xr.Dataset) -> None:
    with pytest.raises(ValueError, match=r"`result` goes by \['kind'\]; give what `miub` or `qualify` returns"):
        js_map(group_by(result, ["kind"]))
    with pytest.raises(ValueError, match=r"`result` goes by \[\]; give"):
        js_map(result[["js"]])


def test_map_on_a_linear_scale_with_marks_and_a_note() -> None:
    values = values_of([1, -2, 3, 4], layers=[0, 1, 0, 0], kinds=["fc", "fc", "o", "o"])
    marked = np.array([False, True, False, True])
    figure = component_map(values, label="x < y", limits=(-5, 5), log=False, marked=marked, note="n < 3")
    heat, dots = figure.data
    np.testing.assert_array_equal(np.asarray(heat.z), [[1, -2], [3.5, np.nan]])
    assert (heat.zmin, heat.zmax, heat.colorbar.tickvals) == (-5, 5, None)
    assert sorted(zip(dots.x, dots.y, strict=True)) == [("0", "o"), ("1", "fc")]
    assert figure.layout.title.text.startswith("x &lt; y<br>")
    assert "n &lt; 3" in figure.layout.title.text
    assert figure.layout.height > component_map(values, label="x").layout.height


EXTREMES = {
    "smallest": [5e-324],
    "smallest two": [5e-324, 1e-323],
    "largest": [1e308],
    "largest of all": [1.7976931348623157e308],
    "both": [5e-324, 1e308],
    "both ways": [-1e308, 1e308],
    "mean beyond float64": [1e308, 1.7e308],
    "infinite": [np.inf, 1.0],
    "opposite": [np.inf, -np.inf],
    "zeros": [0.0, 0.0],
}


@pytest.mark.parametrize("name", EXTREMES)
@pytest.mark.parametrize("one_cell", [True, False])
@pytest.mark.parametrize("log", [True, False])
def test_maps_of_extreme_values_are_drawn(name: str, one_cell: bool, log: bool) -> None:
    values = EXTREMES[name]
    layers = [0] * len(values) if one_cell else list(range(len(values)))
    figure = component_map(values_of(values, layers=layers, kinds=["o"] * len(values)), label="x", log=log)
    heat = figure.data[0]
    assert heat.zmin < heat.zmax
    assert all(np.isfinite(heat.colorbar.tickvals or ()))
    figure.to_json()


@pytest.mark.parametrize("limits", [(0, 0), (0, 1), (-1, 1), (2, 1), (1, 1), (1, np.inf), (np.nan, 1)])
def test_limits_that_no_logarithmic_scale_has(limits: tuple[float, float]) -> None:
    values = values_of([1, 2], layers=[0, 1], kinds=["o", "o"])
    words = r"`limits` are \(.*\); on a logarithmic scale the first must be above 0 and below the second: give others"
    with pytest.raises(ValueError, match=words):
        component_map(values, label="x", limits=limits)


def test_labels_and_units_are_plain_text(result: xr.Dataset) -> None:
    two = values_of([1, 2, 3], layers=[0, 0, 1], kinds=["o", "o", "o"])
    figure = component_map(two, label="<b>x</b>")
    assert figure.layout.title.text == "&lt;b&gt;x&lt;/b&gt;"
    assert [text.split("<br>")[1].split(":")[0] for text in figure.data[0].text[0]] == [
        "&lt;b&gt;x&lt;/b&gt;, their mean",
        "&lt;b&gt;x&lt;/b&gt;",
    ]
    figure = js_map(result.assign_attrs(units="<i>nat"))
    assert all("<i>" not in text and text.count("&lt;i&gt;nat") == 2 for text in figure.data[0].text[0])
    assert "<i>" not in figure.layout.title.text
