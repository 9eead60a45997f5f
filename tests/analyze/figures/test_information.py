import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import xarray as xr

from lorascope.analyze import measure_information
from lorascope.analyze.figures import bound_figure, estimates_figure
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


def test_bound_figure_puts_mutual_information_over_js(result: xr.Dataset) -> None:
    figure = bound_figure(result, estimator="gaussian")
    line, points = figure.data[0], points_of(figure)
    assert list(line.x) == list(line.y)
    assert [list(trace.x) for trace in points] == [[0.25, 1.0], [0.5, 1.25], [0.75, 1.5]]  # two layers of each kind
    for trace in points:
        np.testing.assert_array_equal(trace.y, 1)
        np.testing.assert_array_equal(trace.error_y.array, 0.75)
        np.testing.assert_array_equal(trace.error_y.arrayminus, 0.5)
        assert set(trace.marker.symbol) == {"circle"}
        assert line.x[0] < min(trace.x) <= max(trace.x) < line.x[1]
    assert points[0].text[1] == (
        "<b>model.layers.1.q_proj</b><br>gaussian: 1.00 nat, ok<br>95 %: 0.500 to 1.75 nat<br>JS: 1.00 nat"
    )
    in_legend = [trace.name for trace in figure.data if trace.showlegend is not False]
    assert in_legend == ["q_proj", "up_proj", "down_proj"]
    assert [trace.legendgroup for trace in points] == in_legend
    assert len({trace.marker.color for trace in points}) == 3
    assert (figure.layout.xaxis.type, figure.layout.yaxis.type) == (None, None)
    assert figure.layout.xaxis.title.text == "MIUB: JS of base and lora (nat)"
    for words in (
        "MIUB and mutual information by component",
        f"{run_name(result.attrs)}. MI: gaussian; 6 components, ",
        "MIUB is below the interval of MI in 1 of them, within it in 5, above it in 0. Shaded: MIUB above MI",
    ):
        assert words in title_of(figure)
    assert "not shown" not in title_of(figure)
    assert "Hollow" not in title_of(figure)


def test_names_are_escaped(result: xr.Dataset) -> None:
    names = np.array(["<b>", *result["component"].values[1:]], object)
    odd = changed(result.assign_coords(component=names), "kind", 0, "<i>")
    figure = bound_figure(odd, estimator="gaussian")
    (first,) = (trace for trace in points_of(figure) if len(trace.x) == 1 and trace.x[0] == 0.25)
    assert first.text[0].startswith("<b>&lt;b&gt;</b><br>")
    assert first.legendgroup == "&lt;i&gt;"


def test_what_lies_beyond_an_axis_is_a_triangle_at_its_edge(result: xr.Dataset) -> None:
    spread = result.assign(js=result["js"] / 1e6)
    for name, value, symbol, axis, edge in (
        ("js", 0.0, "triangle-left", "x", 0),
        ("value", -0.1, "triangle-down", "y", 0),
        ("value", np.inf, "triangle-up", "y", 1),
    ):
        figure = bound_figure(changed(spread, name, 0, value), estimator="gaussian")
        first = points_of(figure)[0]
        assert list(first.marker.symbol) == [symbol, "circle"]
        assert first[axis][0] == pytest.approx(10 ** figure.layout[f"{axis}axis"].range[edge])
        assert "Triangles: beyond the axis." in title_of(figure)
    assert "gaussian: ∞ nat" in first.text[0]


@pytest.mark.parametrize(("name", "value"), [("value", np.nan), ("note", "`base` is constant")])
def test_components_without_a_value_are_counted(result: xr.Dataset, name: str, value: Any) -> None:
    fewer = changed(result, name, 0, value)
    figure = bound_figure(fewer, estimator="gaussian")
    assert sum(len(trace.x) for trace in points_of(figure)) == 5
    assert "1 value not known, not shown." in title_of(figure)
    both = estimates_figure(fewer)
    assert [len(trace.x) for trace in points_of(both)] == [5, 5 if name == "note" else 6]
    assert f"{'2 values' if name == 'note' else '1 value'} not known, not shown." in title_of(both)


def test_delta_alone_and_bits(result: xr.Dataset) -> None:
    other = result.assign(js_delta_alone=result["js"] * 2).assign_attrs(against="delta")
    figure = bound_figure(other, estimator="gaussian")
    assert list(points_of(figure)[0].x) == [0.5, 2.0]
    assert figure.layout.xaxis.title.text == "MIUB: JS of base and delta alone (nat)"
    assert figure.layout.yaxis.title.text == "MI of base and delta (nat)"
    bits = result.assign({key: result[key] / math.log(2) for key in ("value", "low", "high")}).assign_attrs(units="bit")
    for draw in (lambda information: bound_figure(information, estimator="gaussian"), estimates_figure):
        for of_bits, of_nats in zip(points_of(draw(bits)), points_of(draw(result)), strict=True):
            np.testing.assert_allclose(of_bits.x, of_nats.x)
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
    for draw in (bound_figure, estimates_figure):
        with pytest.raises(ValueError, match=r"`result` has dimensions \[\]; give a result of `measure_information`"):
            draw(result[["js"]])
    with pytest.raises(ValueError, match=r"`estimator` is 'panel'; the result has \['gaussian', 'ksg1'\]"):
        bound_figure(result)
