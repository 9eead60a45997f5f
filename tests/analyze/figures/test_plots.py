from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from lorascope.analyze.figures import depth_figure, position_figure, sample_figure
from lorascope.analyze.figures.captions import run_name
from lorascope.analyze.miub.miub import miub
from lorascope.analyze.miub.qualify import qualify
from lorascope.analyze.results.format import format_power
from lorascope.analyze.results.weights import weighted_quantiles

from ..conftest import Small
from .conftest import title_of


@pytest.fixture(scope="module")
def qualified(small: Small) -> xr.DataTree:
    return qualify(small.run)


def test_position_figure_shows_quantiles_and_counts(small: Small, qualified: xr.DataTree) -> None:
    position, total = qualified["tokens/position"].values, small.js().sum(axis=1)
    figure = position_figure(qualified)
    median = next(trace for trace in figure.data if trace.name == "median")
    assert list(median.x) == sorted(set(position.tolist()))
    for x, y, n in zip(median.x, median.y, figure.data[-1].y, strict=True):
        assert y == pytest.approx(np.median(total[position == x]), rel=1e-5)
        assert n == (position == x).sum()
    counted = f"n = {len(position)} tokens of 12 samples."
    assert f"{run_name(qualified.attrs)}. Median and bands over tokens; {counted}" in title_of(figure)


def test_positions_weigh_their_tokens(make_small: Callable[..., Small]) -> None:
    qualified = qualify(make_small(is_weighted=True).run)
    figure = position_figure(qualified)
    bands = [trace.y for trace in figure.data[:5]]  # low, high, first and third quartile, median
    columns = {"at": qualified["tokens/position"], "js": qualified["tokens/miub"], "w": qualified["tokens/weight"]}
    groups = pd.DataFrame({name: values.values for name, values in columns.items()}).groupby("at")
    levels = [0.1, 0.9, 0.25, 0.75, 0.5]
    expected = [weighted_quantiles(part["js"].to_numpy(), part["w"].to_numpy(), levels) for _, part in groups]
    np.testing.assert_allclose(np.transpose(bands), expected)


@pytest.fixture(scope="module")
def result(small: Small) -> xr.DataTree:
    tree = miub(small.run)
    samples = tree["samples"].to_dataset()
    tree["samples"] = xr.DataTree(samples.assign_coords(dataset=("sample", np.array(["a", "b", "<b>"] * 4, object))))
    return tree


def lines_of(figure: Any) -> list[Any]:
    return [trace for trace in figure.data if trace.hovertemplate]


def test_depth_is_the_sum_of_a_layer_with_its_error(small: Small, result: xr.DataTree) -> None:
    figure = depth_figure(result)
    (line,) = lines_of(figure)
    layers = small.by_sample(small.js()).reshape(12, 2, 3).sum(axis=2)
    mean, error = layers.mean(axis=0), layers.std(axis=0, ddof=1) / np.sqrt(12)
    assert list(line.x) == [0, 1]
    np.testing.assert_allclose(line.y, mean, rtol=1e-5)
    np.testing.assert_allclose(line.error_y.array, error, rtol=1e-5)
    assert line.text[0].startswith("layer 0: ")
    assert line.text[0].endswith("nat, n = 12")
    assert (figure.layout.yaxis.title.text, figure.layout.xaxis.title.text) == ("JS (nat)", "layer")
    assert "standard error over samples; n = 12 samples. Mean over tokens." in title_of(figure)


def test_small_values_share_the_power_of_their_axis(result: xr.DataTree) -> None:
    small = result.copy()
    small["samples/js"] = small["samples/js"] * 1e-4
    figure, (whole,) = depth_figure(small), lines_of(depth_figure(result))
    (line,) = lines_of(figure)
    power = round(np.log10(line.y[0] / (whole.y[0] * 1e-4)))
    assert figure.layout.yaxis.title.text == f"JS ({format_power(-power)} nat)"
    assert 1 <= max(line.y) < 10
    np.testing.assert_allclose(line.error_y.array / line.y, whole.error_y.array / whole.y)


