"""A figure of a claimed trend: responses along levels by group, and the steps that don't go as claimed."""

import html
from collections.abc import Iterator

import numpy as np
import pandas as pd  # type: ignore[import-untyped]
import plotly.graph_objects as go  # type: ignore[import-untyped]  # plotly ships no types

from ..format import format_number
from ..stats.trends import TrendResult
from .captions import headline, plural, shortened
from .marks import Look, add_legend, hovering, looks
from .size_axes import size_axis, tick_text
from .theme import apply_theme

__all__ = ["trend_figure"]

AGAINST = "#d62728"
"""Steps that don't go as claimed."""


def trend_figure(result: TrendResult) -> go.Figure:
    """Responses along levels, a line a group that begins at 0, in % of its value at the lowest level.

    Steps that don't go as claimed are thick and red. Cells of one group and level are averaged. Where a response isn't
    above zero, lines are differences in its unit. Levels are on a logarithmic axis where all are above zero.

    Parameters
    ----------
    result
        What `trend_tests` returns.
    """
    groups, levels = list(dict.fromkeys(result.series["group"])), result.series["level"]
    marks = looks(len(groups))
    is_relative = result.series["mean"].min() > 0
    figure = go.Figure()
    for (_, one), look in zip(result.series.groupby("group", sort=False), marks, strict=True):
        figure.add_traces(list(_lines(result, one, look, is_relative=is_relative)))
    apply_theme(figure, height=360)
    figure.update_xaxes(
        title_text=shortened(result.along), **(size_axis(levels.to_numpy()) if levels.min() > 0 else {"nticks": 6})
    )
    response = shortened(result.response)
    what = f"change of {response}{' (%)' if is_relative else ''}"
    figure.update_yaxes(title_text=what, zeroline=True, zerolinecolor="#bbb", nticks=7)
    headline(figure, f"Claim: {result.response} {result.direction} along {result.along}", *_caption(result))
    add_legend(figure, "/".join(result.groups), groups, marks, mode="lines+markers")
    return figure


def _lines(result: TrendResult, series: pd.DataFrame, look: Look, *, is_relative: bool) -> Iterator[go.Scatter]:
    group, (levels, means) = series["group"].iloc[0], series[["level", "mean"]].to_numpy().T
    values = 100 * (means / means[0] - 1) if is_relative else means - means[0]
    table = result.violations[result.violations["group"] == group]
    x: list[float | None] = []
    y: list[float | None] = []
    for lower in table["lower"]:
        k = int(np.flatnonzero(levels == lower)[0])
        x += [*levels[k : k + 2].tolist(), None]
        y += [*values[k : k + 2].tolist(), None]
    if x:
        line = {"color": AGAINST, "width": 6}
        yield go.Scatter(
            x=x, y=y, mode="lines", line=line, opacity=0.45, hoverinfo="skip", legendgroup=html.escape(group),
            showlegend=False,
        )  # fmt: skip
    texts = [
        f"<b>{html.escape(group)}</b><br>{html.escape(result.along)} {tick_text(level)}: "
        f"{html.escape(result.response)} {format_number(mean, digits=6)}"
        for level, mean in zip(levels, means, strict=True)
    ]
    yield go.Scatter(
        x=levels,
        y=values,
        mode="lines+markers",
        marker=look.marker(6),
        line={"color": look.color, "dash": look.dash, "width": 1.5},
        **hovering(group, texts),
    )


def _caption(result: TrendResult) -> Iterator[str]:
    n, n_groups = int(result.series["n_cells"].sum()), result.series["group"].nunique()
    yield f"n\u00a0=\u00a0{plural(n, 'cell')} in {plural(n_groups, 'group')}, each against its lowest level."
    steps = plural(result.n_steps, "step")
    yield f"Red: {len(result.violations)} of {steps} between neighbouring levels, not as claimed."
    yield f"Page's L, one-sided: p = {format_number(result.p_value, digits=2)}."
