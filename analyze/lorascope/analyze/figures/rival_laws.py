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
from .marks import EDGES, Look, add_legend, hovering
from .scales import value_axis
from .theme import INK, LINES, apply_theme

__all__ = ["laws_figure"]

ROW, GAP = 34, 64
"""Pixels of a law, and between the panels."""
SPLITS = {"rmse_cell": "each cell", "rmse_setting": "each setting", "rmse_group": "each group"}
"""Column of errors -> what was held out."""
LOOKS = tuple(
    Look(color, symbol, "solid") for color, symbol in zip(LINES, ("circle", "square", "diamond"), strict=False)
)


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
    is_absolute = fit.provenance["settings"]["residuals"] == "absolute"
    errors = unit.factor * laws[columns].to_numpy(np.float64)
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
    marker = {"size": 9, "color": INK}
    criteria = go.Scatter(
        x=laws["d_AICc"], y=laws.index, mode="markers", marker=marker, cliponaxis=False, **hovering("", texts)
    )
    figure.add_trace(criteria, row=1, col=1)
    for k, (column, look) in enumerate(zip(columns, LOOKS, strict=False)):
        texts = [
            f"<b>{html.escape(law)}</b><br>{SPLITS[column]} held out: RMSE {format_number(value)}{unit.unit}"
            for law, value in zip(laws["law"], errors[:, k], strict=True)
        ]
        symbols = np.where(errors[:, k] > axis.high, EDGES["right"], look.symbol)
        trace = go.Scatter(
            x=axis.inside(errors[:, k]), y=np.arange(n) + 0.5 * ((k + 0.5) / len(columns) - 0.5), mode="markers",
            marker={**look.marker(8), "symbol": symbols}, **hovering(SPLITS[column], texts),
        )  # fmt: skip
        figure.add_trace(trace, row=2, col=1)
    names = [
        f"{f'<b>{html.escape(row.law)}</b>' if row.law == fit.design.law_name else html.escape(row.law)} "
        f"({row.n_parameters})"
        for row in laws.itertuples()
    ]
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
    add_legend(figure, "held out", [SPLITS[name] for name in columns], LOOKS[: len(columns)])
    return figure
