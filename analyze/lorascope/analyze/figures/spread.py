"""A figure of how miub_sample spreads over samples."""

import html
import math

import numpy as np
import plotly.graph_objects as go  # type: ignore[import-untyped]  # plotly ships no types
import xarray as xr

from ..format import format_error
from .captions import headline, plural, run_name, shortened, tokens_reduced
from .plots import sample_spread
from .theme import INK, apply_theme

__all__ = ["sample_figure"]

GROUPS = ("dataset", "split", "prompt")
"""Keys by which samples can be set apart."""
N_POINTS = 300
"""Of more samples than that in a group only those outside of the whiskers are drawn."""


def sample_figure(result: xr.Dataset, *, by: str | None = None) -> go.Figure:
    """Distribution of miub_sample, in the result's unit, over the samples used, with its mean and standard error.

    A histogram; with `by` a box for each group. Samples that aren't finite are left out, and the figure says how many.

    Parameters
    ----------
    result
        What `miub` or `qualify` returns.
    by
        `dataset`, `split` or `prompt`.

    Raises
    ------
    ValueError
        If `by` isn't one of those.
    """
    if by not in (None, *GROUPS):
        raise ValueError(f"`by` is {by!r}; samples go by one of {list(GROUPS)}, or by None")
    used, units = result["used"].values, result["miub_sample"].attrs.get("units", "nat")
    finite = used & np.isfinite(result["miub_sample"].values)
    values = result["miub_sample"].values[finite]
    figure = _histogram(result, values) if by is None else _boxes(result.isel(sample=np.flatnonzero(used)), by)
    figure.update_xaxes(exponentformat="power", nticks=7)
    n_unused, n_bad = int((~used).sum()), int((used & ~finite).sum())
    headline(
        figure,
        f"MIUB by sample{f' and {by}' if by else ''}: {format_error(*_mean_and_error(values))} {units}",
        f"{run_name(result.attrs)}. Mean\u00a0± standard error; n\u00a0=\u00a0{plural(len(values), 'sample')}.",
        tokens_reduced(result.attrs),
        "" if by is None else "Boxes: quartiles; whiskers: 1.5 boxes at most; diamonds: mean\u00a0± standard error.",
        f"{plural(n_unused, 'sample')} not whole or not measured, left out." if n_unused else "",
        f"{plural(n_bad, 'sample')} not finite, left out." if n_bad else "",
    )
    return figure


def _histogram(result: xr.Dataset, values: np.ndarray) -> go.Figure:
    figure = sample_spread(result)
    figure.update_yaxes(rangemode="nonnegative")
    if len(values) > N_POINTS:
        figure.update_traces(boxpoints="outliers", selector={"type": "box"})
    if len(values) and values.min() == values.max():  # else one bar would fill the figure
        size = 0.1 * (float(values[0]) or 1.0)
        figure.update_traces(
            xbins={"start": values[0] - size / 2, "end": values[0] + size, "size": size}, selector={"type": "histogram"}
        )
        figure.update_xaxes(range=[values[0] - (6 if values[0] else 1) * size, values[0] + 6 * size])
    mean, error = _mean_and_error(values)
    if error > 0:
        figure.add_vrect(x0=mean - error, x1=mean + error, fillcolor="#222", opacity=0.15, line_width=0, row=2, col=1)
    return figure


def _boxes(samples: xr.Dataset, by: str) -> go.Figure:
    names = list(dict.fromkeys(samples[by].values.tolist()))
    units = html.escape(samples["miub_sample"].attrs.get("units", "nat"))
    figure, ticks = go.Figure(), []
    for place, name in enumerate(names):
        chosen = (samples[by].values == name) & np.isfinite(samples["miub_sample"].values)
        group = samples.isel(sample=np.flatnonzero(chosen))
        values = group["miub_sample"].values
        mean, error = _mean_and_error(values)
        box = go.Box(
            x=values,
            y0=place,
            orientation="h",
            text=[html.escape(str(sample)) for sample in group["sample"].values],
            boxpoints="all" if len(values) <= N_POINTS else "outliers",
            pointpos=0,
            jitter=0.6,
            marker={"color": INK, "size": 4, "opacity": 0.55},
            line={"color": "#777", "width": 1},
            fillcolor="rgba(253,208,162,0.5)",
            hovertemplate=f"%{{text}}: %{{x:.4g}} {units}<extra></extra>",
        )
        dot = go.Scatter(
            x=[mean],
            y=[place],
            error_x={"array": [error if error > 0 else 0.0], "thickness": 2, "width": 5},
            mode="markers",
            marker={"symbol": "diamond", "size": 9, "color": "#222"},
            text=[f"mean {format_error(mean, error)} {units}, n = {len(values)}"],
            hovertemplate="%{text}<extra></extra>",
        )
        figure.add_traces([box, dot])
        ticks.append(f"{shortened(name)}<br>n = {len(values)}")
    apply_theme(figure, height=100 + 64 * len(names))
    figure.update_xaxes(title_text=f"MIUB of a sample ({units})", rangemode="nonnegative")
    figure.update_yaxes(
        tickvals=list(range(len(names))), ticktext=ticks, range=[len(names) - 0.5, -0.5], ticklabelstandoff=4
    )
    return figure


def _mean_and_error(values: np.ndarray) -> tuple[float, float]:
    """NaN for what so many samples don't tell."""
    n = len(values)
    error = float(values.std(ddof=1) / math.sqrt(n)) if n > 1 else math.nan
    return float(values.mean()) if n else math.nan, error
