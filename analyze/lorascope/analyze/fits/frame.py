"""Checks of a study's table where it enters: required columns exist, and their numbers are finite."""

from collections.abc import Iterable, Sequence
from numbers import Real
from typing import Any

import numpy as np
import pandas as pd  # type: ignore[import-untyped]

from .correlations import centred

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


LOG = "ln "
"""Prefix of a metric that is the natural logarithm of a column."""
LEAST_EFFECTIVE = 4
"""Fewest cells, less groups, plus 1: with fewer, Williams' t has no degree of freedom."""


def read_cells(
    frame: pd.DataFrame, accuracy: str, metrics: Sequence[str], groups: Sequence[str], setting: str
) -> tuple[pd.DataFrame, list[str], pd.DataFrame]:
    """Rows of a table that can be compared, notes on others, and accuracy and metrics indexed by (group, setting).

    Raises TypeError or ValueError as `checked`; ValueError also if accuracy isn't between 0 and 1, a group has a
    setting twice, a metric is accuracy itself, or no column is named.
    """
    for option, columns in (("metrics", metrics), ("groups", groups)):
        if not columns:
            raise ValueError(f"`{option}` is empty; name at least one column whose values vary")
    sources = {name: name if name in getattr(frame, "columns", ()) else name.removeprefix(LOG) for name in metrics}
    if own := [name for name, column in sources.items() if accuracy in (name, column)]:
        raise ValueError(f"metric {own[0]!r} is accuracy itself; name what is to predict it")
    columns = [accuracy, *dict.fromkeys(sources.values())]
    logarithms = [column for name, column in sources.items() if name != column]
    rows, notes = checked(frame, numbers=columns, positive=logarithms, labels=[*groups, setting], may_lack=columns)
    rows = rows.reset_index(drop=True)
    outside = rows.loc[~rows[accuracy].between(0, 1), accuracy]
    if len(outside):
        raise ValueError(
            f"accuracy {accuracy!r} is {outside.iloc[0]:g} in row {outside.index[0]}; it is a share from 0 to 1: "
            "divide percents by 100"
        )
    keys = pd.MultiIndex.from_arrays([group_labels(rows, groups), rows[setting]])
    if keys.has_duplicates:
        group, name = keys[keys.duplicated()][0]
        raise ValueError(
            f"group {group!r} has setting {name!r} twice; average repeated runs, or let `setting` name a column that "
            "tells them apart"
        )
    values = {name: rows[column] if name == column else np.log(rows[column]) for name, column in sources.items()}
    return rows, notes, pd.DataFrame({accuracy: rows[accuracy], **values}).set_axis(keys).sort_index()


def comparable(table: pd.DataFrame, name: str) -> tuple[pd.DataFrame, list[str]]:
    """Cells of groups that have several, and a sentence on the other groups.

    Raises ValueError if too little is left to compare; `name` says which cells of a study these are.
    """
    n = table.groupby(level=0).transform("size")
    lone, cells = sorted(table.index.get_level_values(0)[n == 1]), table[n > 1]
    n_groups, of = cells.index.get_level_values(0).nunique(), "" if name == "all" else f" of the cells {name!r}"
    if n_groups < 2:
        raise ValueError(
            f"{n_groups} group{'' if n_groups == 1 else 's'}{of} with two cells or more; metrics are compared within "
            "groups, and how sure that is comes from the groups: give at least 2"
        )
    if (n_effective := len(cells) - n_groups + 1) < LEAST_EFFECTIVE:
        raise ValueError(
            f"{len(cells)} cells in {n_groups} groups{of} count as {n_effective}, cells less groups plus 1; the tests "
            f"need {LEAST_EFFECTIVE}"
        )
    for key, column in cells.items():
        if not np.nan_to_num(centred(column.unstack().to_numpy())).any():
            raise ValueError(f"{key!r} is the same in all cells of each group{of}; there is nothing to correlate")
    note = f"of the cells {name!r}, {some_of(lone)} {'have' if len(lone) > 1 else 'has'} a single one: left out"
    return cells, [note] if lone else []
