"""A figure of a scaling-law fit along one of its sizes: cells, law, and local exponents of both."""

import html
from collections.abc import Iterator
from typing import Any

import numpy as np
import plotly.graph_objects as go  # type: ignore[import-untyped]  # plotly ships no types
from plotly.subplots import make_subplots  # type: ignore[import-untyped]  # plotly ships no types

from ..format import format_number
from ..scaling.result import ScalingFit
from .captions import headline, plural, shortened
from .fit_residuals import ResidualUnit, residual_unit
from .fit_slices import Series, Slice, slice_along
from .marks import Look, add_legend, hovering, looks
from .scales import value_axis
from .size_axes import log_axis, size_axis, tick_text
from .theme import apply_theme

__all__ = ["scaling_figure"]

MOST_HELD = 3
"""Values of another size that a caption names."""


def scaling_figure(fit: ScalingFit, *, along: str | None = None) -> go.Figure:
    """Response over one size with the fitted law through each group, and below it the local exponents of both.

    Shown are the cells of each group whose other sizes are at their references, or, where a group has none there, at
    the nearest ones that it has; the others are counted. Lines end where a group's sizes do; bands are intervals of the
    mean by linear theory, cut at the edge. A local exponent is the slope of ln y by ln size, of cells from one size to
    the next. Both axes are logarithmic; where a response isn't above zero, its axis is linear and slopes are of y.

    Parameters
    ----------
    fit
        What `fit_scaling_law` returns. With Huber's loss there is no band.
    along
        N, R, D, or share of the law 'share'; the law's first one if None.

    Raises
    ------
    ValueError
        If the law doesn't have this size, or it is the same in all cells.
    """
    view = slice_along(fit, along)
    groups = list(dict.fromkeys(one.group for one in view.series))
    marks = dict(zip(groups, looks(len(groups)), strict=True))
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, row_heights=[0.62, 0.38], vertical_spacing=0.05)
    apply_theme(figure, height=520)
    shown = _shown_values(view)
    axis = log_axis(shown) if view.is_log else value_axis(shown, is_log=False).layout()
    for one in view.series:
        hollow = one.offset != view.series[0].offset
        if one.curve is not None:
            for trace in _law(one, marks[one.group], axis, has_band=fit.is_least_squares):
                figure.add_trace(trace, row=1, col=1)
        figure.add_trace(_cells(fit, one, marks[one.group], hollow=hollow), row=1, col=1)
        for trace in _exponents(one, marks[one.group], is_log=view.is_log, hollow=hollow):
            figure.add_trace(trace, row=2, col=1)
    response, column = shortened(fit.design.response), shortened(view.column)
    figure.update_xaxes(**size_axis(np.concatenate([one.x for one in view.series])))
    figure.update_xaxes(title_text=column, row=2, col=1)
    figure.update_yaxes(title_text=response, row=1, col=1, **axis)
    short = shortened(fit.design.response, 12)
    slope = f"d {'ln ' if view.is_log else ''}{short} / d ln {shortened(view.column, 12)}"
    figure.update_yaxes(title_text=slope, row=2, col=1, zeroline=True, zerolinecolor="#bbb", nticks=5)
    headline(figure, f"{fit.design.response} along {view.column}, and its local exponent", *_caption(fit, view))
    add_legend(figure, "/".join(fit.design.group_columns), groups, list(marks.values()), mode="lines+markers")
    return figure


def _shown_values(view: Slice) -> np.ndarray:
    """Responses and what the law says, which set the axis; bands don't."""
    return np.concatenate([view.y, *(one.curve.mean for one in view.series if one.curve is not None)])


def _law(series: Series, look: Look, axis: dict[str, Any], *, has_band: bool) -> Iterator[go.Scatter]:
    """The band of the mean, cut at the edges of the axis, and the mean."""
    curve = series.curve
    assert curve is not None
    is_log = axis.get("type") == "log"
    if has_band:
        ends = [10.0**end for end in axis["range"]] if is_log else axis["range"]
        known = np.isfinite(curve.low) & np.isfinite(curve.high)
        low, high = (np.clip(side[known], *ends) for side in (curve.low, curve.high))
        yield go.Scatter(
            x=np.concatenate([curve.x[known], curve.x[known][::-1]]),
            y=np.concatenate([high, low[::-1]]),
            mode="lines",
            line={"width": 0},
            fill="toself",
            fillcolor=look.color,
            opacity=0.15,
            hoverinfo="skip",
            legendgroup=html.escape(series.group),
            showlegend=False,
        )
    yield _line(series, look, curve.x, np.where(curve.mean > 0, curve.mean, np.nan) if is_log else curve.mean)


