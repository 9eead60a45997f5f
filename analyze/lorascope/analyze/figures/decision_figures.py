"""A figure of how often metrics order settings as accuracy does, and how alike that is in blocks."""

import html
from collections.abc import Iterator

import numpy as np
import pandas as pd  # type: ignore[import-untyped]
import plotly.graph_objects as go  # type: ignore[import-untyped]  # plotly ships no types
from plotly.subplots import make_subplots  # type: ignore[import-untyped]  # plotly ships no types

from ..comparison.comparison import MetricComparison
from ..format import format_number
from .captions import headline, plural, shortened
from .marks import Look, add_legend, hovering, looks, unique_labels
from .theme import apply_theme

__all__ = ["decisions_figure"]

ROW, LANE, GAP = 26, 11, 64
"""Pixels of a row at least, of a metric in a row, and between the panels."""
SIGNS = {"higher": 1.0, "lower": -1.0}


def decisions_figure(comparison: MetricComparison) -> go.Figure:
    """Pairs of settings that each metric orders as accuracy does, in %, and below Spearman's correlation in each block.

    Bars are intervals of the bootstrap over blocks; 50 % is what a coin gets. Correlations are turned so that 1 is full
    agreement, whichever way the metric points. A hollow marker is a block without its collapsed cells, if it had some.

    Parameters
    ----------
    comparison
        What `compare_metrics` returns.
    """
    names = list(dict.fromkeys(comparison.metrics["metric"]))
    marks = dict(zip(names, looks(len(names)), strict=True))
    rows = comparison.decisions[comparison.decisions["n_pairs"] > 0].drop_duplicates(["cells", "pairs"])
    kinds = list(rows[["cells", "pairs"]].itertuples(index=False, name=None))
    blocks = list(dict.fromkeys(comparison.blocks["block"]))
    heights = [max(1, n) * max(ROW, LANE * len(names) + 8) for n in (len(kinds), len(blocks) + 1)]
    whole = sum(heights) + GAP
    figure = make_subplots(rows=2, cols=1, row_heights=heights, vertical_spacing=GAP / whole)
    apply_theme(figure, height=whole + 96)
    for k, (name, look) in enumerate(marks.items()):
        shift = 0.7 * ((k + 0.5) / len(names) - 0.5)
        figure.add_trace(_decided(comparison, kinds, name, look, shift), row=1, col=1)
        for trace in _ranked(comparison, blocks, name, look, shift):
            figure.add_trace(trace, row=2, col=1)
    _rows(figure, 1, [_kind_name(*kind) for kind in kinds])
    _rows(figure, 2, [*unique_labels(blocks), "<b>mean</b>"])
    for panel, middle in ((1, 50), (2, 0)):
        figure.add_vline(x=middle, line={"color": "#777", "dash": "dot", "width": 1}, row=panel, col=1)
    figure.update_xaxes(title_text="pairs of settings ordered right (%)", range=[0, 102], nticks=6, row=1, col=1)
    figure.update_xaxes(
        title_text=f"Spearman's correlation with {shortened(comparison.accuracy)}, turned",
        range=[-1.08, 1.08],
        row=2,
        col=1,
    )
    headline(figure, f"Which setting has the higher {comparison.accuracy}, by metric", *_caption(comparison, blocks))
    add_legend(figure, "metric", names, list(marks.values()))
    return figure


def _kind_name(cells: str, pairs: str) -> str:
    """Which cells and pairs, escaped."""
    return f"{shortened(cells)}{'' if pairs == 'all' else f'<br>{shortened(pairs)}'}"


def _rows(figure: go.Figure, panel: int, names: list[str]) -> None:
    n = max(len(names), 1)
    figure.update_yaxes(
        tickvals=list(range(len(names))), ticktext=names, range=[n - 0.5, -0.5], ticklabelstandoff=4, row=panel, col=1
    )
    for row in range(1, n, 2):
        stripe = {"fillcolor": "#f3f3f3", "line_width": 0, "layer": "below"}
        figure.add_hrect(y0=row - 0.5, y1=row + 0.5, row=panel, col=1, **stripe)


