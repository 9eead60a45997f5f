"""A figure of rival laws on the same cells."""

import html

import numpy as np
import plotly.graph_objects as go  # type: ignore[import-untyped]  # plotly ships no types
from plotly.subplots import make_subplots  # type: ignore[import-untyped]  # plotly ships no types

from ..format import format_number
from ..scaling.laws import law_named
from ..scaling.report import FitReport
from .captions import headline, plural
from .fit_residuals import residual_unit
from .marks import EDGES, SYMBOLS, Look, add_legend, points
from .size_axes import value_axis
from .theme import LINES, apply_theme

__all__ = ["laws_figure"]

ROW, GAP = 34, 64
"""Pixels of a law, and between the panels."""
SPLITS = {"rmse_cell": "each cell", "rmse_setting": "each setting", "rmse_group": "each group"}
"""Column of errors -> what was held out."""


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
