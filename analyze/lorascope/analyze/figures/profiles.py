"""A figure of js over depth: mean over samples, with its standard error."""

import html
from typing import Any

import numpy as np
import plotly.graph_objects as go  # type: ignore[import-untyped]  # plotly ships no types
import xarray as xr

from ..format import format_error
from ..groups import COMPONENT_KEYS, group_by
from .captions import headline, plural, range_of, run_name, shortened, tokens_reduced
from .marks import Look, points
from .scales import whole_ticks
from .theme import apply_theme, legend_below, line_styles

__all__ = ["depth_figure"]


def depth_figure(result: xr.Dataset, *, by: str | None = None) -> go.Figure:
    """Js of each layer, in the result's unit, over depth: mean over samples and bars of one standard error.

    Components outside of the layers are left out, and the figure says how many.

    Parameters
    ----------
    result
        What `miub` or `qualify` returns.
    by
        A key of `group_by`, e.g. `kind` or `dataset`, to draw a line for each of its values.

    Raises
    ------
    ValueError
        If none of the result's components lies in a layer, or it can't be grouped by `by`.
    """
    grouped = group_by(result, ["layer"] if by is None else ["layer", by])
    layers, units = grouped["layer"].values, html.escape(grouped.attrs["units"])
    inside, outside = (grouped.isel(layer=np.flatnonzero(kept)) for kept in (layers >= 0, layers < 0))
    if not inside.sizes["layer"]:
        raise ValueError("none of the result's components lies in a layer, so there is no depth to draw; see `js_map`")
    names = (
        [""]
        if by is None
        else ["outside" if by == "layer" and value == -1 else shortened(value) for value in grouped[by].values.tolist()]
    )
    parts = [inside] if by is None else [inside.isel({by: place}) for place in range(len(names))]
    figure = go.Figure()
    for name, part, style in zip(names, parts, line_styles(len(names), by), strict=True):
        figure.add_trace(_line(name, part, style, units))
    apply_theme(figure, height=320)
    low, high = int(inside["layer"].values.min()), int(inside["layer"].values.max())
    figure.update_xaxes(title_text="layer", range=[low - 0.5, high + 0.5], **whole_ticks(low, high))
    figure.update_yaxes(title_text=f"JS ({units})", rangemode="tozero", exponentformat="power")
    values = inside["miub"].values
    there = (inside["n_samples"].values > 0) & (inside["n_components"].values > 0)
    counts = outside["n_components"]
    n_outside = int(counts.max([key for key in counts.dims if key not in COMPONENT_KEYS]).sum()) if counts.size else 0
    n_bad = int((there & ~np.isfinite(values)).sum())
    headline(
        figure,
        f"JS by layer{f' and {by}' if by else ''}",
        f"{run_name(grouped.attrs)}. Sum over components, mean\u00a0± standard error over samples; "
        f"n\u00a0=\u00a0{range_of(grouped['n_samples'], 'sample')}.",
        tokens_reduced(grouped.attrs),
        f"{plural(n_outside, 'component')} outside of the layers left out." if n_outside else "",
        f"{plural(n_bad, 'mean')} missing: not finite." if n_bad else "",
    )
    if by is not None:
        legend_below(figure, title=by, names=names)
    return figure


def _line(name: str, part: xr.Dataset, style: dict[str, Any], units: str) -> go.Scatter:
    """Points of a line, with bars; groups that don't occur are gone."""
    part = part.isel(layer=np.flatnonzero((part["n_samples"].values > 0) & (part["n_components"].values > 0)))
    columns = (part[key].values for key in ("layer", "miub", "miub_se", "n_samples"))
    texts = [
        f"layer {layer}{f', {name}' if name else ''}: {format_error(mean, error)} {units}, n = {n}"
        for layer, mean, error, n in zip(*columns, strict=True)
    ]
    bars = {"array": part["miub_se"].values, "width": 0, "thickness": 1.5}
    shown = {"mode": "lines+markers", "name": name, "showlegend": True, "error_y": bars}
    look = Look(style["color"], dash=style["dash"])
    return points(look, name, texts, size=5, x=part["layer"].values, y=part["miub"].values, **shown)
