"""Figure of metrics as predictors of accuracy."""

import html
from collections.abc import Mapping

import numpy as np
import plotly.graph_objects as go  # type: ignore[import-untyped]  # plotly ships no types

from lorascope.analyze.fits.metrics import MetricComparison
from lorascope.analyze.fits.resampling import few_groups_note
from lorascope.analyze.results.format import format_number

from .captions import headline, plural, shortened
from .theme import Look, add_legend, line, looks, points, small_multiples

SLOPE = Look("#777", dash="dot")
"""Look of the pooled slope."""


def metrics_figure(comparison: MetricComparison) -> go.Figure:
    """Draw accuracy over each metric, both centred within groups, with the pooled correlation and its interval.

    The closer a metric's points are to the dotted line, the pooled slope within groups, the better it predicts
    accuracy. Cells that the comparison excluded from its second set, as collapsed, are hollow.

    Parameters
    ----------
    comparison
        Result of `compare_metrics`.

    Returns
    -------
    plotly.graph_objects.Figure
        One panel per metric: the metric across, accuracy up; each group has a colour.
    """
    settings, cells = comparison.provenance["settings"], comparison.cells
    below, by_group = settings["collapsed_below"] or 0, cells.groupby(level=0)
    groups = list(by_group.groups)
    marks, within = looks(len(groups)), cells - by_group.transform("mean")
    _, *metrics = cells.columns
    figure, panels = small_multiples([_metric_title(comparison, name) for name in metrics], height=200)
    for name, panel in zip(metrics, panels, strict=True):
        x, y = within[name], within[comparison.accuracy]
        ends = np.array([x.min(), x.max()])
        figure.add_trace(line(SLOPE, "", x=ends, y=ends * (x @ y) / (x @ x)), **panel)
        for (group, rows), look in zip(by_group, marks, strict=True):
            symbols = np.where(rows[comparison.accuracy] < below, f"{look.symbol}-open", look.symbol)
            texts = [_cell_text(label, {column: row[column] for column in (name, comparison.accuracy)})
                     for label, row in rows.iterrows()]  # fmt: skip
            own = {"x": x[rows.index], "y": y[rows.index], "marker": {"symbol": symbols}}
            figure.add_trace(points(look, group, texts, size=7, **own), **panel)
        figure.update_xaxes(title_text=f"{shortened(name, 10)} minus group mean", exponentformat="power", **panel)
    zero = {"zeroline": True, "zerolinecolor": "#ccc"}
    figure.update_xaxes(**zero)
    figure.update_yaxes(**zero)
    figure.update_yaxes(title_text=f"{shortened(comparison.accuracy)} minus group mean", col=1)
    every, *others = comparison.metrics.drop_duplicates("cells").itertuples()
    share = f"{100 * settings['level']:g}\u00a0%"
    headline(
        figure,
        f"{comparison.accuracy} over metrics, within groups",
        f"{plural(every.n_cells, 'cell')} in {plural(len(groups), 'group')}. r: pooled correlation, with {share} of "
        "the bootstrap over groups. Dotted: the pooled slope.",
        *(f"{words}." for words in few_groups_note("The bootstrap", len(groups))),
        *(f"Second r: of the {plural(o.n_cells, 'cell')} of {o.cells}. Hollow: the others." for o in others),
    )
    add_legend(figure, "/".join(settings["groups"]), groups, marks)
    return figure


def _metric_title(comparison: MetricComparison, metric: str) -> str:
    """Return the title (HTML) of a metric's panel: its name and correlations, one line per set of cells."""
    table = comparison.metrics[comparison.metrics["metric"] == metric]
    sign = f"{table['better'].iloc[0]} should go with higher {shortened(comparison.accuracy, 10)}"
    lines = [f"r = {row.pearson:.2f} [{row.low:.2f}, {row.high:.2f}]" for row in table.itertuples()]
    return "<br>".join([f"<b>{shortened(metric)}</b>: {sign}", *lines])


def _cell_text(cell: tuple[str, str], values: Mapping[str, float]) -> str:
    """Return the hover text (HTML) of a point: group and setting of its cell, and its values by name."""
    lines = [f"<b>{html.escape(cell[0])}</b>", html.escape(cell[1])]
    return "<br>".join([*lines, *(f"{html.escape(k)}: {format_number(v, digits=4)}" for k, v in values.items())])
