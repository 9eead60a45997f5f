"""A figure of several runs side by side, over what tells them apart."""

import html
import math
import re
from typing import Any

import numpy as np
import plotly.graph_objects as go  # type: ignore[import-untyped]  # plotly ships no types
import xarray as xr

from ..format import format_error, format_number
from .captions import group_name, headline, plural, range_of, shortened, tokens_reduced
from .scales import whole_ticks
from .theme import ORDERED, apply_theme, legend_below, line_styles

__all__ = ["runs_figure"]

NUMBERS = ("layer", "position")
"""Keys that are drawn to scale; other ordered ones at even steps."""


def runs_figure(table: xr.Dataset) -> go.Figure:
    """MIUB of several runs, in their unit, over the first key, with a line for each value of the second one.

    Bars are `miub_se`, the standard error over samples within runs. A first key without an order, as `run`, goes down
    the page, where long names have room, and its points aren't joined. Over layers, what lies outside is left out.

    Parameters
    ----------
    table
        What `side_by_side` returns by one or two keys.

    Raises
    ------
    ValueError
        If it has none or more than two keys, or goes by layer and nothing lies in one.
    """
    keys = [str(dim) for dim in table["miub"].dims] if "miub" in table else []
    if not 1 <= len(keys) <= 2:
        raise ValueError(f"`table` goes by {keys}; give what `side_by_side` returns by one or two keys")
    first, second = keys[0], keys[1] if len(keys) == 2 else None
    n_all = table.sizes[first]
    if first == "layer":
        table = table.isel(layer=np.flatnonzero(table["layer"].values >= 0))
        if not table.sizes["layer"]:
            raise ValueError("nothing in `table` lies in a layer, so there is no depth to draw")
    table = table.isel({key: _in_order(key, table[key].values.tolist()) for key in keys})
    lines = [table] if second is None else [table.isel({second: k}) for k in range(table.sizes[second])]
    names = [""] if second is None else [group_name(second, value) for value in table[second].values.tolist()]
    is_across, units = first in ORDERED, html.escape(table["miub"].attrs.get("units", table.attrs["units"]))
    figure = go.Figure()
    for line, name, style in zip(lines, names, line_styles(len(lines), second), strict=True):
        figure.add_trace(_points(line, first, name, style, units, is_across=is_across))
    apply_theme(figure, height=330 if is_across else 96 + table.sizes[first] * max(26, 15 * len(lines)))
    value_axis = {"title_text": f"MIUB ({units})", "rangemode": "tozero", "exponentformat": "power"}
    if is_across:
        figure.update_xaxes(title_text=first, **_ticks(first, table[first].values.tolist()))
        figure.update_yaxes(**value_axis)
    else:
        ticks = _ticks(first, table[first].values.tolist())
        figure.update_yaxes(**ticks, range=[table.sizes[first] - 0.5, -0.5], ticklabelstandoff=4)
        figure.update_xaxes(**value_axis, nticks=5)
        figure.update_layout(scattermode="group", scattergap=0.3)
    headline(
        figure,
        f"MIUB by {' and '.join(keys)}",
        f"{_run_words(table)}; bars: standard error over samples within runs. {tokens_reduced(table.attrs)}",
        "What lies outside of the layers is left out." if table.sizes[first] < n_all else "",
    )
    if second is not None:
        legend_below(figure, title=second, names=names)
    return figure


def _points(
    line: xr.Dataset, first: str, name: str, style: dict[str, Any], units: str, *, is_across: bool
) -> go.Scatter:
    """Points along one axis with bars along the other; groups without a run are gone."""
    labels = line[first].values.tolist()
    there = np.isfinite(line["miub"].values)
    places = np.asarray(labels if first in NUMBERS else range(len(labels)))[there]
    values, errors = line["miub"].values[there], line["miub_se"].values[there]
    bars = {"array": errors, "width": 4, "thickness": 1.5}
    texts = [_point_text(line.isel({first: k}), f"{first} {labels[k]}", name, units) for k in np.flatnonzero(there)]
    where = {"x": places, "y": values, "error_y": bars} if is_across else {"x": values, "y": places, "error_x": bars}
    return go.Scatter(
        **where,
        orientation="v" if is_across else "h",
        mode="lines+markers" if is_across else "markers",
        line={"width": 1.5, **style},
        marker={"size": 8, "color": style["color"]},
        name=name,
        text=texts,
        hovertemplate="%{text}<extra></extra>",
    )


def _point_text(point: xr.Dataset, label: str, name: str, units: str) -> str:
    n_runs, deviation = int(point["n_runs"]), float(point["miub_sd"])
    between = f", standard deviation between {n_runs} runs {format_number(deviation)}" if n_runs > 1 else ""
    value = format_error(float(point["miub"]), float(point["miub_se"]))
    return f"{html.escape(label)}{f', {name}' if name else ''}: {value} {units}{between}"


def _in_order(key: str, labels: list[Any]) -> list[int]:
    """Places by the numbers that labels of an ordered key begin with, `mixed` last; as they are for other keys."""
    if key not in ORDERED:
        return list(range(len(labels)))
    numbers = [re.match(r"\d+", str(label)) for label in labels]
    values = [float(number[0]) if number else math.inf for number in numbers]
    return sorted(range(len(labels)), key=lambda place: values[place])


def _ticks(key: str, labels: list[Any]) -> dict[str, Any]:
    if key in NUMBERS:
        return whole_ticks(min(labels), max(labels))
    return {"tickvals": list(range(len(labels))), "ticktext": [shortened(label) for label in labels]}


def _run_words(table: xr.Dataset) -> str:
    """How many runs a point stands for."""
    counts = range_of(table["n_runs"], "run")
    return f"{counts} a point" if counts == plural(1, "run") else f"Means over {counts} a point"
