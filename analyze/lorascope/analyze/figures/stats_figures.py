"""Figures of a table: metrics as predictors of accuracy, and a claimed trend along levels."""

import html
from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd  # type: ignore[import-untyped]
import plotly.graph_objects as go  # type: ignore[import-untyped]  # plotly ships no types

from ..format import format_number
from ..stats.metrics import MetricComparison
from ..stats.trends import TrendResult
from .captions import headline, plural, shortened
from .marks import Look, add_legend, line, looks, points
from .scales import size_axis, tick_text
from .theme import apply_theme, small_multiples

AGAINST = Look("#d62728")
"""How steps are drawn that don't go as claimed."""
SLOPE = Look("#777", dash="dot")
"""How the pooled slope is drawn."""


def metrics_figure(comparison: MetricComparison) -> go.Figure:
    """Accuracy over each metric, both less their group's mean, with the pooled correlation and its interval.

    Lines are the pooled slope within groups. Cells that the comparison left out of its second set, as collapsed, are
    hollow.

    Parameters
    ----------
    comparison
        What `compare_metrics` returns.
    """
    settings, cells = comparison.provenance["settings"], comparison.cells
    below, by_group = settings["collapsed_below"] or 0, cells.groupby(level=0)
    groups = list(by_group.groups)
    marks, within = looks(len(groups)), cells - by_group.transform("mean")
    _, *metrics = cells.columns
    figure, panels = small_multiples([_title(comparison, name) for name in metrics], height=200)
    for name, panel in zip(metrics, panels, strict=True):
        x, y = within[name], within[comparison.accuracy]
        ends = np.array([x.min(), x.max()])
        figure.add_trace(line(SLOPE, "", x=ends, y=ends * (x @ y) / (x @ x)), **panel)
        for (group, rows), look in zip(by_group, marks, strict=True):
            symbols = np.where(rows[comparison.accuracy] < below, f"{look.symbol}-open", look.symbol)
            texts = [_text(label, {one: row[one] for one in (name, comparison.accuracy)})
                     for label, row in rows.iterrows()]  # fmt: skip
            own = {"x": x[rows.index], "y": y[rows.index], "marker": {"symbol": symbols}}
            figure.add_trace(points(look, group, texts, size=7, **own), **panel)
        figure.update_xaxes(title_text=f"{shortened(name, 10)} less group mean", exponentformat="power", **panel)
    zero = {"zeroline": True, "zerolinecolor": "#ccc"}
    figure.update_xaxes(**zero)
    figure.update_yaxes(**zero)
    figure.update_yaxes(title_text=f"{shortened(comparison.accuracy)} less group mean", col=1)
    every, *others = comparison.metrics.drop_duplicates("cells").itertuples()
    share = f"{100 * settings['level']:g}\u00a0%"
    headline(
        figure,
        f"{comparison.accuracy} over metrics, within groups",
        f"{plural(every.n_cells, 'cell')} in {plural(len(groups), 'group')}. r: pooled correlation, with {share} of "
        "the bootstrap over groups. Dotted: the pooled slope.",
        *(f"Second r: of the {plural(o.n_cells, 'cell')} of {o.cells}. Hollow: the others." for o in others),
    )
    add_legend(figure, "/".join(settings["groups"]), groups, marks)
    return figure


def _title(comparison: MetricComparison, metric: str) -> str:
    """A metric's correlations, in a line for each set of cells."""
    table = comparison.metrics[comparison.metrics["metric"] == metric]
    lines = [f"r = {row.pearson:.2f} [{row.low:.2f}, {row.high:.2f}]" for row in table.itertuples()]
    return "<br>".join([f"<b>{shortened(metric)}</b>, {table['better'].iloc[0]} is better", *lines])


def _text(cell: tuple[str, str], values: Mapping[str, float]) -> str:
    lines = [f"<b>{html.escape(cell[0])}</b>", html.escape(cell[1])]
    return "<br>".join([*lines, *(f"{html.escape(k)}: {format_number(v, digits=4)}" for k, v in values.items())])


def trend_figure(result: TrendResult) -> go.Figure:
    """Responses along levels, a line a group that begins at 0, in % of its value at the lowest level.

    Steps that don't go as claimed are thick and red. Cells of one group and level are averaged. Where a response isn't
    above zero, lines are differences in its unit. Levels are on a logarithmic axis where all are above zero.

    Parameters
    ----------
    result
        What `trend_tests` returns.
    """
    groups, levels = list(dict.fromkeys(result.series["group"])), result.series["level"].to_numpy()
    marks = looks(len(groups))
    is_relative = bool(result.series["mean"].min() > 0)
    figure = go.Figure()
    for (_, one), look in zip(result.series.groupby("group", sort=False), marks, strict=True):
        figure.add_traces(list(_lines(result, one, look, is_relative=is_relative)))
    apply_theme(figure, height=360)
    axis = size_axis(levels) if levels.min() > 0 else {"nticks": 6}
    figure.update_xaxes(title_text=shortened(result.along), **axis)
    what = f"change of {shortened(result.response)}{' (%)' if is_relative else ''}"
    figure.update_yaxes(title_text=what, zeroline=True, zerolinecolor="#bbb", nticks=7)
    n = plural(int(result.series["n_cells"].sum()), "cell")
    headline(
        figure,
        f"Claim: {result.response} {result.direction} along {result.along}",
        f"n\u00a0=\u00a0{n} in {plural(len(groups), 'group')}, each against its lowest level.",
        f"Red: {len(result.violations)} of {plural(result.n_steps, 'step')} between neighbouring levels, not as "
        f"claimed. Page's L, one-sided: p = {format_number(result.p_value, digits=2)}.",
    )
    add_legend(figure, "/".join(result.groups), groups, marks, mode="lines+markers")
    return figure


def _lines(result: TrendResult, series: pd.DataFrame, look: Look, *, is_relative: bool) -> Iterator[go.Scatter]:
    group, (levels, means) = series["group"].iloc[0], series[["level", "mean"]].to_numpy().T
    values = 100 * (means / means[0] - 1) if is_relative else means - means[0]
    lower = set(result.violations["lower"][result.violations["group"] == group])
    steps = [k for k in range(len(values) - 1) if levels[k] in lower]
    if steps:
        x, y = ([one for k in steps for one in (*part[k : k + 2], None)] for part in (levels, values))
        yield line(AGAINST, group, width=6, x=x, y=y, opacity=0.45)
    texts = [
        f"<b>{html.escape(group)}</b><br>{html.escape(result.along)} {tick_text(level)}: "
        f"{html.escape(result.response)} {format_number(mean, digits=6)}"
        for level, mean in zip(levels, means, strict=True)
    ]
    yield points(look, group, texts, x=levels, y=values, mode="lines+markers")
