from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import xarray as xr

from lorascope.analyze.compare_runs import side_by_side
from lorascope.analyze.figures.sweep import runs_figure
from lorascope.analyze.miub import miub

from ..conftest import Small
from ..test_runs import like


@pytest.fixture(scope="module")
def results(small: Small) -> list[xr.Dataset]:
    base = miub(small.run)
    runs = (("a", 8, 1), ("b<i>", 16, 2), ("c", 8, 3), ("d", 128, 4))
    return [like(base, run=run, rank=rank, seed=seed) for run, rank, seed in runs]


def title_of(figure: Any) -> str:
    return str(figure.layout.title.text).replace("<br>", " ").replace("\u00a0", " ")


def test_ranks_go_across_in_order(results: list[xr.Dataset]) -> None:
    table = side_by_side(results, ["rank"])
    figure = runs_figure(table)
    (line,) = figure.data
    assert list(figure.layout.xaxis.ticktext) == ["8", "16", "128"]
    assert (list(line.x), line.mode) == ([0, 1, 2], "lines+markers")
    np.testing.assert_allclose(line.y, table["miub"].sel(rank=[8, 16, 128]))
    np.testing.assert_allclose(line.error_y.array, table["miub_se"].sel(rank=[8, 16, 128]))
    assert (figure.layout.xaxis.title.text, figure.layout.yaxis.title.text) == ("rank", "MIUB (nat)")
    assert "Means over 1 to 2 runs a point; bars: standard error over samples within runs." in title_of(figure)
    assert line.text[0].startswith("rank 8: ")
    assert "standard deviation between 2 runs " in line.text[0]
    assert "deviation" not in line.text[1]


def test_ranks_that_are_words_are_in_order(results: list[xr.Dataset]) -> None:
    mixed = results[0].copy(deep=True)
    mixed["rank"].values[0] = 4
    mixed.attrs["run"] = "mixed"
    figure = runs_figure(side_by_side([mixed, *results], ["rank"]))
    assert list(figure.layout.xaxis.ticktext) == ["8", "16", "128", "mixed"]


def test_runs_go_down(results: list[xr.Dataset]) -> None:
    table = side_by_side(results)
    figure = runs_figure(table)
    (points,) = figure.data
    assert list(figure.layout.yaxis.ticktext) == ["a", "b&lt;i&gt;", "c", "d"]
    assert (points.mode, points.orientation, figure.layout.scattermode) == ("markers", "h", "group")
    np.testing.assert_allclose(points.x, table["miub"])
    np.testing.assert_allclose(points.error_x.array, table["miub_se"])
    assert figure.layout.yaxis.range[0] > figure.layout.yaxis.range[1]
    assert figure.layout.xaxis.title.text == "MIUB (nat)"
    assert "1 run a point; bars" in title_of(figure)
    assert "Means" not in title_of(figure)


def test_a_line_for_each_value_of_the_second_key(results: list[xr.Dataset]) -> None:
    table = side_by_side(results, ["rank", "kind"])
    figure = runs_figure(table)
    assert [line.name for line in figure.data] == ["q_proj", "up_proj", "down_proj"]
    for line in figure.data:
        np.testing.assert_allclose(line.y, table["miub"].sel(kind=line.name, rank=[8, 16, 128]))
    assert figure.layout.legend.title.text.strip() == "kind"
    turned = runs_figure(side_by_side(results, ["kind", "rank"]))
    assert [line.name for line in turned.data] == ["8", "16", "128"]
    assert list(turned.layout.yaxis.ticktext) == ["q_proj", "up_proj", "down_proj"]


def test_layers_are_drawn_to_scale_without_what_lies_outside(make_small: Callable[..., Small]) -> None:
    outside = miub(make_small(outside=True).run)
    figure = runs_figure(side_by_side([outside], ["layer"]))
    assert list(figure.data[0].x) == [0, 1]
    assert figure.layout.xaxis.dtick == 1
    assert "What lies outside of the layers is left out." in title_of(figure)
    names = [line.name for line in runs_figure(side_by_side([outside], ["rank", "layer"])).data]
    assert sorted(names) == ["0", "1", "outside"]
    with pytest.raises(ValueError, match="nothing in `table` lies in a layer"):
        runs_figure(side_by_side([outside.isel(component=[-1])], ["layer"]))


def test_groups_without_runs_and_errors_that_arent_known(results: list[xr.Dataset]) -> None:
    table = side_by_side(results[:2], ["run", "rank"])
    lines = runs_figure(table).data
    assert [list(line.y) for line in lines] == [[0], [1]]
    single = table.assign(miub_se=table["miub_se"] * np.nan)
    assert np.isnan(runs_figure(single).data[0].error_x.array).all()
    nothing = runs_figure(table.assign(miub=table["miub"] * np.nan, n_runs=table["n_runs"] * 0))
    assert [len(line.x) for line in nothing.data] == [0, 0]
    assert "0 runs a point" in title_of(nothing)


def test_other_tables_are_refused(results: list[xr.Dataset]) -> None:
    with pytest.raises(ValueError, match=r"`table` goes by \['rank', 'kind', 'layer'\]; give what `side_by_side`"):
        runs_figure(side_by_side(results, ["rank", "kind", "layer"]))
    with pytest.raises(ValueError, match=r"`table` goes by \[\]; give what `side_by_side` returns by one or two keys"):
        runs_figure(results[0][["miub"]])
    with pytest.raises(ValueError, match=r"`table` goes by \[\]"):
        runs_figure(results[0][["js"]])
