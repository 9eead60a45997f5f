import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import xarray as xr

from lorascope.analyze.figures import depth_figure
from lorascope.analyze.miub import miub
from lorascope.analyze.qualify import qualify

from ..conftest import Small


@pytest.fixture(scope="module")
def result(small: Small) -> xr.Dataset:
    found = miub(small.run)
    return found.assign_coords(dataset=("sample", np.array(["a", "b", "<b>"] * 4, object)))


def lines_of(figure: Any) -> list[Any]:
    return [trace for trace in figure.data if trace.type == "scatter" and trace.fill is None]


def title_of(figure: Any) -> str:
    return str(figure.layout.title.text).replace("<br>", " ").replace("\u00a0", " ")


def test_depth_is_the_sum_of_a_layer_with_its_error(small: Small, result: xr.Dataset) -> None:
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
    assert "standard error over samples; n = 12 samples. Tokens: mean." in title_of(figure)


def test_depth_by_kind(small: Small, result: xr.Dataset) -> None:
    by_sample = small.by_sample(small.js()).mean(axis=0).reshape(2, 3)
    for found in (result, qualify(small.run)):
        figure = depth_figure(found, by="kind")
        lines = lines_of(figure)
        assert [line.name for line in lines] == ["q_proj", "up_proj", "down_proj"]
        np.testing.assert_allclose([line.y for line in lines], by_sample.T, rtol=1e-5)
        assert figure.layout.legend.title.text.strip() == "kind"
        assert title_of(figure).startswith("JS by layer and kind ")


@pytest.mark.parametrize("by", [None, "kind", "dataset", "rank", "role"])
def test_depth_says_what_lies_outside(make_small: Callable[..., Small], by: str | None) -> None:
    figure = depth_figure(miub(make_small(outside=True).run), by=by)
    assert "1 component outside of the layers left out." in title_of(figure)
    assert all(set(line.x) <= {0, 1} for line in lines_of(figure))
    assert figure.layout.xaxis.range == (-0.5, 1.5)


def test_depth_shows_what_is_missing(result: xr.Dataset) -> None:
    factors = np.array([np.nan, 1, 1, 1, 1, 1])
    figure = depth_figure(result.assign(js_sample=result["js_sample"] * factors))
    np.testing.assert_array_equal(np.isfinite(lines_of(figure)[0].y), [False, True])
    assert "1 mean missing: not finite." in title_of(figure)


def test_names_are_escaped(result: xr.Dataset) -> None:
    figure = depth_figure(result.assign_attrs(run="<script>"), by="dataset")
    assert [line.name for line in lines_of(figure)] == ["a", "b", "&lt;b&gt;"]
    assert "<script>" not in json.dumps(figure.layout.title.text)


def test_other_results_are_refused(result: xr.Dataset, make_small: Callable[..., Small]) -> None:
    with pytest.raises(ValueError, match="name one or several of"):
        depth_figure(result, by="colour")
    outside = miub(make_small(outside=True).run).isel(component=[-1])
    with pytest.raises(ValueError, match="none of the result's components lies in a layer"):
        depth_figure(outside)
