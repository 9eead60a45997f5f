"""Figures of js over depth and along the sequence: mean over samples, with its standard error."""

import html
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import plotly.graph_objects as go  # type: ignore[import-untyped]  # plotly ships no types
import xarray as xr
from plotly.subplots import make_subplots  # type: ignore[import-untyped]  # plotly ships no types

from ..format import format_error, format_number
from ..groups import COMPONENT_KEYS, TOKEN_KEYS, group_by
from .captions import group_name, headline, plural, range_of, run_name, tokens_reduced
from .scales import log_ticks, whole_ticks
from .theme import apply_theme, legend_below, line_styles

__all__ = ["depth_figure", "sequence_figure"]

N_MARKED = 80
"""A line of more points than that has no markers."""


def depth_figure(result: xr.Dataset, *, by: str | None = None, log: bool = False) -> go.Figure:
    """Js of each layer, in the result's unit, over depth: mean over samples and a band of one standard error.

    Components outside of the layers are left out, and the figure says how many.

    Parameters
    ----------
    result
        What `miub` or `qualify` returns, or what `group_by` returns over `layer` and at most one more key.
    by
        A key of `group_by`, e.g. `kind` or `dataset`, to draw a line for each of its values.
    log
        Whether js goes on a logarithmic axis, which shows lines that lie decades apart and leaves zeros out.

    Raises
    ------
    ValueError
        If the result doesn't go by layer, none of its components lies in one, or it can't be grouped by `by`.
    """
    grouped, by = _grouped(result, "layer", by)
    layers = grouped["layer"].values
    inside, outside = (grouped.isel(layer=np.flatnonzero(kept)) for kept in (layers >= 0, layers < 0))
    if not inside.sizes["layer"]:
        raise ValueError("none of the result's components lies in a layer, so there is no depth to draw; see `js_map`")
    lines = _lines(inside, "layer", by)
    figure = go.Figure()
    for line, style in zip(lines, line_styles(len(lines), by), strict=True):
        figure.add_traces(list(_traces(line, style, "layer", grouped.attrs["units"])))
    apply_theme(figure, height=320)
    low, high = int(layers[layers >= 0].min()), int(layers.max())
    figure.update_xaxes(title_text="layer", range=[low - 0.5, high + 0.5], **whole_ticks(low, high))
    figure.update_yaxes(
        title_text=f"JS ({html.escape(grouped.attrs['units'])})", rangemode="tozero", exponentformat="power"
    )
    if low == high:
        figure.update_layout(scattermode="group")
    if log:
        _set_log(figure, lines)
    _finish(figure, grouped, lines, by, f"JS by layer{f' and {by}' if by else ''}", _outside(outside))
    return figure


def sequence_figure(result: xr.Dataset, *, by: str | None = None) -> go.Figure:
    """Js of a token, in the result's unit, along the sequence: mean over samples, its standard error, and n below it.

    Parameters
    ----------
    result
        What `miub` returns with its default reduction, or what `group_by` returns over `position` and at most one
        more key.
    by
        A key of `group_by`, e.g. `dataset` or `role`, to draw a line for each of its values.

    Raises
    ------
    ValueError
        If the result doesn't go by position, as that of `qualify`, or it can't be grouped by `by`.
    """
    grouped, by = _grouped(result, "position", by)
    lines = _lines(grouped, "position", by)
    styles = line_styles(len(lines), by)
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, row_heights=[0.78, 0.22], vertical_spacing=0.05)
    for line, style in zip(lines, styles, strict=True):
        for trace in _traces(line, style, "position", grouped.attrs["units"]):
            figure.add_trace(trace, row=1, col=1)
    # Groups of components rest on the same samples; those of samples and tokens add up.
    counted = lines[:1] if by is None or by in COMPONENT_KEYS else lines
    for line, style in zip(counted, styles, strict=False):
        color = style["color"] if len(counted) > 1 else "#9a9a9a"
        bar = go.Bar(
            x=line.x,
            y=line.n,
            marker={"color": color, "line_width": 0},
            name=line.name if len(counted) > 1 else "",
            showlegend=False,
            hovertemplate="position %{x}: n = %{y} samples",
        )
        figure.add_trace(bar, row=2, col=1)
    apply_theme(figure, height=360)
    figure.update_layout(barmode="stack", bargap=0.1 if grouped.sizes["position"] <= N_MARKED else 0)
    low, high = (int(edge) for edge in (grouped["position"].values.min(), grouped["position"].values.max()))
    figure.update_xaxes(range=[low - 0.5, high + 0.5], **whole_ticks(low, high))
    figure.update_xaxes(title_text="position in the sequence", row=2, col=1)
    figure.update_yaxes(
        title_text=f"JS ({html.escape(grouped.attrs['units'])})",
        rangemode="tozero",
        exponentformat="power",
        row=1,
        col=1,
    )
    figure.update_yaxes(title_text="samples", nticks=3, rangemode="tozero", row=2, col=1)
    _finish(figure, grouped, lines, by, f"JS by position{f' and {by}' if by else ''}", "")
    return figure


class _Line(NamedTuple):
    """A line's points; groups that don't occur are gone."""

    name: str
    x: np.ndarray
    mean: np.ndarray
    error: np.ndarray
    n: np.ndarray


