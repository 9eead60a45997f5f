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


def test_what_is_left_out_is_said(result: xr.Dataset) -> None:
    used = np.arange(12) != 3
    changed = result.assign(miub_sample=result["miub_sample"].where(np.arange(12) > 1))
    words = title_of(sample_figure(changed.assign_coords(used=("sample", used))))
    assert "n = 9 samples" in words
    assert "1 sample not whole or not measured, left out." in words
    assert "2 samples not finite, left out." in words


@pytest.mark.parametrize(("value", "size", "low"), [(0.0, 0.1, -0.1), (2.0, 0.2, 0.8)])
def test_equal_samples_are_one_narrow_bar(result: xr.Dataset, value: float, size: float, low: float) -> None:
    figure = sample_figure(result.assign(miub_sample=result["miub_sample"] * 0 + value))
    assert figure.data[1].xbins.size == pytest.approx(size)
    assert figure.layout.xaxis2.range == pytest.approx((low, value + 6 * size))
    assert not [shape for shape in figure.layout.shapes if shape.type == "rect"]


def test_names_are_escaped(make_small: Callable[..., Small]) -> None:
    found = miub(make_small(sample_id="<a href='https://x.test'>").run)
    assert "<a" not in str(sample_figure(found).data[0].text)
