"""Heat maps of a run's components: layer by module kind."""

import html
import math
from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go  # type: ignore[import-untyped]  # plotly ships no types
import xarray as xr

from .format import format_error, format_number, format_percent
from .theme import COLORS, dress

__all__ = ["component_map", "js_map", "null_map"]

_BLUES = ("#f7fbff", "#c6dbef", "#6baed6", "#2171b5", "#08306b")
_DIVERGING = ("#2166ac", "#92c5de", "#f7f7f7", "#f4a582", "#b2182b")
_OUTSIDE = "outside"


def js_map(qualified: xr.Dataset) -> go.Figure:
    """Mean js of each component, nats, by layer and module kind, on a logarithmic scale.

    Hovering names the component, its js and share of MIUB, and what qualifies them.

    Parameters
    ----------
    qualified
        What `qualify` returns.
    """
    return component_map(qualified["js_component"], label="mean JS (nat)", colors=COLORS, notes=_notes(qualified))


def null_map(qualified: xr.Dataset) -> go.Figure:
    """Js of each component over that of its delta with permuted features, by layer and kind; 1 is where both agree."""
    js, permuted = qualified["js_component"].values, qualified["js_permuted"].values
    ratio = np.divide(js, permuted, out=np.full_like(js, np.nan), where=permuted > 0)
    values = qualified["js_component"].copy(data=ratio)
    # A few components whose softmax is all but one-hot would stretch the scale over many decades.
    distances = np.abs(np.log10(ratio[ratio > 0]))
    reach = max(float(np.quantile(distances, 0.98)) if len(distances) else 0.0, math.log10(2))
    return component_map(
        values,
        label="JS / JS of permuted delta",
        colors=_DIVERGING,
        limits=(10**-reach, 10**reach),
        notes=_notes(qualified),
    )


def component_map(
    values: xr.DataArray,
    *,
    label: str,
    notes: Sequence[str] = (),
    colors: Sequence[str] = _BLUES,
    limits: tuple[float, float] | None = None,
) -> go.Figure:
    """Heat map of a quantity by layer and module kind, on a logarithmic colour scale where values allow one.

    Parameters
    ----------
    values
        (component,) with the coordinates `kind` and `layer`. Components that share both are averaged.
    label
        What it is, with its unit.
    notes
        A line of HTML for each component, shown when hovering over it.
    colors
        Colours from the least value to the largest.
    limits
        Values at the ends of the scale, and what lies beyond is drawn like them; by default the 2 % quantile and the
        largest value, at most six decades apart.
    """
    kinds, layers, cells = _cells(values)
    grid = np.full((len(kinds), len(layers)), np.nan)
    texts = np.full(grid.shape, "", dtype=object)
    for (row, column), members in cells.items():
        grid[row, column] = values.values[members].mean()
        texts[row, column] = _hover(values, members, notes, label, float(grid[row, column]))
    is_log = bool((np.isfinite(grid) & (grid > 0)).any())
    with np.errstate(divide="ignore", invalid="ignore"):
        shown = np.where(np.isfinite(grid) & (grid > 0), np.log10(grid), np.nan) if is_log else grid
    low, high = _ends(shown, limits, is_log)
    heat = go.Heatmap(
        z=shown,
        x=[_OUTSIDE if layer < 0 else str(layer) for layer in layers],
        y=[html.escape(kind) for kind in kinds],
        text=texts.tolist(),
        hovertemplate="%{text}<extra></extra>",
        colorscale=list(colors),
        zmin=low,
        zmax=high,
        xgap=1,
        ygap=1,
        hoverongaps=False,
        colorbar=_colorbar(low, high, is_log),
    )
    figure = go.Figure(heat)
    dress(figure, height=134 + 24 * len(kinds))
    figure.update_xaxes(title_text="layer", type="category", showgrid=False, nticks=16, tickangle=0)
    figure.update_yaxes(type="category", autorange="reversed", showgrid=False, ticklabelstandoff=4)
    title = {"text": label, "font": {"size": 13}, "x": 0, "xref": "paper", "y": 1, "yref": "container", "pad": {"t": 8}}
    figure.update_layout(plot_bgcolor="#e4e4e4", margin_b=100, title=title)
    return figure


