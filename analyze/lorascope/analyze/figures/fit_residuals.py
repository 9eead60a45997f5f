"""A figure of a fit's residuals by setting, and how residuals are written."""

import html
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd  # type: ignore[import-untyped]
import plotly.graph_objects as go  # type: ignore[import-untyped]  # plotly ships no types

from ..format import format_number
from ..scaling.result import ScalingFit
from .captions import headline, plural, shortened
from .marks import add_legend, hovering, looks
from .size_axes import tick_text
from .theme import apply_theme

__all__ = ["ResidualUnit", "residual_unit", "setting_residuals_figure"]

ROW, LEAST_ROW = 34, 14
"""Pixels of a setting, and of a line of its name."""
NAME_WIDTH = 18
"""Characters of a line of a setting's name."""


class ResidualUnit(NamedTuple):
    """How a fit's residuals are written."""

    factor: float
    """By which they are multiplied."""
    unit: str
    """After a number."""
    what: str
    """On an axis."""

    def text(self, residual: float) -> str:
        """A residual with its unit."""
        return f"{format_number(self.factor * residual)}{self.unit}"


def residual_unit(fit: ScalingFit) -> ResidualUnit:
    """Percent of relative residuals and of those of the logarithm; else the unit of the response."""
    if fit.design.residual == "relative":
        return ResidualUnit(100.0, "\u00a0%", "(y - f) / y, in %")
    if fit.design.residual == "log" or fit.design.law.logarithmic:
        return ResidualUnit(100.0, "\u00a0%", "ln(y / f), in %")
    return ResidualUnit(1.0, "", f"y - f, in units of {shortened(fit.design.response)}")


def setting_residuals_figure(fit: ScalingFit) -> go.Figure:
    """Residuals of each setting by group, and their mean with its interval; in %, or in units of the response.

    A law that its form doesn't fail leaves means near zero everywhere. Intervals are Student's t, which takes cells for
    independent; a setting of a single cell has none.

    Parameters
    ----------
    fit
        What `fit_scaling_law` returns.
    """
    unit, table = residual_unit(fit), _by_setting(fit)
    groups = list(dict.fromkeys(fit.design.groups.tolist()))
    marks = looks(len(groups))
    place = dict(zip(table["setting"], range(len(table)), strict=True))
    figure = go.Figure()
    for k, (group, look) in enumerate(zip(groups, marks, strict=True)):
        rows = np.flatnonzero(fit.design.groups == group)
        residuals = unit.factor * fit.estimate.residuals[rows]
        settings = fit.design.settings[rows]
        head = f"<b>{html.escape(group)}</b><br>" if group else ""
        texts = [
            f"{head}{html.escape(str(setting))}<br>{format_number(value)}{unit.unit}"
            for setting, value in zip(settings, residuals, strict=True)
        ]
        shift = 0.5 * ((k + 0.5) / len(groups) - 0.5)
        y = [place[setting] + shift for setting in settings]
        points = go.Scatter(x=residuals, y=y, mode="markers", marker=look.marker(6), **hovering(group, texts))
        figure.add_trace(points.update(opacity=0.7))
    figure.add_trace(_means(table, unit))
    _finish(figure, fit, table, unit)
    n_alone = int((table["n"] == 1).sum())
    among = f" and {plural(len(groups), 'group')}" if len(groups) > 1 else ""
    off = int(((table["low"] > 0) | (table["high"] < 0)).sum())
    headline(
        figure,
        f"Residuals of {fit.design.response} by setting",
        f"Law: {fit.design.equation}.",
        f"n\u00a0=\u00a0{plural(fit.nobs, 'cell')} in {plural(len(table), 'setting')}{among}.",
        f"Points: cells. Diamonds: a setting's mean; bars: {100 * fit.level:g}\u00a0% intervals of Student's t.",
        f"{off} of {len(table)} leave out zero.",
        f"{plural(n_alone, 'setting')} of a single cell without an interval." if n_alone else "",
    )
    add_legend(figure, "/".join(fit.design.group_columns), groups, marks)
    return figure


def _by_setting(fit: ScalingFit) -> pd.DataFrame:
    """`residuals_by_setting` in the order of sizes, with names to be read and the ends of intervals."""
    from scipy import stats  # type: ignore[import-untyped]

    design, table = fit.design, fit.residuals_by_setting()
    columns = [*design.axes.values(), *([design.share] if design.share else []), *design.offset_columns]
    cells = design.frame[columns].to_dict("records")
    first = dict(zip(design.settings[::-1], cells[::-1], strict=True))  # the first cell of each comes last, and stays
    names = {setting: _name(cell) for setting, cell in first.items()}
    order = sorted(range(len(table)), key=lambda k: tuple(first[table["setting"][k]].values()))
    table = table.iloc[order].reset_index(drop=True)
    t = [stats.t.ppf((1 + fit.level) / 2, n - 1) if n > 1 else math.nan for n in table["n"]]
    return table.assign(
        name=table["setting"].map(names), low=table["mean"] - t * table["se"], high=table["mean"] + t * table["se"]
    )


def _name(cell: Mapping[str, Any]) -> str:
    """A setting's name, escaped, in lines."""
    lines: list[str] = []
    width = NAME_WIDTH
    for column, value in cell.items():
        text = tick_text(value) if isinstance(value, float) else value
        part = f"{shortened(column, 12)}\u00a0{shortened(text, 12)}"
        width += len(part) + 1
        if width > NAME_WIDTH:
            lines.append(part)
            width = len(part)
        else:
            lines[-1] += f" {part}"
    return "<br>".join(lines)


def _means(table: pd.DataFrame, unit: ResidualUnit) -> go.Scatter:
    mean, low, high = (unit.factor * table[name].to_numpy() for name in ("mean", "low", "high"))
    texts = [
        f"<b>{html.escape(row.setting)}</b><br>mean {unit.text(row.mean)}<br>{unit.text(row.low)} to "
        f"{unit.text(row.high)}, n = {row.n}"
        for row in table.itertuples()
    ]
    bar = {
        "type": "data",
        "array": high - mean,
        "arrayminus": mean - low,
        "color": "#222",
        "width": 4,
        "thickness": 1.5,
    }
    return go.Scatter(
        x=mean,
        y=np.arange(len(table)),
        mode="markers",
        marker={"symbol": "diamond", "size": 8, "color": "#222"},
        error_x=bar,
        **hovering("", texts),
    )


def _finish(figure: go.Figure, fit: ScalingFit, table: pd.DataFrame, unit: ResidualUnit) -> None:
    lines = max(name.count("<br>") + 1 for name in table["name"])
    n = len(table)
    apply_theme(figure, height=96 + n * max(ROW, LEAST_ROW * lines + 8))
    figure.update_xaxes(title_text=f"{shortened(fit.design.response)}: {unit.what}", nticks=7)
    figure.update_yaxes(
        tickvals=list(range(n)), ticktext=table["name"].tolist(), range=[n - 0.5, -0.5], ticklabelstandoff=4
    )
    for row in range(1, n, 2):
        figure.add_hrect(y0=row - 0.5, y1=row + 0.5, fillcolor="#f3f3f3", line_width=0, layer="below")
    figure.add_vline(x=0, line={"color": "#777", "dash": "dot", "width": 1})
