"""Common look of all figures: colours, type, margins, and panels side by side."""

from collections.abc import Sequence

import plotly.graph_objects as go  # type: ignore[import-untyped]  # plotly ships no types
from plotly.subplots import make_subplots  # type: ignore[import-untyped]  # plotly ships no types

COLORS = ("#fee6ce", "#fdbe85", "#fd8d3c", "#d94801", "#7f2704")
"""Colours from not moved to moved furthest; like those below, none is too pale to tell from a page, light or dark."""
BLUES = ("#deebf7", "#9ecae1", "#6baed6", "#2171b5", "#08306b")
"""Colours from little to much."""
DIVERGING = ("#2166ac", "#92c5de", "#e0e0e0", "#f4a582", "#b2182b")
"""Colours from less to more, with a middle."""
MISSING = "#9a9a9a"
"""Colour of a cell that has none on its scale."""
INK = "#b8460a"
"""Colour of lines and points, dark enough on white."""
LINES = (INK, "#2171b5", "#238b45", "#6a51a3", "#c51b8a", "#8c6d31", "#d9a400", "#555555")
"""Colours of lines beside each other that have no order."""
ACROSS = 2
LINE = 14
"""Pixels of a line above a panel."""
AXIS = 52
"""Pixels of a panel's ticks and the title of its axis."""
BELOW = {"orientation": "h", "y": 0, "yref": "container", "yanchor": "bottom", "x": 0.01, "xref": "container"}
"""Place of legends."""
CORNER = {"x": 0, "y": 1, "xref": "x domain", "yref": "y domain", "xanchor": "left", "yanchor": "bottom"}
"""Place of a panel's title."""


def apply_theme(figure: go.Figure, *, height: int) -> None:
    """Give a figure the common look and a height in pixels; its width follows the page."""
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
    """An empty figure, in the common theme, with a panel for each title, and the row and column of each.

    Titles are escaped, their lines separated by `<br>`; `height` is that of a panel, in pixels, without its title and
    ticks. Panels that share their y axis show its ticks on the left only.
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
    for panel in panels[len(titles) :]:  # what is left of the last row
        figure.update_xaxes(visible=False, **panel)
        figure.update_yaxes(visible=False, **panel)
    return figure, panels[: len(titles)]
