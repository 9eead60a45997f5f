"""Figures of a run's samples and tokens, for notebooks and the report: xarray in, plotly out."""

import html
import math

import numpy as np
import plotly.graph_objects as go  # type: ignore[import-untyped]  # plotly ships no types
import xarray as xr
from plotly.subplots import make_subplots  # type: ignore[import-untyped]  # plotly ships no types

from ..format import format_number, format_percent
from ..qualify import position_profile
from .theme import COLORS, INK, apply_theme

__all__ = ["position_figure", "sample_spread", "share_curve"]


def sample_spread(qualified: xr.Dataset) -> go.Figure:
    """Histogram of miub_sample, nats, over the samples used, with its mean, and every sample as a point above."""
    used = qualified["used"].values & np.isfinite(qualified["miub_sample"].values)
    values = qualified["miub_sample"].values[used]
    names = [html.escape(str(name)) for name in qualified["sample"].values[used]]
    units = html.escape(qualified["miub_sample"].attrs.get("units", "nat"))
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, row_heights=[0.22, 0.78], vertical_spacing=0.03)
    points = go.Box(
        x=values,
        text=names,
        boxpoints="all",
        pointpos=0,
        jitter=0.7,
        marker={"color": INK, "size": 4, "opacity": 0.55},
        line={"color": "#777", "width": 1},
        fillcolor="rgba(0,0,0,0)",
        hovertemplate=f"%{{text}}: %{{x:.4g}} {units}<extra></extra>",
        name="",
    )
    bars = go.Histogram(
        x=values,
        nbinsx=max(10, min(40, 2 * round(math.sqrt(len(values))))),
        marker={"color": COLORS[2], "line": {"color": "white", "width": 1}},
        hovertemplate=f"%{{x}} {units}: %{{y}} samples<extra></extra>",
    )
    figure.add_trace(points, row=1, col=1)
    figure.add_trace(bars, row=2, col=1)
    apply_theme(figure, height=340)
    if len(values):
        mean = float(values.mean())
        figure.add_vline(x=mean, line={"color": "#222", "width": 1.5, "dash": "dash"}, row=2, col=1)
        figure.add_annotation(
            x=mean,
            y=1,
            yref="y2 domain",
            text=f"mean {format_number(mean)}",
            showarrow=False,
            xanchor="left",
            xshift=4,
            row=2,
            col=1,
        )
    figure.update_xaxes(title_text=f"MIUB of a sample ({units})", row=2, col=1)
    figure.update_yaxes(visible=False, row=1, col=1)
    figure.update_yaxes(title_text="samples", row=2, col=1)
    return figure


def share_curve(qualified: xr.Dataset) -> go.Figure:
    """Share of MIUB that the n largest components hold, over n, with the five largest marked."""
    shares = np.nan_to_num(np.sort(qualified["share"].values)[::-1])
    counts, cumulative = np.arange(1, len(shares) + 1), np.cumsum(shares)
    five = min(5, len(shares))
    line = go.Scatter(
        x=counts,
        y=cumulative,
        mode="lines",
        line={"color": INK, "width": 2},
        hovertemplate="the %{x} largest: %{y:.1%}<extra></extra>",
    )
    mark = go.Scatter(
        x=[five],
        y=[cumulative[five - 1]],
        mode="markers+text",
        text=[f"{five} largest: {format_percent(float(cumulative[five - 1]))}"],
        textposition="middle right",
        marker={"color": INK, "size": 9},
        hoverinfo="skip",
    )
    even = go.Scatter(
        x=counts,
        y=counts / len(counts),
        mode="lines",
        line={"color": "#999", "dash": "dot", "width": 1},
        hoverinfo="skip",
    )
    figure = go.Figure([even, line, mark])
    apply_theme(figure, height=302)
    figure.update_xaxes(title_text="components, from the largest", rangemode="tozero")
    figure.update_yaxes(title_text="share of MIUB", range=[0, 1.03], tickformat=".0%")
    return figure


def position_figure(values: xr.DataArray, position: np.ndarray, *, weights: np.ndarray, label: str) -> go.Figure:
    """Median and bands of a token-level quantity, nats, over positions, and below it how many tokens each rests on.

    Parameters
    ----------
    values
        (token,); NaN is left out.
    position
        (token,), whole numbers, in the sequence or from any other origin.
    weights
        (token,), how many tokens each stands for.
    label
        What `position` counts; plain text.
    """
    profile = position_profile(values, position, weights=weights)
    x = profile["position"].values
    low, first, median, third, high = profile["quantiles"].values
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, row_heights=[0.8, 0.2], vertical_spacing=0.05)
    for bottom, top, opacity, name in ((low, high, 0.18, "10 to 90 %"), (first, third, 0.32, "25 to 75 %")):
        line = {"width": 0, "color": INK}
        hidden = {"mode": "lines", "line": line, "hoverinfo": "skip"}
        figure.add_trace(go.Scatter(x=x, y=bottom, showlegend=False, **hidden), row=1, col=1)
        fill = f"rgba(217,72,1,{opacity})"
        figure.add_trace(go.Scatter(x=x, y=top, fill="tonexty", fillcolor=fill, name=name, **hidden), row=1, col=1)
    figure.add_trace(
        go.Scatter(
            x=x,
            y=median,
            mode="lines+markers",
            marker={"size": 4},
            line={"color": INK, "width": 1.5},
            name="median",
            customdata=profile["n"].values,
            hovertemplate="position %{x}: %{y:.3g} nat, n = %{customdata}<extra></extra>",
        ),
        row=1,
        col=1,
    )
    counts = go.Bar(
        x=x,
        y=profile["n"].values,
        marker_color="#9a9a9a",
        showlegend=False,
        hovertemplate="position %{x}: %{y} tokens<extra></extra>",
    )
    figure.add_trace(counts, row=2, col=1)
    apply_theme(figure, height=340)
    figure.update_layout(
        showlegend=True, legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0}, bargap=0.1
    )
    figure.update_xaxes(title_text=html.escape(label), row=2, col=1)
    figure.update_yaxes(title_text="JS (nat)", rangemode="tozero", row=1, col=1)
    figure.update_yaxes(title_text="tokens", nticks=3, row=2, col=1)
    return figure
