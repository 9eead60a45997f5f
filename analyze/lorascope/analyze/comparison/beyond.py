"""What a metric says of accuracy once block and setting are known."""

from typing import NamedTuple

import numpy as np

from .within import correlation_p

__all__ = ["Beyond", "beyond_setting"]

ROUNDING = 1e-9
"""Share of a column's root sum of squares, its blocks' means taken off, below which a residual counts as 0."""


class Beyond(NamedTuple):
    """A partial correlation given block and setting."""

    partial_r: float
    """NaN where `why` says why."""
    df: int
    p: float
    """Two-sided, of cells that are independent; NaN as above."""
    scores: np.ndarray
    """Float64 (block,): each block's part of `partial_r`, which is their sum; all 0 where that isn't identified."""
    why: str
    """Empty, or why the partial correlation isn't identified."""


def beyond_setting(first: np.ndarray, second: np.ndarray, block: np.ndarray, setting: np.ndarray) -> Beyond:
    """The correlation of two columns (cell,) after effects of block and of setting were taken off both.

    Parameters
    ----------
    first, second
        (cell,), in any unit.
    block, setting
        (cell,), codes 0, 1, ...; a block needn't have all settings.

    Notes
    -----
    Both columns are regressed on an effect for each block and one for each setting, by least squares; r is that of the
    residuals, with df = n - rank - 1 and t = r sqrt(df/(1 - r^2)). The rank is G + S - 1 where settings link all the
    blocks. Sign flips of `scores` are a score bootstrap, which lets the cells of a block depend on each other.

    References
    ----------
    Fisher (1924), Metron 3, 329: partial correlation. Kline and Santos (2012), Journal of Econometric Methods 1, 23:
    score bootstrap.
    """
    design = np.hstack([_indicators(block), _indicators(setting)])
    rank = int(np.linalg.matrix_rank(design))
    df = len(first) - rank - 1
    x, y = (_residual(column, design, block) for column in (first, second))
    if df < 1:
        why = f"{len(first)} cells leave {max(df, 0)} degrees of freedom beside {rank} effects of block and setting"
        return Beyond(np.nan, df, np.nan, np.zeros(int(block.max()) + 1), why)
    if not (x.any() and y.any()):
        why = "block and setting tell one of the two exactly"
        return Beyond(np.nan, df, np.nan, np.zeros(int(block.max()) + 1), why)
    scores = np.bincount(block, x * y) / np.sqrt((x @ x) * (y @ y))
    r = float(np.clip(scores.sum(), -1, 1))
    return Beyond(r, df, correlation_p(r, df + 2), scores, "")


def _residual(column: np.ndarray, design: np.ndarray, block: np.ndarray) -> np.ndarray:
    """A column's residual in units of its spread within blocks; exactly 0 where nothing but rounding is left."""
    means = np.bincount(block, column) / np.bincount(block)
    within = column - means[block]
    spread = np.sqrt(within @ within)
    if spread == 0:
        return np.zeros_like(column)
    unit = within / spread
    left = unit - design @ np.linalg.lstsq(design, unit, rcond=None)[0]
    return np.asarray(left if np.sqrt(left @ left) > ROUNDING else np.zeros_like(left))


def _indicators(codes: np.ndarray) -> np.ndarray:
    return np.asarray(codes[:, None] == np.arange(int(codes.max()) + 1), np.float64)
