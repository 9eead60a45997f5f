"""How many decimals each number of a table was printed with."""

from collections.abc import Mapping

import numpy as np
import pandas as pd  # type: ignore[import-untyped]

from .grid import known
from .rounding import MOST_DECIMALS, decimals_printed, decimals_shown, printed_value

__all__ = ["decimals_of"]

MOST_DIGITS = 12
"""Of a number: with more, its rounding is lost in that of float64."""


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
        If a printed text isn't a number or isn't the value beside it, `decimals` aren't 0 to 12 or a value has more, it
        has more than 12 digits, or `decimals` names an unknown metric.
    """
    given = decimals if isinstance(decimals, Mapping) else {}
    known("decimals", list(given), list(cells["metric"].unique()), "metrics")
    for number in given.values() if decimals is given else [decimals]:
        if number is not None and (isinstance(number, bool) or not isinstance(number, int | np.integer)):
            raise TypeError(f"`decimals` is {number!r}; give a whole number, or one for each metric")
        if number is not None and not 0 <= number <= MOST_DECIMALS:
            raise ValueError(f"`decimals` is {number}; a printed number has 0 to {MOST_DECIMALS}")
    if decimals is not None and decimals is not given:
        found = np.full(len(cells), decimals, np.int64)
    else:
        read = _read(cells) if "printed" in cells else _shown(cells, average)
        found = np.array([given.get(metric, one) for metric, one in zip(cells["metric"], read, strict=True)], np.int64)
    _refuse_digits(cells, found)
    return found


def _refuse_digits(cells: pd.DataFrame, decimals: np.ndarray) -> None:
    n_units = cells["value"].abs().to_numpy() * 10.0**decimals
    many = np.flatnonzero(n_units >= 10.0**MOST_DIGITS)
    if len(many):
        place, value, kept = cells.index[many[0]], cells["value"].iloc[many[0]], decimals[many[0]]
        raise ValueError(
            f"row {place} holds {value:.6g}, to {kept} decimals a number of more than {MOST_DIGITS} digits; give it in "
            "larger units, or other `decimals`"
        )


def _shown(cells: pd.DataFrame, average: str | None) -> np.ndarray:
    kind = [cells["metric"], cells["member"] == average]
    return np.asarray(cells.groupby(kind)["value"].transform(lambda one: decimals_shown(one.to_numpy())), np.int64)


def _read(cells: pd.DataFrame) -> np.ndarray:
    for place, text, value in zip(cells.index, cells["printed"], cells["value"], strict=True):
        if printed_value(text) != value:
            raise ValueError(f"row {place} is printed as {text!r}, but its value is {value!r}; correct one of them")
    found = np.array([decimals_printed(text) for text in cells["printed"]], np.int64)
    if len(found) and found.max() > MOST_DECIMALS:
        place, text = cells.index[found.argmax()], cells["printed"].iloc[found.argmax()]
        raise ValueError(f"row {place} is printed as {text!r}; a printed number has 0 to {MOST_DECIMALS} decimals")
    return found
