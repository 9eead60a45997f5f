"""Figures of a run's JS (Jensen-Shannon divergence) by position, by layer, and by sample (its sum MIUB)."""

import html
import math
from typing import Any

import numpy as np
import pandas as pd  # type: ignore[import-untyped]
import plotly.graph_objects as go  # type: ignore[import-untyped]  # plotly ships no types
import xarray as xr
from plotly.subplots import make_subplots  # type: ignore[import-untyped]  # plotly ships no types

from lorascope.analyze.miub.groups import group_by, to_dataframe
from lorascope.analyze.results.format import common_power_of_ten, format_error, format_number
from lorascope.analyze.results.tree import require_result
from lorascope.analyze.results.weights import standard_error, weighted_quantiles

from .captions import headline, plural, range_of, run_name, shortened, tokens_reduced
from .scales import whole_ticks
from .theme import BELOW, COLORS, INK, Look, add_legend, apply_theme, looks, points

LEVELS = (0.1, 0.25, 0.5, 0.75, 0.9)
"""Quantiles that are drawn over positions."""
N_POINTS = 300
"""Largest number of samples that are all drawn; with more, only outliers are."""


def position_figure(result: xr.DataTree) -> go.Figure:
    """Draw the tokens' JS (Jensen-Shannon divergence) by position, as a median and bands, and their number.

    JS is in the result's unit. The line is the median over tokens at a position; the bands contain the middle 50 and 80
    % of them. JS of a token is summed over components.

    Parameters
    ----------
    result
        Result of `miub` or `qualify`.

    Returns
    -------
    plotly.graph_objects.Figure
        Position across; JS up, and the number of captured tokens in a panel below.
    """
    require_result(result)
    by_token, units = result.children["tokens"].dataset, html.escape(result.attrs["units"])
    columns = {"at": by_token["position"], "js": by_token["miub"], "weight": by_token["weight"]}
    table = pd.DataFrame({name: values.values for name, values in columns.items()})
    tokens = table[np.isfinite(table["js"])].groupby("at")
    x, n = tokens.size().index.to_numpy(), tokens.size().to_numpy()
    quantiles = [weighted_quantiles(part["js"].to_numpy(), part["weight"].to_numpy(), LEVELS) for _, part in tokens]
    low, first, median, third, high = np.reshape(quantiles, (-1, len(LEVELS))).T
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, row_heights=[0.8, 0.2], vertical_spacing=0.05)
    hidden = {"x": x, "mode": "lines", "line": {"width": 0, "color": INK}, "hoverinfo": "skip", "row": 1, "col": 1}
    for bottom, top, opacity, name in ((low, high, 0.18, "10 to 90 %"), (first, third, 0.32, "25 to 75 %")):
        figure.add_scatter(y=bottom, showlegend=False, **hidden)
        figure.add_scatter(y=top, fill="tonexty", fillcolor=f"rgba(217,72,1,{opacity})", name=name, **hidden)
    texts = [
        f"position {at}: {format_number(js)} {units}, n = {count}" for at, js, count in zip(x, median, n, strict=True)
    ]
    shown = {"mode": "lines+markers", "name": "median", "showlegend": True}
    figure.add_trace(points(Look(), "", texts, size=4, x=x, y=median, **shown), row=1, col=1)
    hover = "position %{x}: %{y} tokens<extra></extra>"
    figure.add_bar(x=x, y=n, marker_color="#9a9a9a", showlegend=False, hovertemplate=hover, row=2, col=1)
    apply_theme(figure, height=380)
    figure.update_layout(showlegend=True, legend=BELOW, bargap=0.1, margin_b=50)
    figure.update_xaxes(title_text="position in the sequence", row=2, col=1)
    figure.update_yaxes(title_text=f"JS of a token ({units})", title_standoff=8, rangemode="tozero", row=1, col=1)
    figure.update_yaxes(title_text="tokens", nticks=3, row=2, col=1)
    counted = f"n\u00a0=\u00a0{plural(int(n.sum()), 'token')} of {plural(result.attrs['n_samples'], 'sample')}"
    note = f"{run_name(result.dataset.attrs)}. Median and bands over tokens; {counted}."
    headline(figure, "JS by position in the sequence", note)
    return figure


