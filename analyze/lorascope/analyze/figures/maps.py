"""Heat maps of a run's components: layer by module kind."""

import html
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd  # type: ignore[import-untyped]
import plotly.graph_objects as go  # type: ignore[import-untyped]  # plotly ships no types
import xarray as xr

from ..format import format_error, format_number, format_percent
from .captions import headline, plural, run_name, shortened, tokens_reduced
from .scales import colorbar, ends
from .theme import COLORS, DIVERGING, apply_theme

_BLUES = ("#f7fbff", "#c6dbef", "#6baed6", "#2171b5", "#08306b")
_OUTSIDE = "outside"
N_LETTERS = 24
"""Longest kind that is written out, or it would leave no room for the map on a phone."""


def js_map(result: xr.DataTree, *, titled: bool = True) -> go.Figure:
    """Mean js of each component, in the result's unit, by layer and module kind, on a logarithmic scale.

    Hovering names the component, its js and share of MIUB, and what qualifies them.

    Parameters
    ----------
    result
        What `miub` or `qualify` returns.
    titled
        Say below the title what the numbers rest on; the report says it in its captions.
    """
    js, attrs = result.dataset["js"], result.dataset.attrs
    limits = None if bool((js > 0).any()) else (0.0, 1.0)  # zeros in the colour of not moved
    n_bad = int((~np.isfinite(js.values)).sum())
    n = plural(attrs["n_samples"], "sample")
    note = f"{run_name(attrs)}. Mean over samples; n\u00a0=\u00a0{n}. {tokens_reduced(attrs)}"
    note += f" Grey: {plural(n_bad, 'component')} not finite." if n_bad else ""
    options: dict[str, Any] = {"limits": limits, "note": note if titled else ""}
    return component_map(js, label=f"mean JS ({attrs['units']})", colors=COLORS, notes=_notes(result), **options)


def null_map(qualified: xr.DataTree) -> go.Figure:
    """Js of each component over that of its delta with permuted features, by layer and kind; 1 is where both agree."""
    js, permuted = (qualified.dataset[name].values for name in ("js", "js_permuted"))
    ratio = np.divide(js, permuted, out=np.full_like(js, np.nan), where=permuted > 0)
    values = qualified.dataset["js"].copy(data=ratio)
    # A few components whose softmax is all but one-hot would stretch the scale over many decades.
    distances = np.abs(np.log10(ratio[np.isfinite(ratio) & (ratio > 0)]))
    reach = max(float(np.quantile(distances, 0.98)) if len(distances) else 0.0, math.log10(2))
    limits = (10**-reach, 10**reach)
    label, notes = "JS / JS of permuted delta", _notes(qualified)
    return component_map(values, label=label, colors=DIVERGING, limits=limits, notes=notes)


