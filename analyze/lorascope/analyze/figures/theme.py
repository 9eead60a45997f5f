"""Common look of all figures: colours, margins, panels, marks of groups, and legends."""

import html
from collections.abc import Sequence
from typing import Any, NamedTuple

import plotly.graph_objects as go  # type: ignore[import-untyped]  # plotly ships no types
from plotly.colors import sample_colorscale  # type: ignore[import-untyped]  # plotly ships no types
from plotly.subplots import make_subplots  # type: ignore[import-untyped]  # plotly ships no types

from .captions import shortened

COLORS = ("#fee6ce", "#fdbe85", "#fd8d3c", "#d94801", "#7f2704")
"""Colours from not moved to moved furthest; all colours here differ visibly from a light and a dark page."""
BLUES = ("#deebf7", "#9ecae1", "#6baed6", "#2171b5", "#08306b")
"""Colours from little to much."""
DIVERGING = ("#2166ac", "#92c5de", "#e0e0e0", "#f4a582", "#b2182b")
"""Colours from less to more, with a neutral middle."""
MISSING = "#9a9a9a"
"""Colour of a cell whose value isn't finite."""
NEARLY_WHITE = "#f4f4f4"
"""Colour of a cell whose value is 0, which a logarithmic scale doesn't have."""
INK = "#b8460a"
"""Colour of lines and points, dark enough on white."""
LINES = (INK, "#2171b5", "#238b45", "#6a51a3", "#c51b8a", "#8c6d31", "#d9a400", "#555555")
"""Colours of lines without an order."""
ACROSS = 2
"""Number of panels per row."""
LINE = 14
"""Pixels of a line of text above a panel."""
AXIS = 52
"""Pixels of a panel's ticks and the title of its axis."""
BELOW = {"orientation": "h", "y": 0, "yref": "container", "yanchor": "bottom", "x": 0.01, "xref": "container"}
"""Position of legends, as options of plotly."""
CORNER = {"x": 0, "y": 1, "xref": "x domain", "yref": "y domain", "xanchor": "left", "yanchor": "bottom"}
"""Position of a panel's title, as options of plotly."""
SYMBOLS = ("circle", "square", "diamond", "cross", "x", "star", "hexagon", "pentagon", "hourglass", "bowtie")
"""Symbols of groups; the next one is used once all colours are used. Triangles mark values beyond an axis."""
EDGES = {"left": "triangle-left", "right": "triangle-right", "down": "triangle-down", "up": "triangle-up"}
"""Side of an axis -> symbol of values beyond it."""
DASHES = ("solid", "dash", "dot", "dashdot")
"""Dashes of groups, used like symbols."""
ORDERED = ("rank", "length", "layer", "position")
"""Keys of `group_by` whose values have an order."""
LENGTHS = (24, 36, 54)
"""Lengths to which names are cut: the first length at which they differ is used."""


def apply_theme(figure: go.Figure, *, height: int) -> None:
    """Give a figure the common look and a height in pixels; its width is that of the page."""
    figure.update_layout(
        template=go.layout.Template(),  # an empty one: plotly's own are 7 kB a figure
        plot_bgcolor="rgba(0,0,0,0)",
        height=height,
        autosize=True,
        showlegend=False,
        legend={"bgcolor": "rgba(0,0,0,0)"},
        margin={"l": 10, "r": 10, "t": 30, "b": 10},
        font={"family": "system-ui, sans-serif", "size": 12, "color": "#222"},
        hoverlabel={"align": "left", "bgcolor": "white", "font": {"color": "#222"}},
        paper_bgcolor="white",
    )
    axis = {"showgrid": False, "zeroline": False, "showline": True, "linecolor": "#555", "ticks": "outside"}
    figure.update_xaxes(automargin=True, **axis)
    figure.update_yaxes(automargin=True, **axis)


