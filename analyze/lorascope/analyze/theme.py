"""What all figures share: colours, type and margins."""

import plotly.graph_objects as go  # type: ignore[import-untyped]  # plotly ships no types

__all__ = ["COLORS", "INK", "dress"]

COLORS = ("#fff5eb", "#fdd0a2", "#fd8d3c", "#d94801", "#7f2704")
"""From not moved to moved furthest."""
INK = "#b8460a"
"""Lines and points in the same hue, dark enough on white."""


def dress(figure: go.Figure, *, height: int) -> None:
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