def _decided(
    comparison: MetricComparison, kinds: list[tuple[str, str]], name: str, look: Look, shift: float
) -> go.Scatter:
    table = comparison.decisions[comparison.decisions["metric"] == name].set_index(["cells", "pairs"]).loc[kinds]
    share, low, high = (100 * table[column].to_numpy() for column in ("share", "low", "high"))
    texts = [
        f"<b>{html.escape(name)}</b>, {html.escape(' / '.join(kind))}<br>{format_number(row.right, digits=4)} of "
        f"{plural(row.n_pairs, 'pair')} right, {plural(row.n_ties, 'tie')}<br>{100 * row.share:.1f} % "
        f"[{100 * row.low:.1f}, {100 * row.high:.1f}]"
        for kind, row in zip(kinds, table.itertuples(), strict=True)
    ]
    bar = {"type": "data", "array": high - share, "arrayminus": share - low, "width": 0, "thickness": 1.5}
    return go.Scatter(
        x=share,
        y=np.arange(len(table)) + shift,
        mode="markers",
        marker=look.marker(8),
        error_x={**bar, "color": look.color},
        **hovering(name, texts),
    )


def _ranked(
    comparison: MetricComparison, blocks: list[str], name: str, look: Look, shift: float
) -> Iterator[go.Scatter]:
    """Of all cells filled, with the mean; of the second set hollow, in the blocks that lost cells."""
    every, *others = [
        part for _, part in comparison.blocks[comparison.blocks["metric"] == name].groupby("cells", sort=False)
    ]
    means = comparison.metrics[comparison.metrics["metric"] == name]
    sign = SIGNS[means["better"].iloc[0]]
    n_before = every.set_index("block")["n_cells"]
    for part, hollow in ((every, False), *((other, True) for other in others)):
        known = part[part["spearman"].notna()]
        if hollow:
            known = known[known["n_cells"].to_numpy() < n_before[known["block"]].to_numpy()]
        mean = float(means.set_index("cells").loc[part["cells"].iloc[0], "mean_spearman"])
        n_blocks = int(part["spearman"].notna().sum())
        x = np.append(sign * known["spearman"].to_numpy(), sign * mean)
        y = np.append([blocks.index(block) for block in known["block"]], len(blocks)) + shift
        texts = [_block_text(row, name, sign) for row in known.itertuples()]
        texts.append(f"<b>{html.escape(name)}</b><br>mean of {plural(n_blocks, 'block')}: {format_number(sign * mean)}")
        marker = look.marker(9 if hollow else 7, hollow=hollow)
        yield go.Scatter(x=x, y=y, mode="markers", marker=marker, **hovering(name, texts))


def _block_text(row: pd.Series, name: str, sign: float) -> str:
    return (
        f"<b>{html.escape(row.block)}</b><br>{html.escape(name)}: {format_number(sign * row.spearman)}<br>"
        f"{plural(row.n_cells, 'cell')}, {html.escape(row.cells)}"
    )


def _caption(comparison: MetricComparison, blocks: list[str]) -> Iterator[str]:
    sets = list(dict.fromkeys(comparison.metrics["cells"]))
    every = comparison.decisions[(comparison.decisions["cells"] == sets[0]) & (comparison.decisions["pairs"] == "all")]
    n_cells = int(comparison.metrics["n_cells"].iloc[0])
    share = f"{100 * (1 - comparison.provenance['settings']['significance']):g}\u00a0%"
    yield (
        f"{plural(n_cells, 'cell')} in {plural(len(blocks), 'block')}; {plural(int(every['n_pairs'].iloc[0]), 'pair')} "
        "within blocks that differ."
    )
    yield f"Bars: {share} of the bootstrap over blocks; dotted: chance."
    yield "Turned: 1 is full agreement, whichever way the metric points."
    if len(sets) > 1:
        yield f"Hollow: of {sets[1]}, in blocks that lose cells by it."
    gone = comparison.blocks[(comparison.blocks["cells"] == sets[0]) & comparison.blocks["spearman"].isna()]
    if len(gone):
        yield f"{plural(len(gone), 'correlation')} not defined: constant in the block."
