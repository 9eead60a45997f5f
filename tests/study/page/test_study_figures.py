from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lorascope.study import read_units
from lorascope.study.page.study_figures import lengths_figure, settings_figure, text_sizes_figure
from lorascope.study.results.cells import length_cells, study_cells
from lorascope.study.results.tables import datasets_table, lay_out, lengths_table, texts_table, with_sizes
from lorascope.study.results.units import UnitResult

from ...analyze.figures.conftest import HOSTILE, legend_of, points_of, title_of
from ..made import make_unit


@pytest.fixture(scope="module")
def cells(units: list[UnitResult]) -> pd.DataFrame:
    return study_cells(units)


def test_figure_2_has_each_text_s_numbers_and_errors(cells: pd.DataFrame) -> None:
    table = texts_table(cells)
    figure = text_sizes_figure(table)
    traces = points_of(figure)
    assert [note.text for note in figure.layout.annotations] == ["<b>MIUB</b>", "<b>PPL</b>", "<b>CE</b>"]
    for trace, metric in zip(traces, ("MIUB", "PPL", "CE"), strict=True):
        own = table[table["metric"] == metric].sort_values("N")
        np.testing.assert_allclose(trace.x, own["N"].astype(float))
        np.testing.assert_allclose(trace.y, own["value"])
        np.testing.assert_allclose(trace.error_y.array, own["se"])
    assert "n = 12 items, 1 seed" in traces[0].text[0]
    assert figure.layout.xaxis.ticktext[0] == "56.2"  # million parameters
    assert "LoRA rank 8" in title_of(figure)
    assert "Bars: standard errors over items; one seed." in title_of(figure)


def test_figure_3_has_a_panel_a_data_set_and_metric(units: list[UnitResult]) -> None:
    table = lengths_table(length_cells(units))
    figure = lengths_figure(table)
    titles = [note.text for note in figure.layout.annotations]
    assert titles[:3] == ["<b>piqa</b>, MIUB", "<b>piqa</b>, ACC", "<b>arce</b>, MIUB"]
    assert len(points_of(figure)) == 6 * 7
    first = points_of(figure)[0]
    own = table[(table["dataset"] == "piqa") & (table["metric"] == "MIUB") & (table["setting"] == "r8")]
    np.testing.assert_allclose(first.y, own["value"].dropna())
    assert np.abs(np.array(first.x) - [0, 1]).max() < 0.3  # aside of others, and nearer to its own bucket
    assert figure.layout.xaxis.ticktext == ("1-100", "101-200")
    assert legend_of(figure) == ["r8", "r32", "r128", "share8", "share4", "share2", "share1"]
    assert "5 to 6 items a point" in title_of(figure)


def test_sweeps_have_rank_and_size(cells: pd.DataFrame) -> None:
    table = datasets_table(cells)
    figure = settings_figure(with_sizes(table, lay_out(cells).cells))
    assert len(points_of(figure)) == 3 * 2 * 4
    assert legend_of(figure) == ["piqa", "arce", "hellaswag", "AVG"]
    ranks, sizes = points_of(figure)[3], points_of(figure)[7]
    own = table[(table["dataset"] == "AVG") & (table["metric"] == "MIUB")].set_index("setting")["value"]
    assert list(ranks.x) == [8, 32, 128]
    np.testing.assert_allclose(ranks.y, own[["r8", "r32", "r128"]])
    np.testing.assert_allclose(sizes.y, own[["share8", "share4", "share2", "share1"]])
    assert ranks.line.color == "#222222"


def test_seeds_have_wide_bars_behind_the_errors_over_items(seeds: list[UnitResult]) -> None:
    table = with_sizes(datasets_table(study_cells(seeds)), lay_out(study_cells(seeds)).cells)
    figure = settings_figure(table)
    own = table[(table["dataset"] == "AVG") & (table["metric"] == "MIUB")].set_index("setting")["seed_sd"]
    wide = [trace for trace in figure.data if trace.opacity == 0.3]
    assert len(wide) == 3 * 2 * 4
    np.testing.assert_allclose(wide[3].error_y.array, own[["r8", "r32", "r128"]])
    assert wide[3].error_y.thickness > points_of(figure)[3].error_y.thickness
    assert "wide and pale: sd between up to 3 seeds" in title_of(figure)


def test_values_far_apart_are_on_a_logarithmic_axis(cells: pd.DataFrame) -> None:
    table = datasets_table(cells)
    assert {axis.type for axis in settings_figure(with_sizes(table, lay_out(cells).cells)).select_yaxes()} == {None}
    small = table["setting"].isin(["r8", "share1"])
    for column in ("value", "se"):
        table[column] = table[column].where(~small, table[column] / 100)
    figure = settings_figure(with_sizes(table, lay_out(cells).cells))
    axes = [figure.layout[f"yaxis{k or ''}"] for k in ("", 2, 3, 4, 5, 6)]
    assert [axis.type for axis in axes] == ["log", "log", None, None, "log", "log"]  # not of shares
    assert [axis.title.text for axis in axes] == ["nat, log", "nat, log", "share", "share", *["nat/token, log"] * 2]
    own = table[(table["metric"] == "MIUB") & table["value"].notna()]
    low, high = (10.0**end for end in axes[0].range)
    assert low < (own["value"] - own["se"]).min()
    assert high > own[own["setting"].isin(["r8", "r32", "r128"])]["value"].max()


def test_names_are_escaped(tmp_path: Path) -> None:
    for rank in (2, 8):
        make_unit(tmp_path, 1, rank, model=HOSTILE, sets=(HOSTILE,), name=f"odd{rank}")
        make_unit(tmp_path, 1, rank)
    units = read_units(tmp_path)
    cells = study_cells(units)
    figures = [
        settings_figure(with_sizes(datasets_table(cells), lay_out(cells).cells)),
        text_sizes_figure(texts_table(cells)),
        lengths_figure(lengths_table(length_cells(units))),
    ]
    for figure in figures:
        shown = [str(text) for trace in points_of(figure) for text in np.ravel(trace.text)]
        shown += legend_of(figure) if figure.layout.showlegend else []
        shown += [note.text for note in figure.layout.annotations] + [figure.layout.title.text]
        assert not any(HOSTILE in text for text in shown)
        assert any("b&gt;" in text for text in shown)
