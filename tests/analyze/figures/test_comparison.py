from typing import Any

import numpy as np
import pytest
import xarray as xr

from lorascope.analyze.compare_runs import paired
from lorascope.analyze.figures.comparison import difference_map, pair_figure
from lorascope.analyze.miub import miub

from ..conftest import Small
from ..test_runs import like


@pytest.fixture(scope="module")
def first(small: Small) -> xr.Dataset:
    found = miub(small.run)
    return found.assign_coords(dataset=("sample", np.array(["a", "<b>"] * 6, object)))


@pytest.fixture(scope="module")
def second(first: xr.Dataset) -> xr.Dataset:
    changed = like(first, run="other", rank=8, seed=1, shift=0.1)
    shuffled = np.array([3, 1, 2, 0, 5, 4, 6, 8, 7, 9])  # two are missing, and the order is another one
    return changed.isel(sample=shuffled)


def title_of(figure: Any) -> str:
    return str(figure.layout.title.text).replace("<br>", " ").replace("\u00a0", " ")


def test_difference_map_shows_differences_of_matched_samples(first: xr.Dataset, second: xr.Dataset) -> None:
    figure = difference_map(first, second)
    heat, dots = figure.data
    ones = first["js_sample"].values[[3, 1, 2, 0, 5, 4, 6, 8, 7, 9]].mean(axis=0)
    others = second["js_sample"].values.mean(axis=0)
    np.testing.assert_allclose(np.asarray(heat.z).T.ravel(), others - ones)
    assert heat.zmin == -heat.zmax < 0
    assert list(heat.y) == ["q_proj", "up_proj", "down_proj"]
    tests = paired(first, second, ["component"])
    clear = tests["component"].values[tests["p_adjusted"].values < 0.05]
    assert sorted(f"model.layers.{x}.{y}" for x, y in zip(dots.x, dots.y, strict=True)) == sorted(clear)
    lines = heat.text[0][1].split("<br>")
    assert lines[0] == "<b>model.layers.1.q_proj</b>"
    assert lines[1].startswith("JS, second less first (nat): ")
    assert lines[2] == f"first {ones[3]:.3g} nat"
    assert lines[3] == f"second {others[3]:.3g} nat"
    assert "±" in lines[4]
    assert lines[5].startswith("adjusted p = ")
    assert f"n = 10 pairs. Tokens: mean. Dots: p < 0.05 after Benjamini-Hochberg ({len(clear)} of 6" in (
        title_of(figure).replace("&lt;", "<")
    )


def test_difference_map_takes_what_one_run_lacks_for_zero(first: xr.Dataset) -> None:
    fewer = like(first, run="fewer", rank=8, seed=1).isel(component=[0, 2, 3, 4, 5])
    for pair, sign, place in (((first, fewer), -1, 1), ((fewer, first), 1, 0)):
        heat = difference_map(*pair).data[0]
        row = list(heat.y).index("up_proj")
        assert heat.z[row][0] == pytest.approx(sign * first["js_sample"].values[:, 1].mean())
        assert "not adapted, counts as 0" in heat.text[row][0].split("<br>")[3 if place else 2]


def test_difference_map_of_equal_and_of_missing_values(first: xr.Dataset) -> None:
    same = difference_map(first, first.assign_attrs(run="again"))
    assert (same.data[0].zmin, same.data[0].zmax) == (-1, 1)
    assert not np.asarray(same.data[0].z).any()
    assert len(same.data[1].x) == 0
    missing = difference_map(first, first.assign(js_sample=first["js_sample"] * np.nan))
    assert np.isnan(np.asarray(missing.data[0].z)).all()


def test_a_rare_difference_still_sets_the_scale(first: xr.Dataset) -> None:
    """The 98 % quantile is 0 where a single component of 120 differs."""
    wide = first.isel(component=np.arange(120) % 6).assign_coords(
        component=[f"c{k}" for k in range(120)], layer=("component", np.arange(120))
    )
    factors = np.where(np.arange(120) == 0, 2.0, 1.0)
    heat = difference_map(wide, wide.assign(js_sample=wide["js_sample"] * factors)).data[0]
    assert heat.zmax == pytest.approx(wide["js_sample"].values[:, 0].mean())


def test_pair_figure_matches_samples(first: xr.Dataset, second: xr.Dataset) -> None:
    figure = pair_figure(first, second)
    diagonal, *groups = figure.data
    assert list(diagonal.x) == list(diagonal.y)
    ones = dict(zip(first["sample"].values, first["miub_sample"].values, strict=True))
    others = dict(zip(second["sample"].values, second["miub_sample"].values, strict=True))
    assert sum(len(group.x) for group in groups) == 10
    for group in groups:
        for name, x, y in zip(group.text, group.x, group.y, strict=True):
            assert (x, y) == (ones[name], others[name])
            assert diagonal.x[0] < min(x, y) <= max(x, y) < diagonal.x[1]
    assert [group.name for group in groups] == ["a", "&lt;b&gt;"]
    assert figure.layout.xaxis.title.text == "MIUB of a sample, first (nat)"
    assert title_of(figure).startswith("Second less first: ")
    for words in (" nat, p = ", "/run.zarr (default). Second: other (default).", "n = 10 pairs."):
        assert words in title_of(figure)


def test_pair_figure_leaves_out_what_isnt_finite(first: xr.Dataset) -> None:
    bad = first.assign(js_sample=first["js_sample"].where(first["sample"] != "item-2"))
    bad = bad.assign(miub_sample=bad["miub_sample"].where(first["sample"] != "item-2"))
    figure = pair_figure(first, bad)
    assert sum(len(group.x) for group in figure.data[1:]) == 11
    assert "n/a nat, p = n/a" in title_of(figure)
    assert "1 pair not drawn: not finite." in title_of(figure)
    nothing = pair_figure(first, first.assign(miub_sample=first["miub_sample"] * np.nan))
    assert list(nothing.data[0].x) == [0, 1]


@pytest.mark.parametrize(("values", "ends"), [(0.0, (-0.05, 0.05)), (2.0, (1.9, 2.1))])
def test_pairs_of_equal_values_have_a_range(first: xr.Dataset, values: float, ends: tuple[float, float]) -> None:
    equal = first.assign(miub_sample=first["miub_sample"] * 0 + values)
    assert pair_figure(equal, equal).layout.xaxis.range == pytest.approx(ends)


def test_axes_begin_at_zero_where_it_is_near(first: xr.Dataset) -> None:
    values = np.linspace(1, 10, 12)
    spread = first.assign(miub_sample=("sample", values, {"units": "nat"}))
    assert pair_figure(spread, spread).layout.xaxis.range == pytest.approx((-0.45, 10.45))


def test_many_pairs_are_small_and_pale(first: xr.Dataset) -> None:
    names = [f"item-{k}" for k in range(1200)]
    many = first.isel(sample=np.arange(1200) % 12).assign_coords(sample=names)
    few, dense = (pair_figure(found, found).data[1].marker for found in (first, many))
    assert (few.size, dense.size) == (6, 4)
    assert few.opacity > dense.opacity


def test_results_that_cant_be_matched_are_refused(small: Small, first: xr.Dataset) -> None:
    for draw in (difference_map, pair_figure):
        with pytest.raises(ValueError, match="results of different units can't be compared"):
            draw(first, miub(small.run, unit="bit"))
        with pytest.raises(ValueError, match="share 0 whole samples"):
            draw(first, first.assign_coords(split=("sample", ["train"] * 12)))
