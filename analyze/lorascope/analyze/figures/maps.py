"""Heat maps of a run's components by layer and kind of module, such as of JS (Jensen-Shannon divergence)."""

import html
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd  # type: ignore[import-untyped]
import plotly.graph_objects as go  # type: ignore[import-untyped]  # plotly ships no types
import xarray as xr

from lorascope.analyze.results.format import format_error, format_number, format_percent
from lorascope.analyze.results.tree import require_result

from .captions import headline, plural, run_name, shortened, tokens_reduced
from .scales import colorbar, ends
from .theme import BLUES, COLORS, DIVERGING, MISSING, NEARLY_WHITE, apply_theme

_OUTSIDE = "outside"
_UNCOLOURED = (
    ("0", NEARLY_WHITE, "exactly 0"),
    ("?", MISSING, "not finite"),
    ("", "rgba(0,0,0,0)", "no such component"),
)
"""Mark, colour and meaning of the cells that have no value on the colour scale."""
MOST_PIXELS = 1024
"""Most pixels of the rows together: 24 each, less if there are more than 42, such as experts."""
N_LETTERS = 24
"""Length to which names of kinds are cut, so that a phone has room for the map."""


def js_figure(result: xr.DataTree, *, titled: bool = True) -> go.Figure:
    """Draw a heat map of where the adapter acts: mean Jensen-Shannon divergence by layer and kind of module.

    Values (JS) are in the result's unit. The darker a cell, the further the adapter moves this component's output;
    colours are on a logarithmic scale. A cell is marked 0 if its JS is exactly 0, ? if it isn't finite, and empty if
    there is no such component. Hovering shows the component's name, its JS with standard error, its share of MIUB, and
    measures that qualify them.

    Parameters
    ----------
    result
        Result of `miub` or `qualify`.
    titled
        Whether sentences below the title describe the numbers; the report has them in its captions.

    Returns
    -------
    plotly.graph_objects.Figure
        Modules down, layers across, the colour scale below.
    """
    require_result(result)
    js, attrs = result.dataset["js"], result.dataset.attrs
    limits = None if bool((js > 0).any()) else (0.0, 1.0)  # zeros in the colour of not moved
    n = plural(attrs["n_samples"], "sample")
    note = f"{run_name(attrs)}. Mean over samples; n\u00a0=\u00a0{n}. {tokens_reduced(attrs)}"
    options: dict[str, Any] = {"limits": limits, "note": note if titled else ""}
    return component_figure(
        js, label=f"mean JS ({attrs['units']})", colors=COLORS, notes=_component_notes(result), **options
    )


def null_figure(qualified: xr.DataTree) -> go.Figure:
    """Draw a heat map of each component's JS divided by that of its delta with permuted features, by layer and kind.

    Red, above 1: delta is large at features with much of the softmax's mass, so the adapter moves the output further
    than a change of equal size in random features. Blue, below 1: delta is large at other features. White: as random.

    Parameters
    ----------
    qualified
        Result of `qualify`, for a run that keeps states.

    Returns
    -------
    plotly.graph_objects.Figure
        Modules down, layers across, the colour scale, logarithmic and symmetric about 1, below.

    Raises
    ------
    KeyError
        If the result has no `js_permuted`, as the run keeps no states.
    """
    require_result(qualified)
    js, permuted = (qualified.dataset[name].values for name in ("js", "js_permuted"))
    ratio = np.divide(js, permuted, out=np.full_like(js, np.nan), where=permuted > 0)
    values = qualified.dataset["js"].copy(data=ratio)
    # A few components whose softmax is all but one-hot would stretch the scale over many decades.
    distances = np.abs(np.log10(ratio[np.isfinite(ratio) & (ratio > 0)]))
    reach = max(float(np.quantile(distances, 0.98)) if len(distances) else 0.0, math.log10(2))
    limits = (10**-reach, 10**reach)
    label, notes = "JS / JS of permuted delta", _component_notes(qualified)
    return component_figure(values, label=label, colors=DIVERGING, limits=limits, notes=notes)


