"""A figure of a fit's residuals by setting, and how residuals are written."""

import html
from typing import NamedTuple

import numpy as np
import plotly.graph_objects as go  # type: ignore[import-untyped]  # plotly ships no types

from ..format import format_number
from ..scaling.result import ScalingFit
from .captions import headline, plural, shortened
from .marks import add_legend, hovering, looks
from .size_axes import tick_text
from .theme import apply_theme

__all__ = ["ResidualUnit", "residual_unit", "setting_residuals_figure"]

ROW = 34
"""Pixels of a setting."""


class ResidualUnit(NamedTuple):
    """How a fit's residuals are written."""

    factor: float
    """What they are multiplied by."""
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
    from scipy import stats  # type: ignore[import-untyped]

    design, unit, table = fit.design, residual_unit(fit), fit.residuals_by_setting()
    columns = [*design.sizes.values(), *design.offset_columns]
    first = {name: design.frame[columns].iloc[np.flatnonzero(design.settings == name)[0]] for name in table["setting"]}
    table = table.iloc[sorted(range(len(table)), key=lambda k: tuple(first[table["setting"][k]]))]
    half = [stats.t.ppf((1 + fit.level) / 2, n - 1) * se if n > 1 else np.nan
            for n, se in zip(table["n"], table["se"], strict=True)]  # fmt: skip
    table = table.reset_index(drop=True).assign(half=half)
    place = dict(zip(table["setting"], range(len(table)), strict=True))
    groups = list(dict.fromkeys(design.groups.tolist()))
    marks = looks(len(groups))
    figure = go.Figure()
    apply_theme(figure, height=96 + ROW * len(table))
    for k, (group, look) in enumerate(zip(groups, marks, strict=True)):
        rows = np.flatnonzero(design.groups == group)
        texts = [
            f"<b>{html.escape(group)}</b><br>{html.escape(str(design.settings[row]))}<br>"
            f"{unit.text(fit.estimate.residuals[row])}"
            for row in rows
        ]
        shift = 0.5 * ((k + 0.5) / len(groups) - 0.5)
        y = [place[design.settings[row]] + shift for row in rows]
        points = go.Scatter(
            x=unit.factor * fit.estimate.residuals[rows], y=y, mode="markers", marker=look.marker(6),
            **hovering(group, texts),
        )  # fmt: skip
        figure.add_trace(points.update(opacity=0.7))
    texts = [f"<b>{html.escape(row.setting)}</b><br>mean {unit.text(row.mean)} ± {unit.text(row.half)}, n = {row.n}"
             for row in table.itertuples()]  # fmt: skip
    bar = {"type": "data", "array": unit.factor * table["half"], "color": "#222", "width": 4, "thickness": 1.5}
    figure.add_trace(
        go.Scatter(
            x=unit.factor * table["mean"], y=np.arange(len(table)), mode="markers", error_x=bar,
            marker={"symbol": "diamond", "size": 8, "color": "#222"}, **hovering("", texts),
        )
    )  # fmt: skip
    names = [
        " ".join(f"{shortened(name, 12)}\u00a0{shortened(tick_text(value) if isinstance(value, float) else value, 12)}"
                 for name, value in first[setting].items())
        for setting in table["setting"]
    ]  # fmt: skip
    figure.update_xaxes(title_text=f"{shortened(design.response)}: {unit.what}", nticks=7)
    ends = [len(table) - 0.5, -0.5]
    wrapped = [name.replace(" ", "<br>", 1) for name in names]
    figure.update_yaxes(tickvals=list(range(len(table))), ticktext=wrapped, range=ends, ticklabelstandoff=4)
    figure.add_vline(x=0, line={"color": "#777", "dash": "dot", "width": 1})
    headline(
        figure,
        f"Residuals of {design.response} by setting",
        f"Law: {design.equation}; n\u00a0=\u00a0{plural(fit.nobs, 'cell')}.",
        f"Points: cells. Diamonds: a setting's mean; bars: {100 * fit.level:g}\u00a0% intervals of Student's t, "
        f"{int((table['mean'].abs() > table['half']).sum())} of {len(table)} without zero.",
    )
    add_legend(figure, "/".join(design.group_columns), groups, marks)
    return figure
