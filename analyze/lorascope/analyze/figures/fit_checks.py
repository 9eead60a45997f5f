"""A figure of what a fitted law leaves: residuals by setting."""

import html
from typing import NamedTuple

import numpy as np
import pandas as pd  # type: ignore[import-untyped]
import plotly.graph_objects as go  # type: ignore[import-untyped]  # plotly ships no types

from ..format import format_number
from ..scaling.result import ScalingFit
from .captions import headline, plural, shortened
from .marks import BLACK, add_legend, looks, points
from .scales import tick_text
from .theme import apply_theme

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
    with np.errstate(invalid="ignore"):  # a single cell has no interval
        half = stats.t.ppf((1 + fit.level) / 2, table["n"] - 1) * table["se"]
    table = table.assign(half=half.where(table["n"] > 1)).reset_index(drop=True)
    place = {name: k for k, name in enumerate(table["setting"])}
    groups = list(dict.fromkeys(design.groups.tolist()))
    marks = looks(len(groups))
    figure = go.Figure()
    apply_theme(figure, height=96 + ROW * len(table))
    for k, (group, look) in enumerate(zip(groups, marks, strict=True)):
        rows = np.flatnonzero(design.groups == group)
        residuals, settings = fit.estimate.residuals[rows], design.settings[rows]
        texts = [
            f"<b>{html.escape(group)}</b><br>{html.escape(str(setting))}<br>{unit.text(residual)}"
            for setting, residual in zip(settings, residuals, strict=True)
        ]
        y = [place[setting] + 0.5 * ((k + 0.5) / len(groups) - 0.5) for setting in settings]
        figure.add_trace(points(look, group, texts, x=unit.factor * residuals, y=y, opacity=0.7))
    texts = [
        f"<b>{html.escape(row.setting)}</b><br>mean {unit.text(row.mean)} ± {unit.text(row.half)}, n = {row.n}"
        for row in table.itertuples()
    ]
    bar = {"type": "data", "array": unit.factor * table["half"], "color": BLACK.color, "width": 4, "thickness": 1.5}
    means = unit.factor * table["mean"]
    figure.add_trace(points(BLACK, "", texts, size=8, x=means, y=np.arange(len(table)), error_x=bar))
    figure.update_xaxes(title_text=f"{shortened(design.response)}: {unit.what}", nticks=7)
    names = ["<br>".join(_row_name(first[setting])) for setting in table["setting"]]
    rows_axis = {"tickvals": list(range(len(table))), "ticktext": names, "range": [len(table) - 0.5, -0.5]}
    figure.update_yaxes(ticklabelstandoff=4, **rows_axis)
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


def _row_name(setting: pd.Series) -> list[str]:
    """The first size of a setting, and all else, escaped."""
    parts = [
        f"{shortened(name, 12)}\u00a0{shortened(tick_text(value) if isinstance(value, float) else value, 12)}"
        for name, value in setting.items()
    ]
    return [parts[0], " ".join(parts[1:])] if len(parts) > 1 else parts
