"""Marks of groups beside each other: colour, symbol and dash, their entries in a legend, and what hovering tells."""

import html
from collections.abc import Sequence
from typing import Any, NamedTuple

import plotly.graph_objects as go  # type: ignore[import-untyped]  # plotly ships no types

from .captions import shortened
from .theme import INK, LINES, legend_below, line_styles

__all__ = ["BLACK", "EDGES", "SYMBOLS", "Look", "add_legend", "hovering", "line", "looks", "points", "unique_labels"]

SYMBOLS = ("circle", "square", "diamond", "cross", "x", "star", "hexagon", "pentagon", "hourglass", "bowtie")
"""Symbols of groups, the next one once all colours are used; triangles are what lies beyond an axis."""
EDGES = {"left": "triangle-left", "right": "triangle-right", "down": "triangle-down", "up": "triangle-up"}
"""Side of an axis -> symbol of what lies beyond it."""
TITLE = 16
"""Pixels of a legend's title."""
LENGTHS = (24, 36, 54)
"""Characters that names are cut to: the first of these that tells them apart is taken."""


class Look(NamedTuple):
    """How one group is drawn."""

    color: str = INK
    symbol: str = "circle"
    dash: str = "solid"

    def marker(self, size: float, *, hollow: bool = False) -> dict[str, Any]:
        """What plotly is told of its points."""
        return {"color": self.color, "symbol": f"{self.symbol}-open" if hollow else self.symbol, "size": size}


BLACK = Look("#222", "diamond")
"""How means and estimates stand out from their groups."""


def looks(n: int) -> list[Look]:
    """Looks of n groups without an order: colours first, then other symbols and dashes."""
    return [
        Look(style["color"], SYMBOLS[k // len(LINES) % len(SYMBOLS)], style["dash"])
        for k, style in enumerate(line_styles(n, None))
    ]


def points(look: Look, group: str, texts: Sequence[str], *, size: float = 6, **options: Any) -> go.Scatter:
    """Points of a group with a text each to hover over; plotly's options come last, and win."""
    marker = look.marker(size) | options.pop("marker", {})
    stroke = {"color": look.color, "dash": look.dash, "width": 1.5} | options.pop("line", {})
    return go.Scatter({"mode": "markers", "marker": marker, "line": stroke, **hovering(group, texts), **options})


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

    Names and title are plain text; the figure is in the common theme and has all its traces.
    """
    if len(names) < 2:
        return
    shown = unique_labels(names)
    for name, entry, look in zip(names, shown, marks, strict=True):
        figure.add_trace(
            points(
                look, name, [], size=7, x=[None], y=[None], mode=mode, name=entry, showlegend=True, hovertemplate=None
            )
        )
    legend_below(figure, title=shortened(title), names=shown)
    # No gap, as each entry would count as a block; a title above, as plotly wraps entries as if it took no width.
    bottom, height = figure.layout.margin.b + TITLE, figure.layout.height + TITLE
    figure.update_layout(legend_tracegroupgap=0, legend_title_side="top", margin_b=bottom, height=height)


def hovering(group: str, texts: Sequence[str]) -> dict[str, Any]:
    """What the points of a group have in common: escaped texts to hover over, and no entry of their own in a legend."""
    template = "%{text}<extra></extra>"
    return {"text": list(texts), "hovertemplate": template, "legendgroup": html.escape(group), "showlegend": False}