def component_map(
    values: xr.DataArray,
    *,
    label: str,
    notes: Sequence[str] = (),
    colors: Sequence[str] = _BLUES,
    limits: tuple[float, float] | None = None,
    note: str = "",
) -> go.Figure:
    """Heat map of a quantity by layer and module kind, on a logarithmic colour scale unless a value is negative.

    Parameters
    ----------
    values
        (component,) with the coordinates `kind` and `layer`. Components that share both are averaged.
    label
        What it is, with its unit; plain text.
    notes
        A line of HTML for each component, shown when hovering over it.
    colors
        Colours from the least value to the largest.
    limits
        Values at the ends of the scale, and what lies beyond is drawn like them; a lower one of 0 or less makes the
        scale a linear one. By default the 2 % quantile and the largest value, at most six decades apart.
    note
        Sentences below the title: what the values rest on. The report says it in its captions instead.

    Raises
    ------
    ValueError
        If `limits` can't be the ends of a scale.
    """
    frame = pd.DataFrame({"kind": values["kind"].values, "layer": values["layer"].values})
    kinds = list(dict.fromkeys(frame["kind"]))
    layers = sorted(set(frame["layer"]), key=lambda layer: (layer < 0, layer))  # what is outside of them comes last
    grid = np.full((len(kinds), len(layers)), np.nan)
    texts = np.full(grid.shape, "", dtype=object)
    for (kind, layer), members in frame.groupby(["kind", "layer"]).indices.items():
        cell = kinds.index(kind), layers.index(layer)
        grid[cell] = values.values[members].mean()
        texts[cell] = _hover(values, members.tolist(), notes, label, float(grid[cell]))
    finite = grid[np.isfinite(grid)]
    is_log = bool((finite > 0).any() and (finite >= 0).all()) and (limits is None or limits[0] > 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        drawn = np.where(np.isfinite(grid) & (grid > 0), np.log10(grid), np.nan) if is_log else grid
    low, high = limits if limits is not None and not is_log else ends(drawn, limits, is_log)
    columns = [_OUTSIDE if layer < 0 else str(layer) for layer in layers]
    rows = [html.escape(kind) for kind in kinds]
    figure = go.Figure(
        heat_map(drawn, columns, rows, texts.tolist(), colors, (low, high), is_log).update(xgap=1, ygap=1)
    )
    apply_theme(figure, height=140 + 24 * len(kinds))
    # Categories are pinned, so that labels stay where no cell has a value.
    figure.update_xaxes(title_text="layer", type="category", categoryorder="array", categoryarray=columns)
    figure.update_xaxes(range=[-0.5, len(columns) - 0.5], nticks=16, tickangle=0)
    figure.update_yaxes(type="category", categoryorder="array", categoryarray=rows, range=[len(rows) - 0.5, -0.5])
    figure.update_yaxes(tickvals=rows, ticktext=[shortened(kind, N_LETTERS) for kind in kinds], ticklabelstandoff=4)
    figure.update_layout(plot_bgcolor="#e4e4e4", margin={"t": 36, "b": 100})
    headline(figure, label, note)
    return figure


def heat_map(
    values: np.ndarray,
    x: Sequence[Any],
    y: Sequence[Any],
    texts: list[list[str]],
    colors: Sequence[str],
    ends: tuple[float, float],
    is_log: bool,
) -> go.Heatmap:
    """Values (y, x), powers of ten where the scale is logarithmic, with texts to hover over and a colour bar below."""
    scale = {"colorscale": list(colors), "zmin": ends[0], "zmax": ends[1], "colorbar": colorbar(*ends, is_log)}
    hover = {"text": texts, "hovertemplate": "%{text}<extra></extra>", "hoverongaps": False}
    return go.Heatmap(z=values, x=x, y=y, **scale, **hover)


def _hover(values: xr.DataArray, members: list[int], notes: Sequence[str], label: str, mean: float) -> str:
    label = html.escape(label)
    names = [html.escape(str(values["component"].values[member])) for member in members]
    if len(members) > 1:
        return f"<b>{names[0]}</b> and {len(members) - 1} more<br>{label}, their mean: {format_number(mean)}"
    note = f"<br>{notes[members[0]]}" if notes else ""
    return f"<b>{names[0]}</b><br>{label}: {format_number(mean)}{note}"


def _notes(result: xr.DataTree) -> list[str]:
    """What is shown beside each component's js."""
    lines, units, table = [], html.escape(result.attrs["units"]), result.to_dataset()
    for index in range(table.sizes["component"]):
        one = table.isel(component=index)
        parts = [
            f"JS {format_error(float(one['js']), float(one['js_se']))} {units}",
            f"share of MIUB {format_percent(float(one['share']))}",
        ]
        if "js_permuted" in one:
            parts.append(f"JS of permuted delta {format_number(float(one['js_permuted']))} nat")
        if "effective_width" in one:
            parts.append(f"effective width {format_number(float(one['effective_width']))} of {int(one['d_out'])}")
            parts.append(f"|delta| / |base| {format_number(float(one['delta_ratio']))}")
        if "delta_source" in one.coords and one["delta_source"].item() == "difference":
            parts.append("delta is a difference of outputs")
        lines.append("<br>".join(parts))
    return lines