def _line(series: Series, look: Look, x: np.ndarray, y: np.ndarray) -> go.Scatter:
    return go.Scatter(
        x=x,
        y=y,
        mode="lines",
        line={"color": look.color, "dash": look.dash, "width": 1.5},
        hoverinfo="skip",
        legendgroup=html.escape(series.group),
        showlegend=False,
    )


def _cells(fit: ScalingFit, series: Series, look: Look, *, hollow: bool) -> go.Scatter:
    unit, response = residual_unit(fit), html.escape(fit.design.response)
    said = fit.fittedvalues.to_numpy()[series.places]
    rest = fit.resid.to_numpy()[series.places]
    settings = fit.design.settings[series.places]
    return go.Scatter(
        x=series.x,
        y=series.y,
        mode="markers",
        marker=look.marker(7, hollow=hollow),
        **hovering(
            series.group,
            [
                _cell_text(series.group, str(setting), response, (y, law, residual), unit)
                for setting, y, law, residual in zip(settings, series.y, said, rest, strict=True)
            ],
        ),
    )


def _cell_text(group: str, setting: str, response: str, values: tuple[float, float, float], unit: ResidualUnit) -> str:
    y, law, residual = values
    head = f"<b>{html.escape(group)}</b><br>" if group else ""
    return (
        f"{head}{html.escape(setting)}<br>{response}: {format_number(y, digits=5)}<br>"
        f"law: {format_number(law, digits=5)}<br>residual: {unit.text(residual)}"
    )


def _exponents(series: Series, look: Look, *, is_log: bool, hollow: bool) -> Iterator[go.Scatter]:
    """Local exponents: of the law as a line, of cells as points with bars from one size to the next."""
    if series.curve is None:
        return
    yield _line(series, look, series.curve.x, series.curve.slopes(is_log))
    steps = series.steps(is_log)
    head = f"<b>{html.escape(series.group)}</b><br>" if series.group else ""
    texts = [
        f"{head}from {tick_text(low)} to {tick_text(high)}: {format_number(slope)}"
        for low, high, slope in zip(steps.low, steps.high, steps.slope, strict=True)
    ]
    yield go.Scatter(
        x=steps.middle,
        y=steps.slope,
        mode="markers",
        marker=look.marker(6, hollow=hollow),
        error_x={
            "type": "data",
            "array": steps.high - steps.middle,
            "arrayminus": steps.middle - steps.low,
            "color": look.color,
            "width": 0,
            "thickness": 1,
        },
        **hovering(series.group, texts),
    )


def _caption(fit: ScalingFit, view: Slice) -> Iterator[str]:
    """What the figure's numbers rest on, in sentences."""
    n_groups = len({one.group for one in view.series})
    among = f" in {plural(n_groups, 'group')}" if n_groups > 1 else ""
    yield f"n\u00a0=\u00a0{plural(view.n_cells, 'cell')}{among}{_held_text(view)}."
    if view.n_elsewhere:
        yield f"{plural(view.n_elsewhere, 'cell')} of other sizes {'is' if view.n_elsewhere == 1 else 'are'} not shown."
    band = (
        f"bands: {100 * fit.level:g}\u00a0% intervals of its mean by linear theory."
        if fit.is_least_squares
        else "no bands: Huber's loss has no linear theory here."
    )
    yield f"Lines: {fit.design.equation}; {band}"
    yield _hollow_text(view)
    if view.is_log:
        yield "Below: slopes from one size to the next (bars) and of the law; a pure power law would be flat."
    else:
        yield (
            f"{fit.design.response} isn't above zero everywhere and has no logarithm: its axis is linear, and below "
            "are its own slopes by the logarithm of size, from one size to the next (bars) and of the law."
        )


def _held_text(view: Slice) -> str:
    """Where the other sizes are held."""
    parts = [
        f"{column}\u00a0=\u00a0{' or '.join(map(tick_text, values))}"
        if len(values) <= MOST_HELD
        else f"{column} at what each group has nearest to the reference"
        for column, values in view.held.items()
    ]
    return f", with {' and '.join(parts)}" if parts else ""


def _hollow_text(view: Slice) -> str:
    """Which cells are hollow, and how many have no line."""
    others = list(dict.fromkeys(one.offset for one in view.series if one.offset != view.series[0].offset))
    n_alone = sum(len(one.y) for one in view.series if one.curve is None)
    said = []
    if others:
        said.append(f"Hollow: {others[0] if len(others) == 1 else 'other offsets'}.")
    if n_alone:
        said.append(f"{plural(n_alone, 'cell')} of a single size {'has' if n_alone == 1 else 'have'} no line.")
    return " ".join(said)
