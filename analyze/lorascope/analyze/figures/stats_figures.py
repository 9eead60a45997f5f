"""Figures of a table: metrics as predictors of accuracy, and a claimed trend along levels."""

import html
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd  # type: ignore[import-untyped]
import plotly.graph_objects as go  # type: ignore[import-untyped]  # plotly ships no types

from ..format import format_number
from ..stats.correlations import centred
from ..stats.frame import checked
from ..stats.metrics import MetricComparison
from ..stats.record import data_hash
from ..stats.study_cells import StudyCells, parse_metrics, read_cells
from ..stats.trends import Series, TrendResult, group_series
from .captions import headline, plural, shortened
from .marks import Look, add_legend, line, looks, points
from .scales import size_axis, tick_text
from .small_multiples import small_multiples
from .theme import apply_theme

__all__ = ["metrics_figure", "trend_figure"]

AGAINST = Look("#d62728")
"""How steps are drawn that don't go as claimed."""
SLOPE = Look("#777", dash="dot")
"""How the pooled slope is drawn."""


def metrics_figure(comparison: MetricComparison, frame: pd.DataFrame) -> go.Figure:
    """Accuracy over each metric, both less their group's mean, with the pooled correlation and its interval.

    Lines are the pooled slope within groups. Cells that the comparison left out of its second set, as collapsed, are
    hollow.

    Parameters
    ----------
    comparison
        What `compare_metrics` returns.
    frame
        The table that it was given.

    Raises
    ------
    TypeError
        If `frame` isn't a DataFrame.
    ValueError
        If `frame` isn't that table.
    """
    settings = comparison.provenance["settings"]
    cells = _cells(comparison, frame)
    below = settings["collapsed_below"] or 0
    marks = looks(len(cells.groups))
    figure, panels = small_multiples([_title(comparison, name) for name in cells.metrics], height=200)
    y = centred(cells.accuracy)
    for (name, values), panel in zip(cells.metrics.items(), panels, strict=True):
        x = centred(values)
        ends = np.array([np.nanmin(x), np.nanmax(x)])
        figure.add_trace(line(SLOPE, "", x=ends, y=ends * np.nansum(x * y) / np.nansum(x * x)), **panel)
        for k, (group, look) in enumerate(zip(cells.groups, marks, strict=True)):
            there = np.flatnonzero(np.isfinite(cells.accuracy[k]))
            symbols = np.where(cells.accuracy[k, there] < below, f"{look.symbol}-open", look.symbol)
            texts = [_text(comparison.accuracy, cells, name, k, int(one)) for one in there]
            own = {"x": x[k, there], "y": y[k, there], "marker": {"symbol": symbols}}
            figure.add_trace(points(look, group, texts, size=7, **own), **panel)
        figure.update_xaxes(title_text=f"{shortened(name, 10)} less group mean", exponentformat="power", **panel)
    zero = {"zeroline": True, "zerolinecolor": "#ccc"}
    figure.update_xaxes(**zero)
    figure.update_yaxes(**zero)
    figure.update_yaxes(title_text=f"{shortened(comparison.accuracy)} less group mean", col=1)
    every, *others = comparison.noise.itertuples()
    share = f"{100 * settings['level']:g}\u00a0%"
    headline(
        figure,
        f"{comparison.accuracy} over metrics, within groups",
        f"{plural(every.n_cells, 'cell')} in {plural(every.n_groups, 'group')}. r: pooled correlation, with {share} of "
        "the bootstrap over groups. Dotted: the pooled slope.",
        *(f"Second r: of the {plural(o.n_cells, 'cell')} of {o.cells}. Hollow: the others." for o in others),
    )
    add_legend(figure, "/".join(settings["groups"]), cells.groups, marks)
    return figure


def _cells(comparison: MetricComparison, frame: pd.DataFrame) -> StudyCells:
    """The cells that were compared, read again as they were then."""
    settings = comparison.provenance["settings"]
    names, reference, higher = (settings[key] for key in ("metrics", "reference", "higher_is_better"))
    roles = parse_metrics(names, reference, higher, comparison.accuracy, getattr(frame, "columns", ()))
    items = settings["n_items"] if isinstance(settings["n_items"], str) else None
    cells, rows, _ = read_cells(frame, comparison.accuracy, roles, settings["groups"], settings["setting"], items)
    _refuse_another(rows, comparison.provenance, "comparison", "compare_metrics")
    return cells


def _title(comparison: MetricComparison, metric: str) -> str:
    """A metric's correlations, in a line for each set of cells."""
    table = comparison.metrics[comparison.metrics["metric"] == metric]
    lines = [f"r = {row.pearson:.2f} [{row.low:.2f}, {row.high:.2f}]" for row in table.itertuples()]
    return "<br>".join([f"<b>{shortened(metric)}</b>, {table['better'].iloc[0]} is better", *lines])


def _text(accuracy: str, cells: StudyCells, metric: str, group: int, setting: int) -> str:
    values = {metric: cells.metrics[metric], accuracy: cells.accuracy}
    lines = [f"<b>{html.escape(cells.groups[group])}</b>", html.escape(cells.settings[setting])]
    lines += [f"{html.escape(name)}: {format_number(one[group, setting], digits=4)}" for name, one in values.items()]
    return "<br>".join(lines)


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
    _refuse_another(rows, result.provenance, "result", "trend_tests")
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


def _refuse_another(rows: pd.DataFrame, provenance: Mapping[str, Any], what: str, source: str) -> None:
    if data_hash(rows) != provenance["data_sha256"]:
        raise ValueError(
            f"`frame` isn't the table of this {what}: the columns in use, of {plural(len(rows), 'row')}, have another "
            f"hash; give the one that `{source}` was given"
        )
