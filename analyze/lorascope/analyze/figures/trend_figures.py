"""A figure of a claimed trend: responses along levels by group, and the steps that don't go as claimed."""

import html
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd  # type: ignore[import-untyped]
import plotly.graph_objects as go  # type: ignore[import-untyped]  # plotly ships no types

from ..format import format_number
from ..stats.frame import checked
from ..stats.record import data_hash
from ..stats.trends import Series, TrendResult, group_series
from .captions import headline, plural, shortened
from .marks import Look, add_legend, line, looks, points
from .size_axes import size_axis, tick_text
from .theme import apply_theme

__all__ = ["trend_figure"]

AGAINST = Look("#d62728")
"""How steps are drawn that don't go as claimed."""


def trend_figure(result: TrendResult, frame: pd.DataFrame) -> go.Figure:
    """Responses along levels, a line a group that begins at 0, in % of its value at the lowest level.

    Steps that don't go as claimed are thick and red. Cells of one group and level are averaged. Where a response isn't
    above zero, lines are differences in its unit. Levels are on a logarithmic axis where all are above zero.

    Parameters
    ----------
    result
        What `trend_tests` returns.
    frame
        The table that it was given.

    Raises
    ------
    TypeError
        If `frame` isn't a DataFrame.
    ValueError
        If `frame` isn't that table.
    """
    series = _series(result, frame)
    marks = looks(len(series))
    is_relative = all(one.means.min() > 0 for one in series)
    figure = go.Figure()
    for one, look in zip(series, marks, strict=True):
        figure.add_traces(list(_lines(result, one, look, is_relative=is_relative)))
    apply_theme(figure, height=360)
    levels = np.concatenate([one.levels for one in series])
    axis = size_axis(levels) if levels.min() > 0 else {"nticks": 6}
    figure.update_xaxes(title_text=shortened(result.along), **axis)
    what = f"change of {shortened(result.response)}{' (%)' if is_relative else ''}"
    figure.update_yaxes(title_text=what, zeroline=True, zerolinecolor="#bbb", nticks=7)
    n = plural(sum(one.n_cells for one in series), "cell")
    headline(
        figure,
        f"Claim: {result.response} {result.direction} along {result.along}",
        f"n\u00a0=\u00a0{n} in {plural(len(series), 'group')}, each against its lowest level.",
        f"Red: {len(result.violations)} of {plural(result.n_steps, 'step')} between neighbouring levels, not as "
        f"claimed. Page's L, one-sided: p = {format_number(result.p_value, digits=2)}.",
    )
    add_legend(figure, "/".join(result.groups), [one.group for one in series], marks, mode="lines+markers")
    return figure


def _series(result: TrendResult, frame: pd.DataFrame) -> Sequence[Series]:
    """The groups of the result, read again as they were then."""
    numbers, labels = [result.response, result.along], list(result.groups)
    cells = checked(frame, numbers=numbers, labels=labels, may_lack=[result.response])
    rows = cells.frame.reset_index(drop=True)
    if data_hash(rows) != result.provenance["data_sha256"]:
        raise ValueError(
            f"`frame` isn't the table of this result: the columns in use, of {plural(len(rows), 'row')}, have another "
            "hash; give the one that `trend_tests` was given"
        )
    return group_series(rows, result.response, result.along, result.groups)[0]


def _lines(result: TrendResult, series: Series, look: Look, *, is_relative: bool) -> Iterator[go.Scatter]:
    first = series.means[0]
    values = 100 * (series.means / first - 1) if is_relative else series.means - first
    lower = result.violations["lower"][result.violations["group"] == series.group]
    steps = [k for k in range(len(values) - 1) if series.levels[k] in set(lower)]
    if steps:
        x, y = ([one for k in steps for one in (*part[k : k + 2], None)] for part in (series.levels, values))
        yield line(AGAINST, series.group, width=6, x=x, y=y, opacity=0.45)
    texts = [
        f"<b>{html.escape(series.group)}</b><br>{html.escape(result.along)} {tick_text(level)}: "
        f"{html.escape(result.response)} {format_number(mean, digits=6)}"
        for level, mean in zip(series.levels, series.means, strict=True)
    ]
    yield points(look, series.group, texts, x=series.levels, y=values, mode="lines+markers")
