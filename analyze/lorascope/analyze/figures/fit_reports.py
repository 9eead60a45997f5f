"""A figure of cells held out, which puts a fit to the test."""

import html
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd  # type: ignore[import-untyped]
import plotly.graph_objects as go  # type: ignore[import-untyped]  # plotly ships no types

from ..format import format_number
from ..scaling.cross_validation import cross_validate
from ..scaling.report import FitReport
from .captions import headline, plural
from .fit_residuals import ResidualUnit, residual_unit
from .marks import EDGES, Look, add_legend, hovering, looks
from .small_multiples import Panel, small_multiples

__all__ = ["held_out_figure"]

BEYOND = 1.0
"""How far an axis goes beyond what was observed, as a share of its range, before a prediction lies beyond the edge."""


class _Scaled(NamedTuple):
    """Observed and predicted, taken relative to the mean of what was observed in their group."""

    observed: np.ndarray
    predicted: np.ndarray
    what: str
    """On an axis, after `observed` or `predicted`."""


def held_out_figure(report: FitReport) -> go.Figure:
    """Observed over predicted response of cells that the law hadn't seen, a panel for each way of holding out.

    Both are divided by the mean of their group's cells, or, of absolute residuals, that is taken off: how much groups
    differ isn't what a law predicts. On the diagonal a prediction is right. Panels tell the root mean squared error
    beside that of a plainer prediction (the group's level; of larger sizes, the law without their terms), and how many
    cells a split leaves undetermined.

    Parameters
    ----------
    report
        What `fit_report` returns.

    Raises
    ------
    ValueError
        If no split leaves a cell that can be predicted.
    """
    fit, table = report.fit, report.held_out
    unit, errors = residual_unit(fit), cross_validate(table).set_index("split")
    drawn = [str(split) for split in errors.index[errors["n"] > 0]]
    if not drawn:
        raise ValueError("no cell that was held out could be predicted: the others never determine the law; add runs")
    scaled = _scaled(report)
    groups = list(dict.fromkeys(table["group"]))
    marks = dict(zip(groups, looks(len(groups)), strict=True))
    figure, panels = small_multiples([_title(split, errors.loc[split], unit) for split in drawn], height=190)
    low, high = _ends(scaled)
    for split, panel in zip(drawn, panels, strict=True):
        diagonal = {"color": "#999", "dash": "dot", "width": 1}
        line = go.Scatter(x=[low, high], y=[low, high], mode="lines", line=diagonal, hoverinfo="skip", showlegend=False)
        figure.add_trace(line, **panel.place)
        for trace in _points(table, scaled, split, marks, unit, (low, high)):
            figure.add_trace(trace, **panel.place)
        _dress(figure, panel, (low, high))
    figure.update_yaxes(title_text=f"observed {scaled.what}", col=1)
    for panel in panels[-2:]:
        figure.update_xaxes(title_text=f"predicted {scaled.what}", **panel.place)
    headline(
        figure, f"{fit.design.response} of cells held out, observed and predicted", *_caption(report, errors, scaled)
    )
    add_legend(figure, "/".join(fit.design.group_columns), groups, list(marks.values()))
    return figure


def _scaled(report: FitReport) -> _Scaled:
    fit, table = report.fit, report.held_out
    mean = pd.Series(fit.design.y).groupby(fit.design.groups).mean()
    level = table["group"].map(mean).to_numpy(np.float64)
    observed, predicted = table["observed"].to_numpy(), table["predicted"].to_numpy()
    if fit.design.law.logarithmic:
        return _Scaled(np.exp(observed - level), np.exp(predicted - level), "/ group mean")
    if fit.design.residual == "absolute":
        return _Scaled(observed - level, predicted - level, "- group mean")
    return _Scaled(observed / level, predicted / level, "/ group mean")


def _title(split: str, errors: pd.Series, unit: ResidualUnit) -> str:
    """How a cell was held out, and how well it was predicted."""
    what = {"cell": "each cell", "setting": "each setting", "group": "each group"}
    missing = f"<br>{int(errors['n_undetermined'])} undetermined" if errors["n_undetermined"] else ""
    head = html.escape(what.get(split, split.replace("ordered", "larger")))
    return (
        f"<b>{head}</b>, n = {int(errors['n'])}{missing}<br>RMSE {unit.text(errors['rmse'])}<br>"
        f"{_plainer(split)} {unit.text(errors['rmse_plain'])}"
    )


def _plainer(split: str) -> str:
    """What `error_plain` is the error of."""
    return f"without {split.removeprefix('ordered ')}" if split.startswith("ordered ") else "level alone"


def _ends(scaled: _Scaled) -> tuple[float, float]:
    """Of both axes, around what was observed; predictions extend them so far."""
    low, high = float(scaled.observed.min()), float(scaled.observed.max())
    reach = BEYOND * (high - low or abs(high) or 1.0)
    known = scaled.predicted[np.isfinite(scaled.predicted)]
    near = known[(known >= low - reach) & (known <= high + reach)]
    low, high = min(low, *near), max(high, *near)
    room = 0.06 * (high - low or abs(high) or 1.0)
    return low - room, high + room


def _points(
    table: pd.DataFrame, scaled: _Scaled, split: str, marks: dict[str, Look], unit: ResidualUnit,
    ends: tuple[float, float],
) -> Iterator[go.Scatter]:  # fmt: skip
    known = ((table["split"] == split) & table["error"].notna()).to_numpy()
    for group, look in marks.items():
        rows = np.flatnonzero(known & (table["group"] == group).to_numpy())
        if not len(rows):
            continue
        x, part = scaled.predicted[rows], table.iloc[rows]
        symbols = np.where(x < ends[0], EDGES["left"], np.where(x > ends[1], EDGES["right"], look.symbol))
        head = f"<b>{html.escape(group)}</b><br>" if group else ""
        texts = [
            f"{head}{html.escape(str(row.setting))}<br>observed {format_number(row.observed, digits=5)}, predicted "
            f"{format_number(row.predicted, digits=5)}<br>error {unit.text(row.error)}"
            for row in part.itertuples()
        ]
        yield go.Scatter(
            x=np.clip(x, *ends),
            y=scaled.observed[rows],
            mode="markers",
            marker={**look.marker(6), "symbol": symbols, "opacity": 0.75},
            **hovering(group, texts),
        )


def _dress(figure: go.Figure, panel: Panel, ends: tuple[float, float]) -> None:
    figure.update_xaxes(range=ends, **panel.place)
    figure.update_yaxes(range=ends, **panel.place)


def _caption(report: FitReport, errors: pd.DataFrame, scaled: _Scaled) -> Iterator[str]:
    fit = report.fit
    yield f"Law: {fit.design.equation}; {plural(fit.nobs, 'cell')}."
    yield "Larger: all cells of a size, from the smaller ones. Dotted: prediction right."
    if "group" in errors.index:
        yield "A group held out lends its other cells for its level."
    unit = residual_unit(fit)
    yield f"RMSE: of {unit.what}." if unit.unit else "RMSE: in units of the response."
    ends = _ends(scaled)
    n_beyond = int(((scaled.predicted < ends[0]) | (scaled.predicted > ends[1])).sum())
    if n_beyond:
        yield f"Triangles: {plural(n_beyond, 'prediction')} beyond the edge."
    for split in errors.index[errors["n"] == 0]:
        n = int(errors.loc[split, "n_undetermined"])
        name = str(split).replace("ordered", "larger")
        yield f"No panel for {name}: its {plural(n, 'cell')} can't be predicted, as the others don't determine the law."
    if fit.design.law.logarithmic:
        yield "Observed and predicted in hover texts are ln y."
