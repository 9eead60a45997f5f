"""Figures of what a fitted law leaves: residuals by setting, and rival laws on the same cells."""

import html
from typing import NamedTuple

import numpy as np
import pandas as pd  # type: ignore[import-untyped]
import plotly.graph_objects as go  # type: ignore[import-untyped]  # plotly ships no types
from plotly.subplots import make_subplots  # type: ignore[import-untyped]  # plotly ships no types

from ..format import format_number
from ..scaling.laws import law_named
from ..scaling.report import FitReport
from ..scaling.result import ScalingFit
from .captions import headline, plural, shortened
from .marks import BLACK, EDGES, SYMBOLS, Look, add_legend, looks, points
from .scales import tick_text, value_axis
from .theme import LINES, apply_theme

__all__ = ["ResidualUnit", "laws_figure", "residual_unit", "setting_residuals_figure"]

ROW, GAP = 34, 64
"""Pixels of a setting or law, and between panels of laws."""
SPLITS = {"rmse_cell": "each cell", "rmse_setting": "each setting", "rmse_group": "each group"}
"""Column of errors -> what was held out."""


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


def laws_figure(report: FitReport) -> go.Figure:
    """Laws on the same cells: AICc above that of the best, and below it the errors of cells held out.

    Laws go down the page, the one with the least AICc first, with their number of parameters; the report's own is bold.
    Errors are root mean squares of each law's own residuals; laws whose residuals have another unit than the report's,
    those of a logarithm beside absolute ones, have none here. Laws that the cells don't determine are named.

    Parameters
    ----------
    report
        What `fit_report` returns.
    """
    laws, fit, n = report.laws, report.fit, len(report.laws)
    unit, columns = residual_unit(fit), [name for name in SPLITS if name in laws]
    is_log = np.array([law_named(name).logarithmic for name in laws["law"]])
    errors = unit.factor * laws[columns].to_numpy(np.float64)
    is_absolute = fit.provenance["settings"]["residuals"] == "absolute"
    errors[(is_log != fit.design.law.logarithmic) & is_absolute] = np.nan
    axis = value_axis(errors.ravel())
    height = 2 * ROW * n + GAP
    figure = make_subplots(rows=2, cols=1, vertical_spacing=GAP / height)
    apply_theme(figure, height=height + 96)
    texts = [
        f"<b>{html.escape(row.law)}</b><br>AICc {row.AICc:.2f}, BIC {row.BIC:.2f}<br>"
        f"{plural(row.n_parameters, 'parameter')}, sigma {format_number(row.sigma)}<br>"
        f"lack of fit: p = {format_number(row.lack_of_fit_p)}"
        for row in laws.itertuples()
    ]
    above = points(Look(), "", texts, size=9, x=laws["d_AICc"], y=laws.index, cliponaxis=False)
    figure.add_trace(above, row=1, col=1)
    marks = [Look(color, symbol) for color, symbol, _ in zip(LINES, SYMBOLS, columns, strict=False)]
    for k, (name, look) in enumerate(zip((SPLITS[column] for column in columns), marks, strict=True)):
        texts = [
            f"<b>{html.escape(law)}</b><br>{name} held out: RMSE {format_number(value)}{unit.unit}"
            for law, value in zip(laws["law"], errors[:, k], strict=True)
        ]
        marker = {"symbol": np.where(errors[:, k] > axis.high, EDGES["right"], look.symbol)}
        y = np.arange(n) + 0.5 * ((k + 0.5) / len(columns) - 0.5)
        trace = points(look, name, texts, size=8, x=axis.inside(errors[:, k]), y=y, marker=marker)
        figure.add_trace(trace, row=2, col=1)
    bold = {fit.design.law_name: f"<b>{html.escape(fit.design.law_name)}</b>"}
    names = [f"{bold.get(row.law, html.escape(row.law))} ({row.n_parameters})" for row in laws.itertuples()]
    figure.update_yaxes(tickvals=list(range(n)), ticktext=names, range=[n - 0.5, -0.5], ticklabelstandoff=4)
    figure.update_xaxes(title_text="AICc above the least", nticks=6, rangemode="tozero", row=1, col=1)
    figure.update_xaxes(title_text=f"RMSE of cells held out: {unit.what}", row=2, col=1, **axis.layout())
    headline(
        figure,
        f"Laws of {fit.design.response} on the same cells",
        f"n\u00a0=\u00a0{plural(fit.nobs, 'cell')}; in brackets: parameters; bold: this report's law.",
        "A difference of 2 in AICc is little, of 10 much; a law without has too few cells, or none that it misses.",
        f"Not determined by these cells: {', '.join(map(repr, report.refused))}." if report.refused else "",
    )
    add_legend(figure, "held out", [SPLITS[name] for name in columns], marks)
    return figure
