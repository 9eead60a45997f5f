"""Figures of metrics as predictors of accuracy within blocks."""

import html
from collections.abc import Iterator

import numpy as np
import pandas as pd  # type: ignore[import-untyped]
import plotly.graph_objects as go  # type: ignore[import-untyped]  # plotly ships no types

from ..comparison.cells import StudyCells, read_cells
from ..comparison.comparison import MetricComparison
from ..comparison.roles import parse_metrics
from ..comparison.within import centred
from ..format import format_number
from ..stats.record import data_hash
from .captions import headline, plural, shortened
from .marks import add_legend, hovering, looks
from .small_multiples import small_multiples

__all__ = ["metrics_figure"]


def metrics_figure(comparison: MetricComparison, frame: pd.DataFrame) -> go.Figure:
    """Accuracy over each metric, both less their block's mean, with the pooled correlation and its interval.

    Lines are the pooled slope within blocks. Cells that the comparison left out of its second set, as collapsed, are
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
    below = settings["collapsed_below"]
    collapsed = np.zeros(len(cells.accuracy), bool) if below is None else cells.accuracy < below
    marks = looks(len(cells.blocks))
    names = list(cells.metrics)
    figure, panels = small_multiples([_title(comparison, name) for name in names], height=200)
    accuracy = centred(cells.accuracy, cells.block)
    for name, panel in zip(names, panels, strict=True):
        values = centred(cells.metrics[name], cells.block)
        figure.add_trace(_slope(values, accuracy), **panel.place)
        for k, (block, look) in enumerate(zip(cells.blocks, marks, strict=True)):
            rows = np.flatnonzero(cells.block == k)
            marker = {
                **look.marker(7),
                "symbol": [f"{look.symbol}{'-open' if gone else ''}" for gone in collapsed[rows]],
            }
            points = {"x": values[rows], "y": accuracy[rows], "mode": "markers", "marker": marker}
            texts = [_text(comparison, cells, name, int(row)) for row in rows]
            figure.add_trace(go.Scatter(**points, **hovering(block, texts)), **panel.place)
        figure.update_xaxes(title_text=f"{shortened(name, 10)} less block mean", exponentformat="power", **panel.place)
    zero = {"zeroline": True, "zerolinecolor": "#ccc"}
    figure.update_xaxes(**zero)
    figure.update_yaxes(**zero)
    figure.update_yaxes(title_text=f"{shortened(comparison.accuracy)} less block mean", col=1)
    headline(figure, f"{comparison.accuracy} over metrics, within blocks", *_caption(comparison, cells, collapsed))
    add_legend(figure, "/".join(settings["blocks"]), cells.blocks, marks)
    return figure


def _cells(comparison: MetricComparison, frame: pd.DataFrame) -> StudyCells:
    """The cells that were compared, read again as they were then."""
    settings = comparison.provenance["settings"]
    roles = parse_metrics(settings["metrics"], settings["reference"], settings["higher_is_better"], comparison.accuracy)
    items = settings["n_items"]
    cells, rows, _ = read_cells(
        frame,
        comparison.accuracy,
        roles,
        settings["blocks"],
        settings["setting"],
        items if isinstance(items, str) else None,
    )
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
    head = f"<b>{shortened(metric)}</b>, {table['better'].iloc[0]} is better"
    return "<br>".join([head, *lines])


def _slope(x: np.ndarray, y: np.ndarray) -> go.Scatter:
    """The least-squares line of centred values."""
    ends = np.array([x.min(), x.max()])
    slope = float(x @ y) / float(x @ x)
    line = {"color": "#777", "dash": "dot", "width": 1.5}
    return go.Scatter(x=ends, y=slope * ends, mode="lines", line=line, hoverinfo="skip", showlegend=False)


def _text(comparison: MetricComparison, cells: StudyCells, metric: str, row: int) -> str:
    block, setting = cells.blocks[cells.block[row]], cells.settings[cells.setting[row]]
    return (
        f"<b>{html.escape(block)}</b><br>{html.escape(setting)}<br>{html.escape(metric)}: "
        f"{format_number(float(cells.metrics[metric][row]), digits=4)}<br>{html.escape(comparison.accuracy)}: "
        f"{format_number(float(cells.accuracy[row]), digits=4)}"
    )


def _caption(comparison: MetricComparison, cells: StudyCells, collapsed: np.ndarray) -> Iterator[str]:
    settings = comparison.provenance["settings"]
    n = f"{plural(len(cells.accuracy), 'cell')} in {plural(len(cells.blocks), 'block')}"
    share = f"{100 * (1 - settings['significance']):g}\u00a0%"
    yield f"{n}. r: pooled correlation, with {share} of the bootstrap over blocks."
    yield "Dotted: the pooled slope."
    sets = comparison.metrics.drop_duplicates("cells").set_index("cells")["n_cells"]
    if len(sets) > 1:
        yield f"Second r: of the {plural(int(sets.iloc[1]), 'cell')} of {sets.index[1]}. Hollow: the others."
    largest = (
        comparison.blocks[comparison.blocks["cells"] == sets.index[0]].drop_duplicates("block")["accuracy_share"].max()
    )
    yield f"Of {comparison.accuracy}'s variance within blocks, the largest share of one is {100 * largest:.0f}\u00a0%."
