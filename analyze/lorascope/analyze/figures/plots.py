"""Figures of a run's largest components and of its tokens along the sequence."""

import html

import numpy as np
import plotly.graph_objects as go  # type: ignore[import-untyped]  # plotly ships no types
import xarray as xr
from plotly.subplots import make_subplots  # type: ignore[import-untyped]  # plotly ships no types

from ..format import format_number, format_percent
from ..qualify import position_profile
from .marks import Look, points
from .theme import INK, apply_theme

__all__ = ["position_figure", "share_curve"]


def share_curve(qualified: xr.Dataset) -> go.Figure:
    """Share of MIUB that the n largest components hold, over n, with the five largest marked."""
    shares = np.nan_to_num(np.sort(qualified["share"].values)[::-1])
    counts, cumulative = np.arange(1, len(shares) + 1), np.cumsum(shares)
    five = min(5, len(shares))
    figure = go.Figure()
    even = {"color": "#999", "dash": "dot", "width": 1}
    figure.add_scatter(x=counts, y=counts / len(counts), mode="lines", line=even, hoverinfo="skip")
    hover = "the %{x} largest: %{y:.1%}<extra></extra>"
    figure.add_scatter(x=counts, y=cumulative, mode="lines", line={"color": INK, "width": 2}, hovertemplate=hover)
    text = f"{five} largest: {format_percent(float(cumulative[five - 1]))}"
    shown = {"mode": "markers+text", "textposition": "middle right", "hovertemplate": None, "hoverinfo": "skip"}
    figure.add_trace(points(Look(), "", [text], size=9, x=[five], y=[cumulative[five - 1]], **shown))
    apply_theme(figure, height=302)
    figure.update_xaxes(title_text="components, from the largest", rangemode="tozero")
    figure.update_yaxes(title_text="share of MIUB", range=[0, 1.03], tickformat=".0%")
    return figure


def position_figure(
    qualified: xr.Dataset, *, origin: np.ndarray | None = None, label: str = "position in the sequence"
) -> go.Figure:
    """Median and bands of js_token, nats, over positions, and below it how many tokens each rests on.

    Parameters
    ----------
    qualified
        What `qualify` returns.
    origin
        Position (token,) that is to count as 0, float64; a token where it is NaN is left out. By default the start of
        the sequence.
    label
        What the positions count; plain text.
    """
    positions = qualified["position"].values - (0.0 if origin is None else origin)
    known = np.flatnonzero(np.isfinite(positions))
    tokens, weights = qualified["js_token"][known], qualified["weight"].values[known]
    profile = position_profile(tokens, positions[known].astype(int), weights=weights)
    x, n = profile["position"].values, profile["n"].values
    low, first, median, third, high = profile["quantiles"].values
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, row_heights=[0.8, 0.2], vertical_spacing=0.05)
    hidden = {"x": x, "mode": "lines", "line": {"width": 0, "color": INK}, "hoverinfo": "skip", "row": 1, "col": 1}
    for bottom, top, opacity, name in ((low, high, 0.18, "10 to 90 %"), (first, third, 0.32, "25 to 75 %")):
        figure.add_scatter(y=bottom, showlegend=False, **hidden)
        figure.add_scatter(y=top, fill="tonexty", fillcolor=f"rgba(217,72,1,{opacity})", name=name, **hidden)
    texts = [f"position {at}: {format_number(js)} nat, n = {count}" for at, js, count in zip(x, median, n, strict=True)]
    shown = {"mode": "lines+markers", "name": "median", "showlegend": True}
    figure.add_trace(points(Look(), "", texts, size=4, x=x, y=median, **shown), row=1, col=1)
    hover = "position %{x}: %{y} tokens<extra></extra>"
    figure.add_bar(x=x, y=n, marker_color="#9a9a9a", showlegend=False, hovertemplate=hover, row=2, col=1)
    apply_theme(figure, height=340)
    legend = {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0}
    figure.update_layout(showlegend=True, legend=legend, bargap=0.1)
    figure.update_xaxes(title_text=html.escape(label), row=2, col=1)
    figure.update_yaxes(title_text="JS (nat)", rangemode="tozero", row=1, col=1)
    figure.update_yaxes(title_text="tokens", nticks=3, row=2, col=1)
    return figure
