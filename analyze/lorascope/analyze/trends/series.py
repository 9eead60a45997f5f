"""Blocks of a study's table as series along ordered levels, and their steps from level to level."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd  # type: ignore[import-untyped]

from ..stats.frame import group_labels
from .words import Steps

__all__ = ["Series", "blocks_of", "count_steps"]

WORDS = {1: "rises", -1: "falls", 0: "equal"}


class Series(NamedTuple):
    """One block of two levels or more."""

    block: str
    x: np.ndarray
    """Levels (cell,)."""
    y: np.ndarray
    """Responses (cell,)."""
    levels: np.ndarray
    """Different levels (level,), ascending."""
    means: np.ndarray
    """Responses (level,), averaged over the cells of a level."""


def blocks_of(rows: pd.DataFrame, response: str, along: str, blocks: Sequence[str]) -> tuple[list[Series], list[str]]:
    """The blocks of two levels or more, in the order of their first rows, and the names of the others.

    Raises
    ------
    ValueError
        If no block has two levels.
    """
    x, y, labels = rows[along].to_numpy(), rows[response].to_numpy(), group_labels(rows, blocks)
    if len(set(x.tolist())) == 1:
        raise ValueError(f"column {along!r} is {x[0]:g} in every row; a trend needs two levels")
    series, short = [], []
    for block in dict.fromkeys(labels.tolist()):
        inside = labels == block
        levels = np.unique(x[inside])
        if len(levels) < 2:
            short.append(block)
            continue
        at = [y[inside & (x == one)] for one in levels]
        # rounded once whatever the order of the cells, so that equal sums stay ties
        means = np.array([math.fsum(values) / len(values) for values in at])
        series.append(Series(block, x[inside], y[inside], levels, means))
    if not series:
        raise ValueError(
            f"none of the {len(short)} blocks of {list(blocks)!r} has two levels of {along!r}; a trend needs two in "
            "one block: name fewer columns in `blocks`, or add rows"
        )
    return series, short


def count_steps(series: Sequence[Series], increasing: bool) -> tuple[Steps, pd.DataFrame]:
    """How many steps between neighbouring levels there are, and a table of those that don't go as claimed."""
    steps = [
        (one.block, _number(a), _number(b), at_a, at_b, WORDS[int(np.sign(at_b - at_a))])
        for one in series
        for a, b, at_a, at_b in zip(one.levels, one.levels[1:], one.means, one.means[1:], strict=False)
    ]
    table = pd.DataFrame(steps, columns=["block", "lower", "upper", "at_lower", "at_upper", "step"])
    against, equal = table["step"] == ("falls" if increasing else "rises"), table["step"] == "equal"
    n_blocks_against = int(table.loc[against, "block"].nunique())
    counts = Steps(len(table), int(against.sum()), int(equal.sum()), len(series), n_blocks_against)
    return counts, table[against | equal].reset_index(drop=True)


def _number(level: float) -> int | float:
    """A level as it is written: 32, not 32.0."""
    return int(level) if float(level).is_integer() else float(level)