def depth_figure(result: xr.DataTree, *, by: str | None = None) -> go.Figure:
    """Draw the JS (Jensen-Shannon divergence) of layers, as means over samples with bars of one standard error.

    JS is in the result's unit, summed over a layer's components. Components outside of the layers are excluded, and a
    note counts them.

    Parameters
    ----------
    result
        Result of `miub` or `qualify`.
    by
        A key of `group_by`, e.g. `kind` or `dataset`, to draw a line for each of its values.

    Returns
    -------
    plotly.graph_objects.Figure
        Layer across, JS up; with `by` a legend below.

    Raises
    ------
    ValueError
        If none of the result's components lies in a layer, or it can't be grouped by `by`.
    """
    grouped = group_by(result, ["layer"] if by is None else ["layer", by])
    units, n_outside = html.escape(grouped.attrs["units"]), int((result.dataset["layer"].values < 0).sum())
    inside = to_dataframe(grouped, "group").query("layer >= 0 and n_components > 0")
    if inside.empty:
        raise ValueError(
            "none of the result's components lies in a layer, so there is no depth to draw; see `js_figure`"
        )
    values = [""] if by is None else [value for value in grouped[by].values.tolist() if (inside[by] == value).any()]
    names, marks = list(map(str, values)), looks(len(values), by)
    factor, power = common_power_of_ten(inside["miub"], units)
    figure = go.Figure()
    for value, name, look in zip(values, names, marks, strict=True):
        part = inside if by is None else inside[inside[by] == value]
        where = f", {shortened(name)}" if name else ""
        texts = [
            f"layer {row.layer}{where}: {format_error(row.miub, row.miub_se)} {units}, n = {row.n_samples}"
            for row in part.itertuples()
        ]
        shown = {"mode": "lines+markers", "error_y": {"array": factor * part["miub_se"], "width": 0, "thickness": 1.5}}
        figure.add_trace(points(look, name, texts, size=5, x=part["layer"], y=factor * part["miub"], **shown))
    apply_theme(figure, height=320)
    low, high = int(inside["layer"].min()), int(inside["layer"].max())
    figure.update_xaxes(title_text="layer", range=[low - 0.5, high + 0.5], **whole_ticks(low, high))
    figure.update_yaxes(title_text=f"JS ({power})", rangemode="tozero")
    n_bad = int((~np.isfinite(inside["miub"])).sum())
    headline(
        figure,
        f"JS by layer{f' and {by}' if by else ''}",
        f"{run_name(grouped.attrs)}. Sum over components, mean\u00a0± standard error over samples; "
        f"n\u00a0=\u00a0{range_of(grouped['n_samples'], 'sample')}.",
        tokens_reduced(grouped.attrs),
        f"{plural(n_outside, 'component')} outside of the layers not shown." if n_outside else "",
        f"{plural(n_bad, 'mean')} missing: not finite." if n_bad else "",
    )
    add_legend(figure, by or "", names, marks, mode="lines+markers")
    return figure


def sample_figure(result: xr.DataTree) -> go.Figure:
    """Draw a histogram of the samples' MIUB (summed JS), in the result's unit, with mean and standard error.

    The mean is over the used samples. Every sample is a point above, with its name to hover over. Samples that aren't
    finite are excluded, and a note counts them.

    Parameters
    ----------
    result
        Result of `miub` or `qualify`.

    Returns
    -------
    plotly.graph_objects.Figure
        MIUB across; samples up, and above them the box and points of the samples.
    """
    require_result(result)
    by_sample, units = result.children["samples"].dataset, result.attrs["units"]
    used = by_sample["used"].values
    finite = used & np.isfinite(by_sample["miub"].values)
    values = by_sample["miub"].values[finite]
    mean, error = float(values.mean()) if len(values) else math.nan, float(standard_error(values))
    factor, power = common_power_of_ten(values, html.escape(units))
    scaled = factor * values
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, row_heights=[0.22, 0.78], vertical_spacing=0.08)
    boxes: dict[str, Any] = {"line": {"color": "#777", "width": 1}, "fillcolor": "rgba(0,0,0,0)"}
    boxes |= {"boxpoints": "all" if len(values) <= N_POINTS else "outliers", "pointpos": 0, "jitter": 0.7}
    texts = [html.escape(str(name)) for name in by_sample["sample"].values[finite]]
    hover = f"%{{text}}: %{{x:.6g}} {power}<extra></extra>"
    marker = {"color": INK, "size": 4, "opacity": 0.55}
    figure.add_box(x=scaled, text=texts, hovertemplate=hover, marker=marker, **boxes, row=1, col=1)
    n_bins = max(10, min(40, 2 * round(math.sqrt(len(values)))))
    hover = f"%{{x}} {power}: %{{y}} samples<extra></extra>"
    marker = {"color": COLORS[2], "line": {"color": "white", "width": 1}}
    figure.add_histogram(x=scaled, nbinsx=n_bins, marker=marker, hovertemplate=hover, row=2, col=1)
    apply_theme(figure, height=340)
    figure.update_xaxes(exponentformat="power", nticks=6, tickangle=0)
    figure.update_xaxes(title_text=f"MIUB of a sample ({power})", row=2, col=1)
    figure.update_xaxes(visible=False, row=1, col=1)
    figure.update_yaxes(visible=False, row=1, col=1)
    figure.update_yaxes(title_text="samples", rangemode="nonnegative", row=2, col=1)
    if len(values):
        shown = format_error(factor * mean, factor * error).partition(" ±")[0]
        text = {"annotation_text": f"mean {shown}", "annotation_position": "top"}
        figure.add_vline(x=factor * mean, line={"color": "#222", "width": 1.5, "dash": "dash"}, row=2, col=1, **text)
    if error > 0:
        x0, x1 = factor * (mean - error), factor * (mean + error)
        figure.add_vrect(x0=x0, x1=x1, fillcolor="#222", opacity=0.15, line_width=0, row=2, col=1)
    attrs = result.dataset.attrs
    n_unused, n_bad = int((~used).sum()), int((used & ~finite).sum())
    headline(
        figure,
        f"MIUB by sample: {format_error(mean, error)} {units}",
        f"{run_name(attrs)}. Dashed: mean; grey: ± standard error; n\u00a0=\u00a0{plural(len(values), 'sample')}.",
        tokens_reduced(attrs),
        f"{plural(n_unused, 'sample')} not whole or not measured, not shown." if n_unused else "",
        f"{plural(n_bad, 'sample')} not finite, not shown." if n_bad else "",
    )
    return figure