def test_depth_by_kind(small: Small, result: xr.DataTree) -> None:
    by_sample = small.by_sample(small.js()).mean(axis=0).reshape(2, 3)
    for tree in (result, qualify(small.run)):
        figure = depth_figure(tree, by="kind")
        lines = lines_of(figure)
        assert [line.legendgroup for line in lines] == ["q_proj", "up_proj", "down_proj"]
        np.testing.assert_allclose([line.y for line in lines], by_sample.T, rtol=1e-5)
        assert figure.layout.legend.title.text.strip() == "kind"
        assert title_of(figure).startswith("JS by layer and kind ")


@pytest.mark.parametrize("by", [None, "kind", "dataset", "rank", "role"])
def test_depth_says_what_lies_outside(make_small: Callable[..., Small], by: str | None) -> None:
    figure = depth_figure(miub(make_small(outside=True).run), by=by)
    assert "1 component outside of the layers not shown." in title_of(figure)
    assert all(set(line.x) <= {0, 1} for line in lines_of(figure))
    assert figure.layout.xaxis.range == (-0.5, 1.5)


def test_names_are_escaped(result: xr.DataTree) -> None:
    hostile = result.copy()
    hostile.attrs = {**result.attrs, "run": "<script>"}
    figure = depth_figure(hostile, by="dataset")
    assert [line.legendgroup for line in lines_of(figure)] == ["a", "b", "&lt;b&gt;"]
    assert "<script>" not in figure.layout.title.text


def test_other_results_are_refused(result: xr.DataTree, make_small: Callable[..., Small]) -> None:
    with pytest.raises(ValueError, match="name one or several of"):
        depth_figure(result, by="colour")
    outside = miub(make_small(outside=True).run).isel(component=[-1])
    with pytest.raises(ValueError, match="none of the result's components lies in a layer"):
        depth_figure(outside)


def test_histogram_marks_mean_and_error(small: Small, result: xr.DataTree) -> None:
    expected = small.by_sample(small.js()).sum(axis=1)
    error = expected.std(ddof=1) / np.sqrt(12)
    figure = sample_figure(result)
    box, bars = figure.data
    np.testing.assert_allclose(bars.x, expected, rtol=1e-5)
    band = next(shape for shape in figure.layout.shapes if shape.type == "rect")
    np.testing.assert_allclose([band.x0, band.x1], expected.mean() + error * np.array([-1, 1]), rtol=1e-5)
    assert title_of(figure).startswith("MIUB by sample: ")
    assert figure.layout.xaxis2.title.text == "MIUB of a sample (nat)"
    assert box.boxpoints == "all"
    assert list(box.text) == [f"item-{i}" for i in range(12)]
    assert "Dashed: mean; grey: ± standard error; n = 12 samples. Mean over tokens." in title_of(figure)


def test_samples_that_hardly_differ_are_told_apart(result: xr.DataTree) -> None:
    close = result.copy(deep=True)
    miub = close["samples/miub"].values
    miub[:] = 0.0038 + 2e-5 * np.arange(12) / 12
    figure = sample_figure(close)
    box, bars = figure.data
    np.testing.assert_allclose(box.x, 1000 * miub)
    np.testing.assert_allclose(bars.x, 1000 * miub)
    assert figure.layout.xaxis2.title.text == "MIUB of a sample (10⁻³ nat)"
    assert [note.text for note in figure.layout.annotations] == ["mean 3.8092"]  # all digits that its error leaves
    assert box.hovertemplate == "%{text}: %{x:.6g} 10⁻³ nat<extra></extra>"
    band = next(shape for shape in figure.layout.shapes if shape.type == "rect")
    assert band.x0 < 3.8092 < band.x1


def test_names_of_samples_are_escaped(make_small: Callable[..., Small]) -> None:
    tree = miub(make_small(sample_id="<a href='https://x.test'>").run)
    assert "<a" not in str(sample_figure(tree).data[0].text)
