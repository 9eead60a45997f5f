"""How many decimals each number of a table was printed with."""

from collections.abc import Mapping

import numpy as np
import pandas as pd  # type: ignore[import-untyped]

from .grid import known
from .rounding import decimals_printed, decimals_shown, printed_value

__all__ = ["decimals_of"]


def decimals_of(
    cells: pd.DataFrame,
    average: str | None,
    decimals: int | Mapping[str, int] | None,
) -> np.ndarray:
    """How many decimals each number of a table was printed with.

    Parameters
    ----------
    cells
        `metric`, `member` (text), `value` (float64) and, if printed texts are known, `printed`.
    average
        The member that is an average: averages may have other decimals than what they average.
    decimals
        The decimals of all numbers, or of each metric named. What isn't named is read from `printed` and, without that,
        is the most that any value of the metric shows, averages apart.

    Returns
    -------
    np.ndarray
        Int64 (row,).

    Raises
    ------
    TypeError
        If `decimals` isn't a whole number.
    ValueError
        If a printed text isn't a number or isn't the value beside it, a value has more than 12 decimals, or `decimals`
        names an unknown metric.
    """
    given = decimals if isinstance(decimals, Mapping) else {}
    known("decimals", list(given), list(cells["metric"].unique()), "metrics")
    for number in given.values() if decimals is given else [decimals]:
        if number is not None and (isinstance(number, bool) or not isinstance(number, int | np.integer)):
            raise TypeError(f"`decimals` is {number!r}; give a whole number, or one for each metric")
    if decimals is not None and decimals is not given:
        return np.full(len(cells), decimals, np.int64)
    found = _read(cells) if "printed" in cells else _shown(cells, average)
    return np.array([given.get(metric, read) for metric, read in zip(cells["metric"], found, strict=True)], np.int64)


def _shown(cells: pd.DataFrame, average: str | None) -> np.ndarray:
    kind = [cells["metric"], cells["member"] == average]
    return np.asarray(cells.groupby(kind)["value"].transform(lambda one: decimals_shown(one.to_numpy())), np.int64)


def _read(cells: pd.DataFrame) -> np.ndarray:
    for place, text, value in zip(cells.index, cells["printed"], cells["value"], strict=True):
        if printed_value(text) != value:
            raise ValueError(f"row {place} is printed as {text!r}, but its value is {value!r}; correct one of them")
    return np.array([decimals_printed(text) for text in cells["printed"]], np.int64)
