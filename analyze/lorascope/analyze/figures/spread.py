"""A figure of how miub_sample spreads over samples."""

import html
import math

import numpy as np
import plotly.graph_objects as go  # type: ignore[import-untyped]  # plotly ships no types
import xarray as xr
from plotly.subplots import make_subplots  # type: ignore[import-untyped]  # plotly ships no types

from ..format import format_error, format_number
from ..weights import standard_error
from .captions import headline, plural, run_name, tokens_reduced
from .theme import COLORS, INK, apply_theme

__all__ = ["sample_figure"]

N_POINTS = 300
"""Most samples that are all drawn; of more only those outside of the whiskers are."""


def sample_figure(result: xr.Dataset) -> go.Figure:
    """Histogram of miub_sample, in the result's unit, over the samples used, with its mean and standard error.

    Every sample is a point above. Samples that aren't finite are left out, and the figure says how many.

    Parameters
    ----------
    result
        What `miub` or `qualify` returns. That of `qualify` gets no title: the report says it in the caption.
    """
    used, units = result["used"].values, result["miub_sample"].attrs.get("units", "nat")
    finite = used & np.isfinite(result["miub_sample"].values)
    values = result["miub_sample"].values[finite]
    mean, error = float(values.mean()) if len(values) else math.nan, float(standard_error(values))
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, row_heights=[0.22, 0.78], vertical_spacing=0.03)
    boxes = {"line": {"color": "#777", "width": 1}, "fillcolor": "rgba(0,0,0,0)"}
    boxes |= {"boxpoints": "all" if len(values) <= N_POINTS else "outliers", "pointpos": 0, "jitter": 0.7}
    texts = [html.escape(str(name)) for name in result["sample"].values[finite]]
    hover = f"%{{text}}: %{{x:.4g}} {html.escape(units)}<extra></extra>"
    marker = {"color": INK, "size": 4, "opacity": 0.55}
    figure.add_box(x=values, text=texts, hovertemplate=hover, marker=marker, **boxes, row=1, col=1)
    n_bins = max(10, min(40, 2 * round(math.sqrt(len(values)))))
    hover = f"%{{x}} {html.escape(units)}: %{{y}} samples<extra></extra>"
    marker = {"color": COLORS[2], "line": {"color": "white", "width": 1}}
    figure.add_histogram(x=values, nbinsx=n_bins, marker=marker, hovertemplate=hover, row=2, col=1)
    apply_theme(figure, height=340)
    figure.update_xaxes(exponentformat="power", nticks=7)
    figure.update_xaxes(title_text=f"MIUB of a sample ({html.escape(units)})", row=2, col=1)
    figure.update_yaxes(visible=False, row=1, col=1)
    figure.update_yaxes(title_text="samples", rangemode="nonnegative", row=2, col=1)
    if len(values) and values.min() == values.max():  # else one bar would fill the figure
        size = 0.1 * (mean or 1.0)
        bins = {"start": mean - size / 2, "end": mean + size, "size": size}
        figure.update_traces(xbins=bins, selector={"type": "histogram"})
        figure.update_xaxes(range=[mean - (6 if mean else 1) * size, mean + 6 * size])
    if len(values):
        text = {"annotation_text": f"mean {format_number(mean)}", "annotation_position": "top right"}
        figure.add_vline(x=mean, line={"color": "#222", "width": 1.5, "dash": "dash"}, row=2, col=1, **text)
    if error > 0:
        figure.add_vrect(x0=mean - error, x1=mean + error, fillcolor="#222", opacity=0.15, line_width=0, row=2, col=1)
    if "js_component" not in result:
        n_unused, n_bad = int((~used).sum()), int((used & ~finite).sum())
        headline(
            figure,
            f"MIUB by sample: {format_error(mean, error)} {units}",
            f"{run_name(result.attrs)}. Mean\u00a0± standard error; n\u00a0=\u00a0{plural(len(values), 'sample')}.",
            tokens_reduced(result.attrs),
            f"{plural(n_unused, 'sample')} not whole or not measured, left out." if n_unused else "",
            f"{plural(n_bad, 'sample')} not finite, left out." if n_bad else "",
        )
    return figure
