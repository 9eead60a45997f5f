"""A figure of how miub_sample spreads over samples."""

import html
import math

import numpy as np
import plotly.graph_objects as go  # type: ignore[import-untyped]  # plotly ships no types
import xarray as xr
from plotly.subplots import make_subplots  # type: ignore[import-untyped]  # plotly ships no types

from ..format import format_error, format_number
from ..weights import standard_error
from .captions import headline, plural, run_name, shortened, tokens_reduced
from .theme import COLORS, INK, apply_theme

__all__ = ["sample_figure"]

GROUPS = ("dataset", "split", "prompt")
"""Keys by which samples can be set apart."""
N_POINTS = 300
"""Most samples of a group that are all drawn; of more only those outside of the whiskers are."""


def sample_figure(result: xr.Dataset, *, by: str | None = None) -> go.Figure:
    """Distribution of miub_sample, in the result's unit, over the samples used, with its mean and standard error.

    A histogram; with `by` a box for each group. Samples that aren't finite are left out, and the figure says how many.

    Parameters
    ----------
    result
        What `miub` or `qualify` returns. That of `qualify` gets no title: the report says it in the caption.
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
    samples = result.isel(sample=np.flatnonzero(finite))
    figure = _histogram(samples) if by is None else _boxes(result.isel(sample=np.flatnonzero(used)), by)
    figure.update_xaxes(exponentformat="power", nticks=7)
    figure.update_xaxes(
        title_text=f"MIUB of a sample ({html.escape(units)})", row=None if by else 2, col=None if by else 1
    )
    if "js_component" in result:
        return figure
    n_unused, n_bad = int((~used).sum()), int((used & ~finite).sum())
    headline(
        figure,
        f"MIUB by sample{f' and {by}' if by else ''}: {format_error(*_mean_and_error(samples))} {units}",
        f"{run_name(result.attrs)}. Mean\u00a0± standard error; n\u00a0=\u00a0{plural(int(finite.sum()), 'sample')}.",
        tokens_reduced(result.attrs),
        "" if by is None else "Boxes: quartiles; whiskers: 1.5 boxes at most; diamonds: mean\u00a0± standard error.",
        f"{plural(n_unused, 'sample')} not whole or not measured, left out." if n_unused else "",
        f"{plural(n_bad, 'sample')} not finite, left out." if n_bad else "",
    )
    return figure


def _histogram(samples: xr.Dataset) -> go.Figure:
    """Every sample as a point, and below them how many lie where."""
    values = samples["miub_sample"].values
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, row_heights=[0.22, 0.78], vertical_spacing=0.03)
    figure.add_trace(_box(samples, "rgba(0,0,0,0)"), row=1, col=1)
    figure.add_histogram(
        x=values,
        nbinsx=max(10, min(40, 2 * round(math.sqrt(len(values))))),
        marker={"color": COLORS[2], "line": {"color": "white", "width": 1}},
        hovertemplate="%{x}: %{y} samples<extra></extra>",
        row=2,
        col=1,
    )
    apply_theme(figure, height=340)
    figure.update_yaxes(visible=False, row=1, col=1)
    figure.update_yaxes(title_text="samples", rangemode="nonnegative", row=2, col=1)
    if len(values) and values.min() == values.max():  # else one bar would fill the figure
        size = 0.1 * (float(values[0]) or 1.0)
        bins = {"start": values[0] - size / 2, "end": values[0] + size, "size": size}
        figure.update_traces(xbins=bins, selector={"type": "histogram"})
        figure.update_xaxes(range=[values[0] - (6 if values[0] else 1) * size, values[0] + 6 * size])
    mean, error = _mean_and_error(samples)
    if len(values):
        text = {"annotation_text": f"mean {format_number(mean)}", "annotation_position": "top right"}
        figure.add_vline(x=mean, line={"color": "#222", "width": 1.5, "dash": "dash"}, row=2, col=1, **text)
    if error > 0:
        figure.add_vrect(x0=mean - error, x1=mean + error, fillcolor="#222", opacity=0.15, line_width=0, row=2, col=1)
    return figure


def _boxes(samples: xr.Dataset, by: str) -> go.Figure:
    names = list(dict.fromkeys(samples[by].values.tolist()))
    units = samples["miub_sample"].attrs.get("units", "nat")
    figure, ticks = go.Figure(), []
    for place, name in enumerate(names):
        chosen = (samples[by].values == name) & np.isfinite(samples["miub_sample"].values)
        group = samples.isel(sample=np.flatnonzero(chosen))
        mean, error = _mean_and_error(group)
        figure.add_trace(_box(group, "rgba(253,208,162,0.5)", y0=place, orientation="h"))
        figure.add_scatter(
            x=[mean],
            y=[place],
            error_x={"array": [error if error > 0 else 0.0], "thickness": 2, "width": 5},
            mode="markers",
            marker={"symbol": "diamond", "size": 9, "color": "#222"},
            hovertemplate=html.escape(f"mean {format_error(mean, error)} {units}, n = {group.sizes['sample']}")
            + "<extra></extra>",
        )
        ticks.append(f"{shortened(name)}<br>n = {group.sizes['sample']}")
    apply_theme(figure, height=100 + 64 * len(names))
    figure.update_xaxes(rangemode="nonnegative")
    figure.update_yaxes(
        tickvals=list(range(len(names))), ticktext=ticks, range=[len(names) - 0.5, -0.5], ticklabelstandoff=4
    )
    return figure


def _box(samples: xr.Dataset, fill: str, **options: object) -> go.Box:
    return go.Box(
        x=samples["miub_sample"].values,
        text=[html.escape(str(name)) for name in samples["sample"].values],
        boxpoints="all" if samples.sizes["sample"] <= N_POINTS else "outliers",
        pointpos=0,
        jitter=0.7,
        marker={"color": INK, "size": 4, "opacity": 0.55},
        line={"color": "#777", "width": 1},
        fillcolor=fill,
        hovertemplate="%{text}: %{x:.4g}<extra></extra>",
        **options,
    )


def _mean_and_error(samples: xr.Dataset) -> tuple[float, float]:
    """NaN for what so many samples don't tell."""
    values = samples["miub_sample"].values
    return float(values.mean()) if len(values) else math.nan, float(standard_error(values))