def small_multiples(
    titles: Sequence[str], *, height: int, share_y: bool = True
) -> tuple[go.Figure, list[dict[str, int]]]:
    """Return an empty figure in the common look with one panel per title, and each panel's row and column.

    Titles are HTML with `<br>` between lines; `height` is that of a panel, in pixels, without its title and ticks.
    Panels that share their y axis only show its ticks on the left.
    """
    n_rows, n_columns = -(-len(titles) // ACROSS), min(ACROSS, len(titles))
    above = LINE * max(title.count("<br>") + 1 for title in titles) + 6
    gap = above + AXIS
    whole = n_rows * height + (n_rows - 1) * gap
    spacing = {"vertical_spacing": gap / whole, "horizontal_spacing": 0.06 if share_y else 0.16}
    figure = make_subplots(rows=n_rows, cols=n_columns, shared_yaxes="all" if share_y else False, **spacing)
    apply_theme(figure, height=whole + above + AXIS + 40)
    figure.update_layout(margin_t=figure.layout.margin.t + above)
    panels = [{"row": k // ACROSS + 1, "col": k % ACROSS + 1} for k in range(n_rows * n_columns)]
    for title, panel in zip(titles, panels, strict=False):
        note = {"text": title, "align": "left", "showarrow": False, "font": {"size": 11}}
        figure.add_annotation(**note, **CORNER, **panel)
    small = {"title_font_size": 12, "title_standoff": 4}
    figure.update_xaxes(nticks=4, tickangle=0, **small)
    figure.update_yaxes(nticks=5, **small)
    for panel in panels[len(titles) :]:  # the rest of the last row
        figure.update_xaxes(visible=False, **panel)
        figure.update_yaxes(visible=False, **panel)
    return figure, panels[: len(titles)]


class Look(NamedTuple):
    """Colour, symbol and dash that mark a group in a figure."""

    color: str = INK
    symbol: str = "circle"
    dash: str = "solid"

    def marker(self, size: float, *, hollow: bool = False) -> dict[str, Any]:
        """Return plotly's options for the group's points."""
        return {"color": self.color, "symbol": f"{self.symbol}-open" if hollow else self.symbol, "size": size}


BLACK = Look("#222", "diamond")
"""Look of means and estimates, different from all groups."""


def looks(n: int, key: str | None = None) -> list[Look]:
    """Return n looks for values of a key: pale to dark if they have an order; else different colours and symbols."""
    if key in ORDERED:
        places = [0.75] if n == 1 else [0.35 + 0.65 * place / (n - 1) for place in range(n)]
        return [Look(color) for color in sample_colorscale(list(COLORS), places)]
    rounds = [(k % len(LINES), k // len(LINES)) for k in range(n)]
    return [Look(LINES[k], SYMBOLS[turn % len(SYMBOLS)], DASHES[turn % len(DASHES)]) for k, turn in rounds]


def points(look: Look, group: str, texts: Sequence[str], *, size: float = 6, **options: Any) -> go.Scatter:
    """Return a plotly trace of a group's points, each with a text (HTML) to hover over, without a legend entry.

    `options` are plotly's, and override those that are set here.
    """
    marker = look.marker(size) | options.pop("marker", {})
    stroke = {"color": look.color, "dash": look.dash, "width": 1.5} | options.pop("line", {})
    hover = {"text": list(texts), "hovertemplate": "%{text}<extra></extra>"}
    shown = {"mode": "markers", "legendgroup": html.escape(group), "showlegend": False, "cliponaxis": False}
    return go.Scatter({"marker": marker, "line": stroke, **hover, **shown, **options})


def line(look: Look, group: str, *, width: float = 1.5, **options: Any) -> go.Scatter:
    """Return a plotly trace of a group's line, without texts to hover over and without a legend entry."""
    stroke = {"color": look.color, "dash": look.dash, "width": width}
    quiet = {"hoverinfo": "skip", "legendgroup": html.escape(group), "showlegend": False}
    return go.Scatter({"mode": "lines", "line": stroke, **quiet, **options})


def unique_labels(names: Sequence[str]) -> list[str]:
    """Return names, escaped, and shortened as far as they stay different."""
    for n in LENGTHS:
        short = [shortened(name, n) for name in names]
        if len(set(short)) == len(set(names)):
            return short
    return [html.escape(name) for name in names]


def add_legend(
    figure: go.Figure, title: str, names: Sequence[str], marks: Sequence[Look], *, mode: str = "markers"
) -> None:
    """Add a legend below a figure, with one entry per group; a single group gets no legend.

    Names and title are plain text. The figure must be in the common look and have all its traces. Its height grows by
    that of the legend on a narrow screen.
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
