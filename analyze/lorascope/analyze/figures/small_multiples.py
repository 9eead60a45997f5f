"""Panels of one kind beside and below each other, two across so that a phone shows them."""

from collections.abc import Sequence

import plotly.graph_objects as go  # type: ignore[import-untyped]  # plotly ships no types
from plotly.subplots import make_subplots  # type: ignore[import-untyped]  # plotly ships no types

from .theme import apply_theme

__all__ = ["small_multiples"]

ACROSS = 2
LINE = 14
"""Pixels of a line above a panel."""
AXIS = 52
"""Pixels of a panel's ticks and the title of its axis."""
CORNER = {"x": 0, "y": 1, "xref": "x domain", "yref": "y domain", "xanchor": "left", "yanchor": "bottom"}
"""Where a panel's title stands."""


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
