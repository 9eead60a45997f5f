"""All rows of a comparison for one set of cells."""

from collections.abc import Callable, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np

from .cells import StudyCells
from .decisions import within_pairs
from .drawn import Drawn, Options, Row
from .metric_rows import beyond_row, block_rows, decision_rows, metric_row
from .noise_rows import difference_rows, noise_row
from .pair_rows import pair_row
from .relabel import setting_orders
from .resample import block_draws
from .roles import Metric
from .steady import common_cells

__all__ = ["SetTables", "set_tables"]


class SetTables(NamedTuple):
    """Rows of each table; `MetricComparison` says what they are."""

    metrics: list[Row]
    pairs: list[Row]
    decisions: list[Row]
    beyond_setting: list[Row]
    noise: list[Row]
    blocks: list[Row]
    differences: list[Row]
    is_exact: bool
    """The bootstrap took every draw."""


def set_tables(cells: StudyCells, metrics: Sequence[Metric], options: Options, step: Callable[[], None]) -> SetTables:
    """All tables of one set of cells; `step` is called after each metric and each pair of metrics."""
    draws = block_draws(len(cells.blocks), options.n_resamples, np.random.default_rng(options.seed))
    orders = setting_orders(len(cells.settings), options.n_resamples, np.random.default_rng(options.seed))
    common = common_cells(cells.block, cells.setting)
    made = Drawn(cells, within_pairs(cells.block), common, draws, orders, options)
    tables = SetTables([], [], [], [], [noise_row(made)], [], difference_rows(made), draws.is_exact)
    for metric in metrics:
        tables.metrics.append(metric_row(made, metric))
        tables.decisions.extend(decision_rows(made, metric))
        tables.beyond_setting.append(beyond_row(made, metric))
        tables.blocks.extend(block_rows(made, metric))
        step()
    for first, second in combinations(metrics, 2):
        tables.pairs.append(pair_row(made, first, second))
        step()
    return tables
