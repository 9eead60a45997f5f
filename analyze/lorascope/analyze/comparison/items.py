"""Test items behind each accuracy, however they are given."""

from collections.abc import Mapping, Sequence
from numbers import Integral

import numpy as np
import pandas as pd  # type: ignore[import-untyped]

__all__ = ["Items", "items_of"]

Items = int | Mapping[str, int] | str
"""One number, a number by block or by value of a block's column, or a column's name."""
MOST_ITEMS = 2**53
"""Whole numbers beyond aren't all float64."""


def items_of(n_items: Items, rows: pd.DataFrame, block: pd.Series, columns: Sequence[str]) -> np.ndarray:
    """Float64 (row,): test items, whole numbers.

    Parameters
    ----------
    n_items
        See `Items`.
    rows
        Table with the columns of blocks, and that of items if it is one.
    block
        Name of each row's block.
    columns
        Columns whose values make a block.

    Raises
    ------
    ValueError
        If a number isn't a whole one from 1 to 2^53, or a block has none.
    """
    if isinstance(n_items, str):
        values = list(rows[n_items])
    elif isinstance(n_items, Mapping):
        values = [_looked_up(n_items, [block[row], *rows.loc[row, list(columns)]]) for row in rows.index]
    else:
        values = [n_items] * len(rows)
    for value in values:
        is_whole = isinstance(value, Integral | float) and not isinstance(value, bool) and value == value // 1
        if not (is_whole and value >= 1):
            raise ValueError(f"`n_items` gives {value!r}; the number of test items is a whole number from 1 on")
        if value > MOST_ITEMS:
            raise ValueError(
                f"`n_items` gives a number above 2^53, {MOST_ITEMS:,}; the number of test items ends there"
            )
    return np.array(values, np.float64)


def _looked_up(n_items: Mapping[str, int], keys: Sequence[str]) -> int:
    """Of a block: by its whole name first, then by the value of one of its columns."""
    for key in keys:
        if key in n_items:
            return n_items[key]
    raise ValueError(f"`n_items` has nothing for block {keys[0]!r}; it has {list(n_items)}")