def _cells(values: xr.DataArray) -> tuple[list[str], list[int], dict[tuple[int, int], list[int]]]:
    """Kinds and layers, and which components stand in which cell; what is outside of the layers comes last."""
    kinds = list(dict.fromkeys(values["kind"].values.tolist()))
    layers = sorted(set(values["layer"].values.tolist()), key=lambda layer: (layer < 0, layer))
    cells: dict[tuple[int, int], list[int]] = {}
    for index, (kind, layer) in enumerate(zip(values["kind"].values, values["layer"].values, strict=True)):
        cells.setdefault((kinds.index(kind), layers.index(layer)), []).append(index)
    return kinds, layers, cells


def _hover(values: xr.DataArray, members: list[int], notes: Sequence[str], label: str, mean: float) -> str:
    names = [html.escape(str(values["component"].values[member])) for member in members]
    if len(members) > 1:
        return f"<b>{names[0]}</b> and {len(members) - 1} more<br>{label}, their mean: {format_number(mean)}"
    note = f"<br>{notes[members[0]]}" if notes else ""
    return f"<b>{names[0]}</b><br>{label}: {format_number(mean)}{note}"


def _notes(qualified: xr.Dataset) -> list[str]:
    """What is shown beside each component's js."""
    lines = []
    for index in range(qualified.sizes["component"]):
        one = qualified.isel(component=index)
        parts = [
            f"JS {format_error(float(one['js_component']), float(one['js_component_se']))} nat",
            f"share of MIUB {format_percent(float(one['share']))}",
        ]
        if "js_permuted" in one:
            parts.append(f"JS of permuted delta {format_number(float(one['js_permuted']))} nat")
        if "effective_width" in one:
            parts += [
                f"effective width {format_number(float(one['effective_width']))} of {int(one['d_out'])}",
                f"|delta| / |base| {format_number(float(one['delta_ratio']))}",
            ]
        if "delta_source" in one.coords and one["delta_source"].item() == "difference":
            parts.append("delta is a difference of outputs")
        lines.append("<br>".join(parts))
    return lines


def _ends(shown: np.ndarray, limits: tuple[float, float] | None, is_log: bool) -> tuple[float, float]:
    if limits is not None and is_log:
        return math.log10(limits[0]), math.log10(limits[1])
    known = shown[np.isfinite(shown)]
    low, high = (float(np.quantile(known, 0.02)), float(known.max())) if len(known) else (0.0, 1.0)
    low = max(low, high - 6) if is_log else low
    return (low, high) if high > low else (low - 0.5, low + 0.5)


def _colorbar(low: float, high: float, is_log: bool) -> dict[str, object]:
    bar: dict[str, object] = {
        "orientation": "h",
        "thickness": 10,
        "y": 0,
        "yref": "container",
        "yanchor": "bottom",
        "outlinewidth": 0,
    }
    if is_log:
        ticks = _log_ticks(low, high)
        digits = 1 if len(ticks) > 2 else 3
        bar["tickvals"] = [math.log10(tick) for tick in ticks]
        bar["ticktext"] = [format_number(tick, digits=digits).removeprefix("1·") for tick in ticks]
    return bar


def _log_ticks(low: float, high: float) -> list[float]:
    """Round values between two powers of ten: whole powers if there are enough of them, else 1, 2, 5."""
    steps: tuple[int, ...] = (1,) if high - low > 3 else (1, 3) if high - low > 1.5 else (1, 2, 5)
    powers = range(math.floor(low), math.ceil(high) + 1)
    ticks = [step * 10.0**power for power in powers for step in steps]
    inside = [tick for tick in ticks if low - 1e-9 <= math.log10(tick) <= high + 1e-9]
    return inside if len(inside) > 1 else [10**low, 10**high]
