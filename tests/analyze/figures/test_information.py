import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import xarray as xr

from lorascope.analyze import measure_information
from lorascope.analyze.figures import estimates_figure
from lorascope.analyze.figures.captions import run_name
from lorascope.analyze.figures.theme import BLACK

from ..conftest import Small
from .conftest import points_of, title_of

NAMES = ["gaussian", "ksg1"]


@pytest.fixture(scope="module")
def result(small: Small) -> xr.Dataset:
    """Six components, of each an estimate with an interval and one without."""
    information = measure_information(small.run, estimator=NAMES, n_axes=2, n_shuffles=0)
    ones = np.ones((6, 2))
    return information.assign(
        value=(information["value"].dims, ones * [1.0, 2.0]),
        low=(information["value"].dims, ones * [0.5, np.nan]),
        high=(information["value"].dims, ones * [1.75, np.nan]),
        verdict=(information["value"].dims, np.array([["ok", "saturated"]] * 6, object)),
        js=("component", np.arange(1, 7) / 4),
    )


def changed(result: xr.Dataset, name: str, component: int, value: Any) -> xr.Dataset:
    """A copy with another value of the first estimator, or of the component."""
    information = result.copy(deep=True)
    information[name].values[(component, 0) if information[name].ndim == 2 else component] = value
    return information


def test_points_have_bars_and_say_what_they_are(result: xr.Dataset) -> None:
    figure = estimates_figure(result)
    first, _ = points_of(figure)
    np.testing.assert_array_equal(first.error_y.array, 0.75)
    np.testing.assert_array_equal(first.error_y.arrayminus, 0.5)
    assert first.text[3] == (
        "<b>model.layers.1.q_proj</b><br>gaussian: 1.00 nat, ok<br>95 %: 0.500 to 1.75 nat<br>JS: 1.00 nat"
    )
    assert f"{run_name(result.attrs)}. 6 components, " in title_of(figure)
    assert "not shown" not in title_of(figure)
    assert "Hollow: saturated or undersampled." in title_of(figure)
    assert "Hollow" not in title_of(estimates_figure(result.isel(estimator=[0])))


def test_names_are_escaped(result: xr.Dataset) -> None:
    names = np.array(["<b>", *result["component"].values[1:]], object)
    odd = result.assign_coords(component=names, estimator=["<i>", "ksg1"])
    first, _ = points_of(estimates_figure(odd))
    assert first.text[0].startswith("<b>&lt;b&gt;</b><br>&lt;i&gt;: ")
    assert first.legendgroup == "&lt;i&gt;"


def test_an_infinite_value_is_a_triangle_at_the_edge(result: xr.Dataset) -> None:
    figure = estimates_figure(changed(result, "value", 0, np.inf))
    first, _ = points_of(figure)
    assert list(first.marker.symbol) == ["triangle-up", *["circle"] * 5]
    assert first.y[0] == pytest.approx(figure.layout.yaxis.range[1])
    assert "Triangles: infinite." in title_of(figure)
    assert "gaussian: ∞ nat" in first.text[0]


@pytest.mark.parametrize(("name", "value"), [("value", np.nan), ("note", "`base` is constant")])
def test_components_without_a_value_are_counted(result: xr.Dataset, name: str, value: Any) -> None:
    fewer = changed(result, name, 0, value)
    both = estimates_figure(fewer)
    assert [len(trace.x) for trace in points_of(both)] == [5, 5 if name == "note" else 6]
    assert f"{'2 values' if name == 'note' else '1 value'} not known, not shown." in title_of(both)


def test_delta_alone_and_bits(result: xr.Dataset) -> None:
    figure = estimates_figure(result.assign(js_delta_alone=result["js"] * 2).assign_attrs(against="delta"))
    assert points_of(figure)[0].text[0].endswith("JS: 0.500 nat")
    assert figure.layout.yaxis.title.text == "MI of base and delta (nat)"
    bits = result.assign({key: result[key] / math.log(2) for key in ("value", "low", "high")}).assign_attrs(units="bit")
    for of_bits, of_nats in zip(*(points_of(estimates_figure(each)) for each in (bits, result)), strict=True):
        np.testing.assert_allclose(of_bits.y, of_nats.y)
        assert of_bits.text == of_nats.text


def test_estimates_go_by_layer(result: xr.Dataset) -> None:
    values = result["value"].copy(data=np.arange(12.0).reshape(6, 2) * [[1], [1], [1], [1], [1], [9]])
    figure = estimates_figure(result.assign(value=values))
    line = figure.data[0]
    np.testing.assert_allclose(line.x, [-0.15, 0.85])
    np.testing.assert_array_equal(line.y, [2, 8])  # medians of 0, 2, 4 and of 6, 8, 90
    first, second = points_of(figure)
    assert (set(first.marker.symbol), set(second.marker.symbol)) == ({"circle"}, {"square-open"})
    assert [trace.name for trace in figure.data if trace.name] == NAMES
    np.testing.assert_allclose(first.x, [-0.15] * 3 + [0.85] * 3)
    np.testing.assert_array_equal(first.y, [0, 2, 4, 6, 8, 90])
    assert "Lines: medians of layers." in title_of(figure)
    assert list(figure.layout.xaxis.range) == [-0.5, 1.5]
    single = estimates_figure(result.isel(component=[1]))
    assert list(single.layout.xaxis.range) == [-0.5, 0.5]


def test_the_panel_stands_in_the_middle_in_front(result: xr.Dataset) -> None:
    far = result.assign_coords(estimator=["panel", "ksg1"], layer=result["layer"] * 9)
    behind, front = points_of(estimates_figure(far))
    np.testing.assert_allclose(front.x, far["layer"])
    np.testing.assert_array_equal(front.y, 1)
    assert front.marker.color == BLACK.color
    assert np.abs(behind.x - far["layer"].values).max() <= 0.3


def test_components_outside_of_layers(make_small: Callable[..., Small]) -> None:
    information = measure_information(make_small(outside=True).run, estimator="gaussian", n_axes=2, n_shuffles=0)
    assert "1 component outside of the layers not shown." in title_of(estimates_figure(information))
    with pytest.raises(ValueError, match="none of the result's components lies in a layer"):
        estimates_figure(information.isel(component=[-1]))


def test_other_results_are_refused(result: xr.Dataset) -> None:
    with pytest.raises(ValueError, match=r"`result` has dimensions \[\]; give a result of `measure_information`"):
        estimates_figure(result[["js"]])
