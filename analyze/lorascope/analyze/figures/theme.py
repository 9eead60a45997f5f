"""What all figures share: colours, type and margins."""

from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go  # type: ignore[import-untyped]  # plotly ships no types
from plotly.colors import sample_colorscale  # type: ignore[import-untyped]  # plotly ships no types

__all__ = ["COLORS", "DIVERGING", "INK", "LINES", "ORDERED", "apply_theme", "legend_below", "line_styles"]

COLORS = ("#fff5eb", "#fdd0a2", "#fd8d3c", "#d94801", "#7f2704")
"""Colours from not moved to moved furthest."""
DIVERGING = ("#2166ac", "#92c5de", "#f7f7f7", "#f4a582", "#b2182b")
"""Colours from less to more, with a middle."""
INK = "#b8460a"
"""Colour of lines and points, dark enough on white."""
LINES = (INK, "#2171b5", "#238b45", "#6a51a3", "#c51b8a", "#8c6d31", "#17859b", "#555555")
"""Colours of lines beside each other that have no order."""
ORDERED = ("rank", "length", "layer", "position")
"""Keys of `group_by` and `side_by_side` whose values have one."""


def apply_theme(figure: go.Figure, *, height: int) -> None:
    """Give a figure the common look and a height in pixels; its width follows the page."""
    figure.update_layout(
        template=go.layout.Template(),  # an empty one: plotly's own are 7 kB a figure
        plot_bgcolor="white",
        height=height,
        autosize=True,
        showlegend=False,
        margin={"l": 10, "r": 10, "t": 30, "b": 10},
        font={"family": "system-ui, sans-serif", "size": 12, "color": "#222"},
        hoverlabel={"align": "left", "bgcolor": "white", "font": {"color": "#222"}},
        paper_bgcolor="white",
    )
    axis = {"showgrid": False, "zeroline": False, "showline": True, "linecolor": "#555", "ticks": "outside"}
    figure.update_xaxes(automargin=True, **axis)
    figure.update_yaxes(automargin=True, **axis)


def legend_below(figure: go.Figure, *, title: str, names: Sequence[str]) -> None:
    """Show a legend below the plot, with room for it on a narrow screen; of a single name there is none."""
    if len(names) < 2:
        return
    n_rows = sum(50 + 7 * len(name) for name in (title, *names)) // 340 + 1  # about as wide as a legend draws a name
    room = 24 + 19 * n_rows
    place = {"orientation": "h", "y": 0, "yref": "container", "yanchor": "bottom", "x": 0.01, "xref": "container"}
    heading = {"text": f"{title}  ", "font": {"size": 12}}
    bottom, height = figure.layout.margin.b + room, figure.layout.height + room
    figure.update_layout(legend={**place, "title": heading, "itemwidth": 30}, showlegend=True)
    figure.update_layout(margin_b=bottom, height=height)


def line_styles(n: int, key: str | None) -> list[dict[str, Any]]:
    """Colour and dash of a line for each of a key's n values: pale to dark where they have an order; else hues."""
    if key in ORDERED:
        places = [0.35 + 0.65 * place / max(n - 1, 1) for place in range(n)] if n > 1 else [0.75]
        return [{"color": color, "dash": "solid"} for color in sample_colorscale(list(COLORS), places)]
    dashes = ("solid", "dash", "dot", "dashdot")
    return [{"color": LINES[k % len(LINES)], "dash": dashes[k // len(LINES) % len(dashes)]} for k in range(n)]
