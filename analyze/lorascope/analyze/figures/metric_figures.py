"""Figures of metrics as predictors of accuracy within groups."""

import html
from collections.abc import Iterator

import numpy as np
import pandas as pd  # type: ignore[import-untyped]
import plotly.graph_objects as go  # type: ignore[import-untyped]  # plotly ships no types

from ..format import format_number
from ..stats.correlations import centred
from ..stats.metrics import MetricComparison
from ..stats.record import data_hash
from ..stats.study_cells import StudyCells, parse_metrics, read_cells
from .captions import headline, plural, shortened
from .marks import Look, add_legend, line, looks, points
from .small_multiples import small_multiples

__all__ = ["metrics_figure"]

SLOPE = Look("#777", dash="dot")


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
        figure.add_trace(line(SLOPE, "", x=ends, y=ends * np.nansum(x * y) / np.nansum(x * x)), **panel.place)
        for k, (group, look) in enumerate(zip(cells.groups, marks, strict=True)):
            there = np.flatnonzero(np.isfinite(cells.accuracy[k]))
            symbols = np.where(cells.accuracy[k, there] < below, f"{look.symbol}-open", look.symbol)
            texts = [_text(comparison.accuracy, cells, name, k, int(one)) for one in there]
            own = {"x": x[k, there], "y": y[k, there], "marker": {"symbol": symbols}}
            figure.add_trace(points(look, group, texts, size=7, **own), **panel.place)
        figure.update_xaxes(title_text=f"{shortened(name, 10)} less group mean", exponentformat="power", **panel.place)
    zero = {"zeroline": True, "zerolinecolor": "#ccc"}
    figure.update_xaxes(**zero)
    figure.update_yaxes(**zero)
    figure.update_yaxes(title_text=f"{shortened(comparison.accuracy)} less group mean", col=1)
    headline(figure, f"{comparison.accuracy} over metrics, within groups", *_caption(comparison))
    add_legend(figure, "/".join(settings["groups"]), cells.groups, marks)
    return figure


def _cells(comparison: MetricComparison, frame: pd.DataFrame) -> StudyCells:
    """The cells that were compared, read again as they were then."""
    settings = comparison.provenance["settings"]
    names, reference, higher = (settings[key] for key in ("metrics", "reference", "higher_is_better"))
    roles = parse_metrics(names, reference, higher, comparison.accuracy, getattr(frame, "columns", ()))
    items = settings["n_items"] if isinstance(settings["n_items"], str) else None
    cells, rows, _ = read_cells(frame, comparison.accuracy, roles, settings["groups"], settings["setting"], items)
    if data_hash(rows) != comparison.provenance["data_sha256"]:
        raise ValueError(
            f"`frame` isn't the table of this comparison: the columns in use, of {plural(len(rows), 'row')}, have "
            "another hash; give the one that `compare_metrics` was given"
        )
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


def _caption(comparison: MetricComparison) -> Iterator[str]:
    every, *others = comparison.noise.itertuples()
    share = f"{100 * comparison.provenance['settings']['level']:g}\u00a0%"
    n = f"{plural(every.n_cells, 'cell')} in {plural(every.n_groups, 'group')}"
    yield f"{n}. r: pooled correlation, with {share} of the bootstrap over groups. Dotted: the pooled slope."
    for other in others:
        yield f"Second r: of the {plural(other.n_cells, 'cell')} of {other.cells}. Hollow: the others."
