"""Marks of groups beside each other: colour, symbol and dash, their entries in a legend, and what hovering tells."""

import html
from collections.abc import Sequence
from typing import Any, NamedTuple

import plotly.graph_objects as go  # type: ignore[import-untyped]  # plotly ships no types
from plotly.colors import sample_colorscale  # type: ignore[import-untyped]  # plotly ships no types

from .captions import shortened
from .theme import BELOW, COLORS, INK, LINES

SYMBOLS = ("circle", "square", "diamond", "cross", "x", "star", "hexagon", "pentagon", "hourglass", "bowtie")
"""Symbols of groups, the next one once all colours are used; triangles are what lies beyond an axis."""
EDGES = {"left": "triangle-left", "right": "triangle-right", "down": "triangle-down", "up": "triangle-up"}
"""Side of an axis -> symbol of what lies beyond it."""
DASHES = ("solid", "dash", "dot", "dashdot")
ORDERED = ("rank", "length", "layer", "position")
"""Keys of `group_by` and `group_runs` whose values have an order."""
LENGTHS = (24, 36, 54)
"""Characters that names are cut to: the first of these that tells them apart is taken."""


class Look(NamedTuple):
    """Colour, symbol and dash of a group."""

    color: str = INK
    symbol: str = "circle"
    dash: str = "solid"

    def marker(self, size: float, *, hollow: bool = False) -> dict[str, Any]:
        """Plotly's options of its points."""
        return {"color": self.color, "symbol": f"{self.symbol}-open" if hollow else self.symbol, "size": size}


BLACK = Look("#222", "diamond")
"""Look of means and estimates, which stand out from their groups."""


def looks(n: int, key: str | None = None) -> list[Look]:
    """Looks of a key's n values: pale to dark where they have an order; else colours first, then symbols and dashes."""
    if key in ORDERED:
        places = [0.75] if n == 1 else [0.35 + 0.65 * place / (n - 1) for place in range(n)]
        return [Look(color) for color in sample_colorscale(list(COLORS), places)]
    rounds = [(k % len(LINES), k // len(LINES)) for k in range(n)]
    return [Look(LINES[k], SYMBOLS[turn % len(SYMBOLS)], DASHES[turn % len(DASHES)]) for k, turn in rounds]


def points(look: Look, group: str, texts: Sequence[str], *, size: float = 6, **options: Any) -> go.Scatter:
    """Points of a group, with a text (HTML) each to hover over and no entry of their own in a legend.

    Plotly's options come last, and win.
    """
    marker = look.marker(size) | options.pop("marker", {})
    stroke = {"color": look.color, "dash": look.dash, "width": 1.5} | options.pop("line", {})
    hover = {"text": list(texts), "hovertemplate": "%{text}<extra></extra>"}
    shown = {"mode": "markers", "legendgroup": html.escape(group), "showlegend": False, "cliponaxis": False}
    return go.Scatter({"marker": marker, "line": stroke, **hover, **shown, **options})


def line(look: Look, group: str, *, width: float = 1.5, **options: Any) -> go.Scatter:
    """A line of a group that has nothing to hover over."""
    stroke = {"color": look.color, "dash": look.dash, "width": width}
    quiet = {"hoverinfo": "skip", "legendgroup": html.escape(group), "showlegend": False}
    return go.Scatter({"mode": "lines", "line": stroke, **quiet, **options})


def unique_labels(names: Sequence[str]) -> list[str]:
    """Names cut and escaped, as long as it takes to tell them apart."""
    for n in LENGTHS:
        short = [shortened(name, n) for name in names]
        if len(set(short)) == len(set(names)):
            return short
    return [html.escape(name) for name in names]


def add_legend(
    figure: go.Figure, title: str, names: Sequence[str], marks: Sequence[Look], *, mode: str = "markers"
) -> None:
    """Show a legend below, of which each entry stands for all traces of its group; of a single group there is none.

    Names and title are plain text; the figure is in the common theme and has all its traces. Its height grows by the
    legend's on a narrow screen.
    """
    if len(names) < 2:
        return
    shown = unique_labels(names)
    for name, entry, look in zip(names, shown, marks, strict=True):
        own = {"mode": mode, "name": entry, "showlegend": True, "hovertemplate": None}
        figure.add_trace(points(look, name, [], size=7, x=[None], y=[None], **own))
    heading = shortened(title)
    n_rows = sum(50 + 7 * len(name) for name in (heading, *shown)) // 340 + 1  # about as wide as a legend draws a name
    room = 40 + 19 * n_rows
    # No gap, as each entry would count as a block; a title above, as plotly wraps entries as if it took no width.
    above = {"text": heading, "font": {"size": 12}, "side": "top"}
    figure.update_layout(showlegend=True, legend={**BELOW, "title": above, "itemwidth": 30, "tracegroupgap": 0})
    figure.update_layout(margin_b=figure.layout.margin.b + room, height=figure.layout.height + room)
