from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import xarray as xr

from lorascope.analyze.figures import sample_figure
from lorascope.analyze.miub import miub
from lorascope.analyze.qualify import qualify

from ..conftest import Small


@pytest.fixture(scope="module")
def result(small: Small) -> xr.Dataset:
    return miub(small.run).assign_coords(dataset=("sample", np.array(["a", "<b>", "c"] * 4, object)))


def title_of(figure: Any) -> str:
    return str(figure.layout.title.text).replace("<br>", " ").replace("\u00a0", " ")


def many(result: xr.Dataset, n: int) -> xr.Dataset:
    return result.isel(sample=np.arange(n) % 12)


def test_histogram_marks_mean_and_error(small: Small, result: xr.Dataset) -> None:
    expected = small.by_sample(small.js()).sum(axis=1)
    error = expected.std(ddof=1) / np.sqrt(12)
    for found in (result, qualify(small.run)):
        figure = sample_figure(found)
        box, bars = figure.data
        np.testing.assert_allclose(bars.x, expected, rtol=1e-5)
        band = next(shape for shape in figure.layout.shapes if shape.type == "rect")
        np.testing.assert_allclose([band.x0, band.x1], expected.mean() + error * np.array([-1, 1]), rtol=1e-5)
        assert title_of(figure).startswith("None" if "js_component" in found else "MIUB by sample: ")
        assert figure.layout.xaxis2.title.text == "MIUB of a sample (nat)"
        assert box.boxpoints == "all"
        assert list(box.text) == [f"item-{i}" for i in range(12)]
    assert "n = 12 samples. Tokens: mean." in title_of(sample_figure(result))


def test_boxes_by_dataset(small: Small, result: xr.Dataset) -> None:
    figure = sample_figure(result, by="dataset")
    boxes, means = figure.data[::2], figure.data[1::2]
    expected = small.by_sample(small.js()).sum(axis=1).reshape(4, 3).T
    np.testing.assert_allclose([box.x for box in boxes], expected, rtol=1e-5)
    np.testing.assert_allclose([mean.x[0] for mean in means], expected.mean(axis=1), rtol=1e-5)
    errors = expected.std(axis=1, ddof=1) / 2
    np.testing.assert_allclose([mean.error_x.array[0] for mean in means], errors, rtol=1e-4)
    assert list(figure.layout.yaxis.ticktext) == ["a<br>n = 4", "&lt;b&gt;<br>n = 4", "c<br>n = 4"]
    assert figure.layout.xaxis.title.text == "MIUB of a sample (nat)"


def test_what_is_left_out_is_said(result: xr.Dataset) -> None:
    used = np.arange(12) != 3
    changed = result.assign(miub_sample=result["miub_sample"].where(np.arange(12) > 1))
    for by in (None, "dataset"):
        words = title_of(sample_figure(changed.assign_coords(used=("sample", used)), by=by))
        assert "n = 9 samples" in words
        assert "1 sample not whole or not measured, left out." in words
        assert "2 samples not finite, left out." in words


def test_nothing_finite_keeps_the_groups(result: xr.Dataset) -> None:
    missing = result.assign(miub_sample=result["miub_sample"] * np.nan)
    figure = sample_figure(missing, by="dataset")
    assert list(figure.layout.yaxis.ticktext) == ["a<br>n = 0", "&lt;b&gt;<br>n = 0", "c<br>n = 0"]
    assert title_of(sample_figure(missing)).startswith("MIUB by sample: n/a nat")


@pytest.mark.parametrize(("value", "size", "low"), [(0.0, 0.1, -0.1), (2.0, 0.2, 0.8)])
def test_equal_samples_are_one_narrow_bar(result: xr.Dataset, value: float, size: float, low: float) -> None:
    figure = sample_figure(result.assign(miub_sample=result["miub_sample"] * 0 + value))
    assert figure.data[1].xbins.size == pytest.approx(size)
    assert figure.layout.xaxis2.range == pytest.approx((low, value + 6 * size))
    assert not [shape for shape in figure.layout.shapes if shape.type == "rect"]


def test_many_samples_arent_all_drawn(result: xr.Dataset) -> None:
    assert sample_figure(many(result, 301)).data[0].boxpoints == "outliers"
    assert sample_figure(many(result, 901), by="dataset").data[0].boxpoints == "outliers"
    assert sample_figure(many(result, 900), by="dataset").data[0].boxpoints == "all"


def test_unit_is_that_of_the_result(small: Small) -> None:
    figure = sample_figure(miub(small.run, unit="bit"), by="prompt")
    assert figure.layout.xaxis.title.text == "MIUB of a sample (bit)"
    assert sample_figure(miub(small.run, unit="bit")).layout.xaxis2.title.text == "MIUB of a sample (bit)"


def test_names_are_escaped(make_small: Callable[..., Small]) -> None:
    found = miub(make_small(sample_id="<a href='https://x.test'>").run)
    assert "<a" not in str(sample_figure(found).data[0].text)


def test_other_keys_are_refused(result: xr.Dataset) -> None:
    with pytest.raises(ValueError, match=r"`by` is 'kind'; samples go by one of \['dataset', 'split', 'prompt'\]"):
        sample_figure(result, by="kind")