def _grouped(result: xr.Dataset, along: str, by: str | None) -> tuple[xr.Dataset, str | None]:
    """A result grouped, unless it is already, and the key of its lines."""
    if "js_sample" in result:
        keys = [along] if by is None else [along, by]
        if set(keys) & set(TOKEN_KEYS) and "js" not in result:
            raise ValueError(f"js by token is needed to go by {keys}, which `qualify` drops; give what `miub` returns")
        return group_by(result, keys), by
    dims = result["miub"].dims if "miub" in result else ()
    others = [str(dim) for dim in dims if dim != along]
    if along not in dims or len(others) > 1 or (by is not None and others != [by]):
        raise ValueError(
            f"`result` goes by {[str(dim) for dim in dims]} and `by` is {by!r}; give what `miub` returns, or "
            f"`group_by` over {along!r} and at most one more key"
        )
    return result, others[0] if others else None


def _lines(grouped: xr.Dataset, along: str, by: str | None) -> list[_Line]:
    parts = [grouped] if by is None else [grouped.isel({by: place}) for place in range(grouped.sizes[by])]
    names = [""] if by is None else [group_name(by, value) for value in grouped[by].values.tolist()]
    lines = []
    for name, part in zip(names, parts, strict=True):
        there = (part["n_samples"].values > 0) & (part["n_components"].values > 0)
        lines.append(_Line(name, *(part[key].values[there] for key in (along, "miub", "miub_se", "n_samples"))))
    return lines


def _traces(line: _Line, style: dict[str, Any], along: str, units: str) -> Iterator[go.Scatter]:
    """The band of a line, and the line; a point whose neighbours have no error gets a bar of its own."""
    x, y, alone = _band(line)
    if x:
        yield go.Scatter(
            x=x,
            y=y,
            mode="lines",
            line={"width": 0},
            fill="toself",
            fillcolor=style["color"],
            opacity=0.2,
            hoverinfo="skip",
            legendgroup=line.name,
            showlegend=False,
        )
    title = f", {line.name}" if line.name else ""
    yield go.Scatter(
        x=line.x,
        y=line.mean,
        error_y={"array": np.where(alone, line.error, np.nan), "width": 4, "thickness": 1.5} if alone.any() else None,
        mode="lines+markers" if len(line.x) <= N_MARKED else "lines",
        marker={"size": 5, "color": style["color"]},
        line={"width": 1.5, **style},
        name=line.name,
        legendgroup=line.name,
        text=[
            f"{along} {x}{title}: {format_error(mean, error)} {html.escape(units)}, n = {n}"
            for x, mean, error, n in zip(line.x, line.mean, line.error, line.n, strict=True)
        ],
        hovertemplate="%{text}<extra></extra>",
    )


def _band(line: _Line) -> tuple[list[float | None], list[float | None], np.ndarray]:
    """Outline of mean +- error, a closed piece for each stretch of points that have one; which of them stand alone."""
    known = np.flatnonzero(np.isfinite(line.mean) & np.isfinite(line.error))
    alone = np.zeros(len(line.x), bool)
    x: list[float | None] = []
    y: list[float | None] = []
    for stretch in np.split(known, np.flatnonzero(np.diff(known) > 1) + 1):
        if len(stretch) == 1:
            alone[stretch] = True
        elif len(stretch):
            there_and_back = np.concatenate([stretch, stretch[::-1]])
            edge = np.concatenate([(line.mean + line.error)[stretch], (line.mean - line.error)[stretch[::-1]]])
            x += [*line.x[there_and_back].tolist(), None]
            y += [*edge.tolist(), None]
    return x, y, alone


def _finish(figure: go.Figure, grouped: xr.Dataset, lines: list[_Line], by: str | None, title: str, note: str) -> None:
    n_bad = sum(int((~np.isfinite(line.mean)).sum()) for line in lines)
    headline(
        figure,
        title,
        f"{run_name(grouped.attrs)}. Sum over components, mean\u00a0± standard error over samples; "
        f"n\u00a0=\u00a0{range_of(grouped['n_samples'], 'sample')}.",
        tokens_reduced(grouped.attrs),
        note,
        f"{plural(n_bad, 'mean')} missing: not finite." if n_bad else "",
    )
    if by is not None:
        legend_below(figure, title=by, names=[line.name for line in lines])


def _set_log(figure: go.Figure, lines: list[_Line]) -> None:
    values = np.concatenate([line.mean for line in lines])
    values = values[(values > 0) & np.isfinite(values)]
    if len(values):
        low, high = np.log10(values.min()) - 0.1, np.log10(values.max()) + 0.1
        ticks = log_ticks(low, high)
        texts = [format_number(tick, digits=1).removeprefix("1·") for tick in ticks]
        figure.update_yaxes(type="log", range=[low, high], tickvals=ticks, ticktext=texts)


def _outside(outside: xr.Dataset) -> str:
    counts = outside["n_components"]
    n = int(counts.max([key for key in counts.dims if key not in COMPONENT_KEYS]).sum()) if counts.size else 0
    return f"{plural(n, 'component')} outside of the layers left out." if n else ""