def expert_figure(experts: xr.Dataset) -> go.Figure:
    """Draw a heat map of where the adapter acts among the experts of a mixture: MIUB by layer and expert.

    The darker a cell, the further the adapter moves this expert's own output, on a logarithmic scale. A cell is empty
    if no token is routed to the expert. Hovering shows MIUB with its standard error, the size of the change, the share
    of tokens, and in stream `pair` that of the base, and what the expert gets only with the adapter.

    Parameters
    ----------
    experts
        Result of `experts` by layer and expert.

    Returns
    -------
    plotly.graph_objects.Figure
        Experts down, layers across, the colour scale below.
    """
    frame = experts.to_dataframe().reset_index().sort_values(["expert", "layer"])
    frame = frame[frame["n_tokens"] > 0]
    units = html.escape(experts.attrs["units"])
    notes = []
    for row in frame.to_dict("records"):
        share = f"gets {format_percent(row['share'])} of the tokens ({row['n_tokens']})"
        if "gained" in row:
            share += f", {format_percent(row['base_share'])} without the adapter"
            share += f"<br>{format_percent(row['gained'])} only with the adapter"
        notes.append(
            f"MIUB ({units}): {format_error(row['miub'], row['miub_se'])}<br>"
            f"|delta| / |base| {format_number(row['delta_ratio'])}<br>{share}"
        )
    names = [f"layer {layer}, expert {expert}" for layer, expert in zip(frame["layer"], frame["expert"], strict=True)]
    labels = {"component": names, "kind": frame["expert"].astype(str), "layer": frame["layer"]}
    coords = {name: ("component", label) for name, label in labels.items()}
    values = xr.DataArray(frame["miub"].values, dims="component", coords=coords)
    options: dict[str, Any] = {"notes": notes, "colors": COLORS, "rows": "expert", "empty": "no tokens"}
    options["kinds"] = experts["expert"].values.astype(str).tolist()
    return component_figure(values, label=f"MIUB ({experts.attrs['units']})", **options)


