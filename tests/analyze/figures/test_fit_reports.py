import dataclasses

import numpy as np
import pandas as pd
import pytest

from lorascope.analyze.figures.fit_reports import held_out_figure
from lorascope.analyze.format import format_number
from lorascope.analyze.scaling.cross_validation import cross_validate
from lorascope.analyze.scaling.fit import fit_scaling_law
from lorascope.analyze.scaling.report import FitReport

from .conftest import DATASETS, HOSTILE, ROLES, legend_of, points_of, title_of


def with_fit(report: FitReport, frame: pd.DataFrame, **options: object) -> FitReport:
    """A report of another fit, of which just the cells held out are looked at."""
    fit = fit_scaling_law(frame, "MIUB", **ROLES, n_starts=0, **options)  # type: ignore[arg-type]
    return dataclasses.replace(report, fit=fit, held_out=fit.held_out())


def test_a_panel_for_each_split(phi_report: FitReport) -> None:
    figure = held_out_figure(phi_report)
    table = cross_validate(phi_report.held_out).set_index("split")
    titles = [note.text.replace("\u00a0", " ") for note in figure.layout.annotations]
    assert [title.split("</b>")[0] for title in titles] == [
        "<b>each cell",
        "<b>each setting",
        "<b>each group",
        "<b>larger N",
    ]
    for title, split in zip(titles, ("cell", "setting", "group", "ordered N"), strict=True):
        row = table.loc[split]
        assert f"n = {int(row['n'])}<br>" in title
        assert f"RMSE {format_number(100 * row['rmse'])} %" in title
        plainer = "without N" if split == "ordered N" else "level alone"
        assert f"{plainer} {format_number(100 * row['rmse_plain'])} %" in title
        assert ("undetermined" in title) == (row["n_undetermined"] > 0)
    assert "<br>15 undetermined<br>" in titles[1]
    for words in (
        "MIUB of cells held out, observed and predicted",
        "Law: E + A (N0/N)^alpha + B (R0/R)^beta; 35 cells.",
        "RMSE: of (y - f) / y, in %.",
        "No panel for larger R: its 5 cells can't be predicted",
    ):
        assert words in title_of(figure)
    assert legend_of(figure) == DATASETS


def test_points_are_relative_to_their_group(phi_report: FitReport, phi: pd.DataFrame) -> None:
    figure = held_out_figure(phi_report)
    rows = phi_report.held_out[(phi_report.held_out["split"] == "cell") & (phi_report.held_out["group"] == "PIQA")]
    mean = phi.loc[phi["dataset"] == "PIQA", "MIUB"].mean()
    trace = next(one for one in points_of(figure) if one.legendgroup == "PIQA")
    np.testing.assert_allclose(trace.x, rows["predicted"] / mean)
    np.testing.assert_allclose(trace.y, rows["observed"] / mean)
    row = rows.iloc[0]
    assert trace.text[0] == (
        f"<b>PIQA</b><br>{row['setting']}<br>observed {row['observed']:.1f}, predicted {row['predicted']:.1f}<br>error "
        f"{format_number(100 * row['error'])}\u00a0%"
    )
    assert sum(len(one.x) for one in points_of(figure)) == phi_report.held_out["error"].notna().sum()
    for diagonal in (one for one in figure.data if one.mode == "lines"):
        assert list(diagonal.x) == list(diagonal.y) == list(figure.layout.xaxis.range)


def test_logarithms_and_differences(phi_report: FitReport, phi: pd.DataFrame) -> None:
    log = with_fit(phi_report, phi, law="log-log")
    figure = held_out_figure(log)
    assert "in hover texts are ln y" in title_of(figure)
    ratio = np.concatenate([one.y / one.x for one in points_of(figure)])
    errors = log.held_out["error"].dropna()
    np.testing.assert_allclose(sorted(np.log(ratio)), sorted(errors), atol=1e-9)
    plain = held_out_figure(with_fit(phi_report, phi, residuals="absolute"))
    assert plain.layout.yaxis.title.text == "observed - group mean"
    assert "RMSE: in units of the response." in title_of(plain)


def test_predictions_far_out_lie_at_the_edge(phi_report: FitReport) -> None:
    table = phi_report.held_out.copy()
    table.loc[[0, 1, 2], "predicted"] = [1e9, np.inf, -1e9]
    table.loc[[0, 1, 2], "error"] = [-1.0, np.inf, 1.0]
    figure = held_out_figure(dataclasses.replace(phi_report, held_out=table))
    low, high = figure.layout.xaxis.range
    trace = points_of(figure)[0]
    assert list(trace.x[:3]) == [high, high, low]
    assert list(trace.marker.symbol[:4]) == ["triangle-right", "triangle-right", "triangle-left", "circle"]
    assert high < 2
    assert "Triangles: 3 predictions beyond the edge." in title_of(figure)


def test_names_are_escaped(phi_report: FitReport) -> None:
    table = phi_report.held_out.replace({"group": {"PIQA": HOSTILE}})
    design = phi_report.fit.design
    groups = np.where(design.groups == "PIQA", HOSTILE, design.groups)
    estimate = dataclasses.replace(phi_report.fit.estimate, design=dataclasses.replace(design, groups=groups))
    fit = dataclasses.replace(phi_report.fit, estimate=estimate)
    figure = held_out_figure(dataclasses.replace(phi_report, fit=fit, held_out=table))
    assert "&lt;b&gt;%{x}&lt;/b&gt;" in legend_of(figure)
    assert not any(HOSTILE in text for trace in points_of(figure) for text in trace.text)


def test_nothing_predicted_is_refused(phi_report: FitReport) -> None:
    empty = phi_report.held_out.assign(error=np.nan, predicted=np.nan)
    with pytest.raises(ValueError, match="no cell that was held out could be predicted"):
        held_out_figure(dataclasses.replace(phi_report, held_out=empty))
