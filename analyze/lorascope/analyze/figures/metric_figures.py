"""Figures of metrics as predictors of accuracy within groups."""

import html
from collections.abc import Iterator

import numpy as np
import plotly.graph_objects as go  # type: ignore[import-untyped]  # plotly ships no types

from ..format import format_number
from ..stats.correlations import centred
from ..stats.metrics import MetricComparison
from ..stats.study_cells import StudyCells
from .captions import headline, plural, shortened
from .marks import add_legend, hovering, looks
from .small_multiples import small_multiples

__all__ = ["metrics_figure"]


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
    below = settings["collapsed_below"] or 0
    marks = looks(len(cells.groups))
    figure, panels = small_multiples([_title(comparison, name) for name in cells.metrics], height=200)
    accuracy = centred(cells.accuracy)
    for (name, values), panel in zip(cells.metrics.items(), panels, strict=True):
        inside = centred(values)
        figure.add_trace(_slope(inside, accuracy), **panel.place)
        for k, (group, look) in enumerate(zip(cells.groups, marks, strict=True)):
            there = np.flatnonzero(np.isfinite(cells.accuracy[k]))
            symbols = [f"{look.symbol}{'-open' if gone else ''}" for gone in cells.accuracy[k, there] < below]
            marker = {**look.marker(7), "symbol": symbols}
            texts = [_text(comparison.accuracy, cells, name, k, int(one)) for one in there]
            points = {"x": inside[k, there], "y": accuracy[k, there], "mode": "markers", "marker": marker}
            figure.add_trace(go.Scatter(**points, **hovering(group, texts)), **panel.place)
        figure.update_xaxes(title_text=f"{shortened(name, 10)} less group mean", exponentformat="power", **panel.place)
    zero = {"zeroline": True, "zerolinecolor": "#ccc"}
    figure.update_xaxes(**zero)
    figure.update_yaxes(**zero)
    figure.update_yaxes(title_text=f"{shortened(comparison.accuracy)} less group mean", col=1)
    headline(figure, f"{comparison.accuracy} over metrics, within groups", *_caption(comparison))
    add_legend(figure, "/".join(settings["groups"]), cells.groups, marks)
    return figure


def _title(comparison: MetricComparison, metric: str) -> str:
    """A metric's correlations, in a line for each set of cells."""
    table = comparison.metrics[comparison.metrics["metric"] == metric]
    lines = [f"r = {row.pearson:.2f} [{row.low:.2f}, {row.high:.2f}]" for row in table.itertuples()]
    return "<br>".join([f"<b>{shortened(metric)}</b>, {table['better'].iloc[0]} is better", *lines])


def _slope(x: np.ndarray, y: np.ndarray) -> go.Scatter:
    """The least-squares line of centred values."""
    ends = np.array([np.nanmin(x), np.nanmax(x)])
    slope = float(np.nansum(x * y) / np.nansum(x * x))
    line = {"color": "#777", "dash": "dot", "width": 1.5}
    return go.Scatter(x=ends, y=slope * ends, mode="lines", line=line, hoverinfo="skip", showlegend=False)


def _text(accuracy: str, cells: StudyCells, metric: str, group: int, setting: int) -> str:
    values = {metric: cells.metrics[metric], accuracy: cells.accuracy}
    lines = [f"<b>{html.escape(cells.groups[group])}</b>", html.escape(cells.settings[setting])]
    lines += [f"{html.escape(name)}: {format_number(one[group, setting], digits=4)}" for name, one in values.items()]
    return "<br>".join(lines)


def _caption(comparison: MetricComparison) -> Iterator[str]:
    every, *others = comparison.noise.itertuples()
    share = f"{100 * comparison.provenance['settings']['level']:g}\u00a0%"
    n = f"{plural(every.n_cells, 'cell')} in {plural(every.n_groups, 'group')}"
    yield f"{n}. r: pooled correlation, with {share} of the bootstrap over groups. Dotted: the pooled slope."
    for other in others:
        yield f"Second r: of the {plural(other.n_cells, 'cell')} of {other.cells}. Hollow: the others."
    yield (
        f"Of {comparison.accuracy}'s variance within groups, the largest share of one is "
        f"{100 * every.largest_share:.0f}\u00a0%."
    )
