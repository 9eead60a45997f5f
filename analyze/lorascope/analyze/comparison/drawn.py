"""A set of cells with its pairs, its common settings, draws of its blocks and orders of its settings."""

from typing import Any, NamedTuple

import numpy as np

from .cells import StudyCells
from .relabel import Relabelling, relabelled_pearson
from .resample import Draws, Interval
from .roles import Metric
from .within import block_sums, centred

__all__ = ["Drawn", "Options", "Row", "can_agree", "drawn_pearson", "drawn_share", "ends", "floored", "ordered_pearson"]

Row = dict[str, Any]
"""A row of a table: a value by column."""


class Options(NamedTuple):
    """What shapes the numbers beside the cells."""

    n_resamples: int
    seed: int
    significance: float


class Drawn(NamedTuple):
    """Cells with what is computed of them once."""

    cells: StudyCells
    pairs: np.ndarray
    """(pair, 2), cells."""
    common: np.ndarray
    """(block, setting), cells of the settings that all blocks have."""
    draws: Draws
    orders: np.ndarray
    """(order, setting), as `setting_orders` gives them."""
    options: Options

    def rng(self) -> np.random.Generator:
        """A generator for one test, so that no test depends on which were made before it."""
        return np.random.default_rng(self.options.seed)


def drawn_pearson(made: Drawn, values: np.ndarray) -> np.ndarray:
    """Pooled Pearson with accuracy in each draw of blocks; NaN where a side doesn't vary."""
    x, y = centred(values, made.cells.block), centred(made.cells.accuracy, made.cells.block)
    xx, yy, xy = (made.draws.counts @ block_sums(a, b, made.cells.block) for a, b in ((x, x), (y, y), (x, y)))
    defined = (xx > 0) & (yy > 0)
    return np.asarray(np.divide(xy, np.sqrt(xx) * np.sqrt(yy), out=np.full(len(xy), np.nan), where=defined))


def ordered_pearson(made: Drawn, values: np.ndarray) -> np.ndarray:
    """Pooled Pearson with accuracy under each order of settings; NaN where a side doesn't vary."""
    cells = made.cells
    return relabelled_pearson(values, cells.accuracy, cells.block, cells.setting, made.orders)


def drawn_share(made: Drawn, right: np.ndarray) -> np.ndarray:
    """Share of right decisions in each draw of blocks; NaN where there is no pair to decide."""
    of_pair, n = made.cells.block[made.pairs[:, 0]], len(made.cells.blocks)
    won = made.draws.counts @ np.bincount(of_pair, np.nan_to_num(right), n)
    all_pairs = made.draws.counts @ np.bincount(of_pair, ~np.isnan(right), n)
    return np.asarray(np.divide(won, all_pairs, out=np.full(len(won), np.nan), where=all_pairs > 0))


def can_agree(made: Drawn, metric: Metric) -> bool:
    """Whether there is a concordance: three settings in all blocks, told apart by some block."""
    values = made.cells.metrics[metric.name][made.common]
    return values.shape[1] >= 3 and bool((np.ptp(values, axis=1) > 0).any())


def ends(prefix: str, around: Interval) -> Row:
    """An interval's ends as columns."""
    return {f"{prefix}low": around.low, f"{prefix}high": around.high}


def floored(test: Relabelling) -> Row:
    """A test by orders of settings as columns."""
    return {"setting_p": test.p, "setting_floor": test.floor}
