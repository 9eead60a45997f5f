"""A figure of rival laws on the same cells."""

import html
from collections.abc import Iterable, Iterator

import numpy as np
import pandas as pd  # type: ignore[import-untyped]
import plotly.graph_objects as go  # type: ignore[import-untyped]  # plotly ships no types
from plotly.subplots import make_subplots  # type: ignore[import-untyped]  # plotly ships no types

from ..format import format_number
from ..scaling.laws import law_named
from ..scaling.report import FitReport
from .captions import headline, plural
from .fit_residuals import residual_unit
from .marks import EDGES, Look, add_legend, hovering
from .scales import ValueAxis, value_axis
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
    laws, unit, n = report.laws, residual_unit(report.fit), len(report.laws)
    columns = [name for name in SPLITS if name in laws]
    errors = unit.factor * laws[columns].to_numpy(np.float64)
    errors[~_comparable(report)] = np.nan
    axis = value_axis(errors.ravel())
    whole = 2 * ROW * n + GAP
    figure = make_subplots(rows=2, cols=1, vertical_spacing=GAP / whole)
    apply_theme(figure, height=whole + 96)
    names = [SPLITS[name] for name in columns]
    figure.add_trace(_criteria(laws), row=1, col=1)
    for k, (name, look) in enumerate(zip(names, LOOKS, strict=False)):
        shift = 0.5 * ((k + 0.5) / len(names) - 0.5)
        figure.add_trace(_errors(laws["law"], name, errors[:, k], look, axis, shift, unit.unit), row=2, col=1)
    _rows(figure, report)
    gaps = laws["d_AICc"].to_numpy(np.float64)
    far = float(gaps[np.isfinite(gaps)].max(initial=0.0)) or 1.0
    figure.update_xaxes(title_text="AICc above the least", range=[-0.04 * far, 1.06 * far], nticks=6, row=1, col=1)
    figure.update_xaxes(title_text=f"RMSE of cells held out: {unit.what}", row=2, col=1, **axis.layout())
    headline(figure, f"Laws of {report.fit.design.response} on the same cells", *_caption(report, errors, axis))
    add_legend(figure, "held out", names, LOOKS[: len(names)])
    return figure


def _comparable(report: FitReport) -> np.ndarray:
    """(law,) whether its residuals have the unit of the report's own: absolute ones aren't those of a logarithm."""
    design = report.fit.design
    is_log = np.array([law_named(name).logarithmic for name in report.laws["law"]])
    is_absolute = report.fit.provenance["settings"]["residuals"] == "absolute"
    return np.asarray((is_log == design.law.logarithmic) | (not is_absolute))


def _criteria(laws: pd.DataFrame) -> go.Scatter:
    rows = laws[np.isfinite(laws["d_AICc"])]
    texts = [
        f"<b>{html.escape(row.law)}</b><br>AICc {row.AICc:.2f}, BIC {row.BIC:.2f}<br>"
        f"{plural(row.n_parameters, 'parameter')}, sigma {format_number(row.sigma)}<br>"
        f"lack of fit: p = {format_number(row.lack_of_fit_p)}"
        for row in rows.itertuples()
    ]
    return go.Scatter(
        x=rows["d_AICc"].to_numpy(),
        y=rows.index.to_numpy(),
        mode="markers",
        marker={"size": 9, "color": INK},
        **hovering("", texts),
    )


def _errors(
    laws: pd.Series, name: str, values: np.ndarray, look: Look, axis: ValueAxis, shift: float, unit: str
) -> go.Scatter:
    known = np.flatnonzero(~np.isnan(values))
    beyond = values[known] > axis.high
    texts = [
        f"<b>{html.escape(law)}</b><br>{name} held out: RMSE {format_number(value)}{unit}"
        for law, value in zip(laws.iloc[known], values[known], strict=True)
    ]
    return go.Scatter(
        x=axis.inside(values[known]),
        y=known + shift,
        mode="markers",
        marker={**look.marker(8), "symbol": np.where(beyond, EDGES["right"], look.symbol)},
        **hovering(name, texts),
    )


def _rows(figure: go.Figure, report: FitReport) -> None:
    """Names of laws and stripes, in both panels."""
    n, own = len(report.laws), report.fit.design.law_name
    names = [
        f"{f'<b>{html.escape(row.law)}</b>' if row.law == own else html.escape(row.law)} ({row.n_parameters})"
        for row in report.laws.itertuples()
    ]
    figure.update_yaxes(tickvals=list(range(n)), ticktext=names, range=[n - 0.5, -0.5], ticklabelstandoff=4)
    for panel in (1, 2):
        for row in range(1, n, 2):
            look = {"fillcolor": "#f3f3f3", "line_width": 0, "layer": "below"}
            figure.add_hrect(y0=row - 0.5, y1=row + 0.5, row=panel, col=1, **look)


def _caption(report: FitReport, errors: np.ndarray, axis: ValueAxis) -> Iterator[str]:
    laws, fit = report.laws, report.fit
    yield f"n\u00a0=\u00a0{plural(fit.nobs, 'cell')}; in brackets: parameters; bold: this report's law."
    known = laws[np.isfinite(laws["d_AICc"])]
    if len(known):
        best = known.iloc[0]
        yield f"Least AICc: {best['AICc']:.2f}, of {best['law']!r}; a difference of 2 is little, of 10 much."
    if len(known) < len(laws):
        yield f"{plural(len(laws) - len(known), 'law')} without an AICc: too few cells, or none that it misses."
    other = laws["law"][~_comparable(report)].tolist()
    if other:
        yield f"No errors of {_listed(other)}, whose residuals have another unit."
    if (errors > axis.high).any():
        yield "Triangles: beyond the edge."
    if report.refused:
        yield f"Not determined by these cells: {_listed(report.refused)}."


def _listed(names: Iterable[str]) -> str:
    return ", ".join(repr(name) for name in names)