def component_figure(
    values: xr.DataArray,
    *,
    label: str,
    notes: Sequence[str] = (),
    colors: Sequence[str] | None = None,
    limits: tuple[float, float] | None = None,
    note: str = "",
    kinds: Sequence[str] = (),
    rows: str = "",
    empty: str = _UNCOLOURED[2][2],
) -> go.Figure:
    """Draw a heat map of any value per component, by layer and module kind.

    Colours are on a logarithmic scale, with marks where a value is 0 or not finite. If a value is negative, such as
    a difference, the scale is linear, blue below 0 and red above.

    Parameters
    ----------
    values
        (component,) with the coordinates `kind` and `layer`. Components that share both are averaged.
    label
        Name of the value with its unit, as plain text.
    notes
        HTML for each component, shown when hovering over it; it replaces the value if it begins with `label`.
    colors
        Colours from the least value to the largest.
    limits
        Values at the ends of the scale; values beyond are drawn like them. A lower limit of 0 or less makes the scale
        linear. By default the 2 % quantile and the largest value, at most six decades apart; if there are negative
        values, the largest distance from 0 on both sides.
    note
        Sentences below the title; the report has captions instead.
    kinds
        Kinds in the order of their rows, also those without a component; by default those of the components.
    rows
        Title of the rows, if they aren't kinds of modules.
    empty
        Meaning of cells without a value, by default that there is no such component.

    Returns
    -------
    plotly.graph_objects.Figure
        Modules down, layers across, components outside of the layers last, the colour scale below.

    Raises
    ------
    ValueError
        If `limits` can't be the ends of a scale.
    """
    frame = pd.DataFrame({"kind": values["kind"].values, "layer": values["layer"].values})
    kinds = list(kinds or dict.fromkeys(frame["kind"]))
    layers = sorted(set(frame["layer"]), key=lambda layer: (layer < 0, layer))  # components outside of layers come last
    grid = np.full((len(kinds), len(layers)), np.nan)
    names, numbers = values["component"].values, values.values
    exists, texts = np.zeros(grid.shape, bool), np.full(grid.shape, empty, dtype=object)
    for (kind, layer), members in frame.groupby(["kind", "layer"]).indices.items():
        cell = kinds.index(kind), layers.index(layer)
        exists[cell], grid[cell] = True, numbers[members].mean()
        texts[cell] = _hover_text(names, members.tolist(), notes, label, float(grid[cell]))
    finite = grid[np.isfinite(grid)]
    if is_signed := bool((finite < 0).any()):
        reach = float(np.abs(finite).max())
        limits = (-reach, reach) if limits is None else limits
    colors = colors or (DIVERGING if is_signed else BLUES)
    is_log = bool((finite > 0).any() and (finite >= 0).all()) and (limits is None or limits[0] > 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        drawn = np.where(np.isfinite(grid) & (grid > 0), np.log10(grid), np.nan) if is_log else grid
    low, high = limits if limits is not None and not is_log else ends(drawn, limits, is_log)
    columns = [_OUTSIDE if layer < 0 else str(layer) for layer in layers]
    escaped = [html.escape(kind) for kind in kinds]
    heat = heat_map(drawn, columns, escaped, texts.tolist(), colors, (low, high), is_log).update(xgap=1, ygap=1)
    figure, legend = go.Figure(heat), []
    places = np.isfinite(grid) & ~np.isfinite(drawn), ~np.isfinite(grid) & exists, ~exists
    for (mark, color, meaning), place in zip(_UNCOLOURED, places, strict=True):
        if place.any():
            cells = go.Heatmap(heat).update(z=np.where(place, low, np.nan), colorscale=[color] * 2, showscale=False)
            cells.update(hovertext=np.where(place, texts, "").tolist(), hovertemplate="%{hovertext}<extra></extra>")
            figure.add_trace(cells.update(text=np.where(place, mark, "").tolist(), texttemplate="%{text}"))
            look = f"Marked\u00a0{mark}" if mark else "Empty"
            legend.append(f"{look}: {meaning if mark else empty} ({place.sum()}).")
    apply_theme(figure, height=128 + min(24 * len(kinds), MOST_PIXELS))
    # Categories are pinned, so that labels stay where no cell has a value.
    figure.update_xaxes(title_text="layer", type="category", categoryorder="array", categoryarray=columns)
    most = 10 if max(map(len, kinds)) < N_LETTERS / 2 else 6  # long kinds leave a phone half the room
    step = -(-len(columns) // most)
    ticks = [*columns[:-step:step], _OUTSIDE] if _OUTSIDE in columns else columns[::step]
    figure.update_xaxes(range=[-0.5, len(columns) - 0.5], tickvals=ticks, tickangle=0, title_standoff=8)
    figure.update_yaxes(type="category", categoryorder="array", categoryarray=escaped, range=[len(escaped) - 0.5, -0.5])
    step = -(-14 * len(kinds) // MOST_PIXELS)  # a label takes 14 pixels
    ticktext = [shortened(kind, N_LETTERS) for kind in kinds[::step]]
    figure.update_yaxes(tickvals=escaped[::step], ticktext=ticktext, ticklabelstandoff=4, title_text=rows)
    figure.update_layout(margin={"t": 36, "b": 88})
    headline(figure, label, note, *legend)
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
    """Return a plotly heat map of values (y, x), with texts to hover over and a colour bar below.

    Values and `ends` are powers of ten if `is_log`.
    """
    scale = {"colorscale": list(colors), "zmin": ends[0], "zmax": ends[1], "colorbar": colorbar(*ends, is_log)}
    hover = {"text": texts, "hovertemplate": "%{text}<extra></extra>", "hoverongaps": False}
    return go.Heatmap(z=values, x=x, y=y, **scale, **hover)


def _hover_text(components: np.ndarray, members: list[int], notes: Sequence[str], label: str, mean: float) -> str:
    """Return the hover text (HTML) of a cell: its component with value and note, or its first one and their mean."""
    label = html.escape(label)
    names = [html.escape(str(components[member])) for member in members]
    if len(members) > 1:
        return f"<b>{names[0]}</b> and {len(members) - 1} more<br>{label}, their mean: {format_number(mean)}"
    note = notes[members[0]] if notes else ""
    value = "" if note.startswith(label) else f"{label}: {format_number(mean)}"
    return "<br>".join(filter(None, (f"<b>{names[0]}</b>", value, note)))


def _component_notes(result: xr.DataTree) -> list[str]:
    """Return one hover note (HTML) per component: JS, its share of MIUB, and measures to judge it by."""
    lines, units, table = [], html.escape(result.attrs["units"]), result.to_dataset()
    for index in range(table.sizes["component"]):
        row = table.isel(component=index)
        parts = [
            f"mean JS ({units}): {format_error(float(row['js']), float(row['js_se']))}",
            f"share of MIUB {format_percent(float(row['share']))}",
        ]
        if "js_permuted" in row:
            parts.append(f"JS of permuted delta {format_number(float(row['js_permuted']))} nat")
        if "effective_width" in row:
            parts.append(f"effective width {format_number(float(row['effective_width']))} of {int(row['d_out'])}")
            parts.append(f"|delta| / |base| {format_number(float(row['delta_ratio']))}")
        if "delta_source" in row.coords and row["delta_source"].item() == "difference":
            parts.append("delta is a difference of outputs")
        lines.append("<br>".join(parts))
    return lines
