"""Checks of a study's table where it enters: required columns exist, and their numbers are finite."""

from collections.abc import Iterable, Sequence
from numbers import Real
from typing import Any

import numpy as np
import pandas as pd  # type: ignore[import-untyped]

MOST_NAMED = 3
"""Names that a sentence lists; of the others it gives the number."""


def checked(
    frame: pd.DataFrame,
    *,
    numbers: Sequence[str],
    positive: Sequence[str] = (),
    labels: Sequence[str] = (),
    may_lack: Sequence[str] = (),
) -> tuple[pd.DataFrame, list[str]]:
    """The named columns of a table, numbers as float64 and labels as text, and a sentence if rows are left out.

    Parameters
    ----------
    numbers, positive
        Columns that must hold finite numbers, and those of them that must be above zero.
    labels
        Columns whose values only distinguish rows.
    may_lack
        Columns of numbers where an empty value means that this row wasn't measured: it is left out, and counted.

    Raises
    ------
    TypeError
        If this isn't a DataFrame.
    ValueError
        If a column is named or there twice, or isn't there, a value isn't as it must be, or no row is left.
    """
    if not isinstance(frame, pd.DataFrame):
        raise TypeError(f"`frame` is a {type(frame).__name__}; give a pandas DataFrame, one row a cell")
    columns = [*numbers, *labels]
    if twice := [name for name in columns if columns.count(name) > 1]:
        raise ValueError(f"column {twice[0]!r} is given two roles; each column has one")
    for name in columns:
        if (n := int((frame.columns == name).sum())) != 1:
            existing = ", ".join(repr(str(column)) for column in frame.columns) or "none"
            raise ValueError(f"the table has {n or 'no'} column{'s' * (n > 1)} {name!r}; it has {existing}")
    empty = frame[list(may_lack)].isna().any(axis=1) if may_lack else pd.Series(False, index=frame.index)
    rows = frame.loc[~empty, columns].copy()
    required = f"a value in {_listed(may_lack)}"
    if rows.empty:
        raise ValueError(f"no row of the table has {required}" if len(frame) else "the table has no rows")
    for name in columns:
        if rows[name].isna().any():
            raise ValueError(
                f"column {name!r} is empty in {_rows(rows.index[rows[name].isna()])}; fill it in or drop the row"
            )
        rows[name] = _numbers(rows[name], name, name in positive) if name in numbers else rows[name].astype(str)
    note = f"{int(empty.sum())} of {len(frame)} rows without {required} are left out"
    return rows, [note] if empty.any() else []


def group_labels(frame: pd.DataFrame, columns: Sequence[str]) -> np.ndarray:
    """Text (row,): the values of the columns of labels joined by a slash; empty where there are no columns.

    Raises ValueError if two different rows would be called the same.
    """
    if not columns:
        return np.full(len(frame), "", dtype=object)
    rows = list(frame[list(columns)].astype(str).itertuples(index=False, name=None))
    called = {row: "/".join(row) for row in rows}
    if len(labels := list(called.values())) > len(set(labels)):
        alike = sorted((row for row in called if labels.count(called[row]) > 1), key=lambda row: called[row])
        raise ValueError(
            f"{alike[0]!r} and {alike[1]!r} of columns {_listed(columns)} would both be called {called[alike[0]]!r}; "
            "write one of them without a slash"
        )
    return np.array([called[row] for row in rows], dtype=object)


def _numbers(column: pd.Series, name: str, positive: bool) -> pd.Series:
    """The values as float64."""
    for place, value in column.items():
        if isinstance(value, bool | np.bool_) or not isinstance(value, Real):
            raise ValueError(f"column {name!r} holds {value!r} in row {place}, where a number belongs")
    try:
        values = column.astype(np.float64)
    except OverflowError as error:
        raise ValueError(f"column {name!r} holds a whole number above 1.8e308; numbers must be finite") from error
    infinite, low = ~np.isfinite(values), (values <= 0) & positive
    for bad, must in ((infinite, "numbers must be finite"), (low, "it must be above zero")):
        if bad.any():
            raise ValueError(f"column {name!r} is {values[bad].iloc[0]:g} in {_rows(column.index[bad])}; {must}")
    return values


def some_of(names: Iterable[object]) -> str:
    """`'a', 'b', 'c' and 2 more`.

    Examples
    --------
    >>> some_of("abcde")
    "'a', 'b', 'c' and 2 more"
    """
    quoted = [repr(name) for name in names]
    more = f" and {len(quoted) - MOST_NAMED} more" if len(quoted) > MOST_NAMED else ""
    return ", ".join(quoted[:MOST_NAMED]) + more


def _rows(labels: Any) -> str:
    """`row 3`, or `rows 3, 4, 5 and 2 more`."""
    return f"row{'s' if len(labels) > 1 else ''} {some_of(labels)}"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(repr(name) for name in names)
