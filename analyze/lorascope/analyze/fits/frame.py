"""Check a study's table where it enters: columns exist, numbers are finite, and metrics can be compared."""

from collections.abc import Iterable, Sequence
from numbers import Real
from typing import Any

import numpy as np
import pandas as pd  # type: ignore[import-untyped]

from lorascope.stores.names import suggestion

from .correlations import centred

MOST_NAMED = 3
"""Number of names that a sentence lists before it only counts the others."""
LOG = "ln "
"""Prefix of the name of a metric that is the natural logarithm of a column."""
LEAST_EFFECTIVE = 4
"""Smallest cells - groups + 1 with a degree of freedom for Williams' t."""


def check_columns(
    frame: pd.DataFrame,
    *,
    numbers: Sequence[str],
    positive: Sequence[str] = (),
    labels: Sequence[str] = (),
    may_lack: Sequence[str] = (),
) -> tuple[pd.DataFrame, list[str]]:
    """Return the named columns, numbers as float64 and labels as text, and a sentence if rows are excluded.

    Columns in `numbers` must have finite numbers, those in `positive` numbers above zero. Values in `labels` only
    distinguish rows. A row with an empty value in one of `may_lack`, numbers that weren't measured, is excluded.

    Raises TypeError if `frame` isn't a DataFrame; ValueError if a column is missing or given twice, a value isn't
    allowed, or no row remains.
    """
    if not isinstance(frame, pd.DataFrame):
        raise TypeError(f"`frame` is a {type(frame).__name__}; give a pandas DataFrame, one row per cell")
    columns = [*numbers, *labels]
    if twice := [name for name in columns if columns.count(name) > 1]:
        raise ValueError(f"column {twice[0]!r} is given two roles; each column has one")
    for name in columns:
        if (n := int((frame.columns == name).sum())) != 1:
            names = [str(column) for column in frame.columns]
            existing = f"{', '.join(map(repr, names)) or 'none'}{suggestion(str(name), names) if not n else ''}"
            raise ValueError(f"the table has {n or 'no'} column{'s' * (n > 1)} {name!r}; it has {existing}")
    empty = frame[list(may_lack)].isna().any(axis=1) if may_lack else pd.Series(False, index=frame.index)
    rows = frame.loc[~empty, columns].copy()
    required = f"a value in {', '.join(map(repr, may_lack))}"
    if rows.empty:
        raise ValueError(f"no row of the table has {required}" if len(frame) else "the table has no rows")
    for name in columns:
        if rows[name].isna().any():
            places = _row_names(rows.index[rows[name].isna()])
            raise ValueError(f"column {name!r} is empty in {places}; fill it in or drop the row")
        rows[name] = _numbers(rows[name], name, name in positive) if name in numbers else rows[name].astype(str)
    note = f"{int(empty.sum())} of {len(frame)} rows without {required} are excluded"
    return rows, [note] if empty.any() else []


def group_labels(frame: pd.DataFrame, columns: Sequence[str]) -> np.ndarray:
    """Return each row's label (row,): values of the columns joined by a slash, or empty without columns.

    Raises ValueError if different values would give the same label.
    """
    if not columns:
        return np.full(len(frame), "", dtype=object)
    rows = list(frame[list(columns)].astype(str).itertuples(index=False, name=None))
    row_of: dict[str, tuple[str, ...]] = {}
    for row in rows:
        label = "/".join(row)
        if (other := row_of.setdefault(label, row)) != row:
            raise ValueError(
                f"{other!r} and {row!r} of columns {', '.join(map(repr, columns))} would both be called {label!r}; "
                "write one of them without a slash"
            )
    return np.array(["/".join(row) for row in rows], dtype=object)


def _numbers(column: pd.Series, name: str, positive: bool) -> pd.Series:
    """Return a column as float64; raise ValueError if a value isn't finite, or not above 0 if it must be."""
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
            raise ValueError(f"column {name!r} is {values[bad].iloc[0]:g} in {_row_names(column.index[bad])}; {must}")
    return values


def first_names(names: Iterable[object]) -> str:
    """Return the first three names in quotes and the number of others, such as `'a', 'b', 'c' and 2 more`."""
    quoted = [repr(name) for name in names]
    more = f" and {len(quoted) - MOST_NAMED} more" if len(quoted) > MOST_NAMED else ""
    return ", ".join(quoted[:MOST_NAMED]) + more


def _row_names(labels: Any) -> str:
    """Return labels of rows as text, such as `rows 3, 4, 5 and 2 more`."""
    return f"row{'s' if len(labels) > 1 else ''} {first_names(labels)}"


def read_cells(
    frame: pd.DataFrame, accuracy: str, metrics: Sequence[str], groups: Sequence[str], setting: str
) -> tuple[pd.DataFrame, list[str], pd.DataFrame]:
    """Return the rows of a study's table, notes on excluded ones, and accuracy and metrics by (group, setting).

    Raises TypeError or ValueError as `check_columns`; ValueError also if accuracy isn't between 0 and 1, a group has a
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
    rows, notes = check_columns(
        frame, numbers=columns, positive=logarithms, labels=[*groups, setting], may_lack=columns
    )
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
            "distinguishes them"
        )
    values = {name: rows[column] if name == column else np.log(rows[column]) for name, column in sources.items()}
    return rows, notes, pd.DataFrame({accuracy: rows[accuracy], **values}).set_axis(keys).sort_index()


def comparable_cells(table: pd.DataFrame, name: str) -> tuple[pd.DataFrame, list[str]]:
    """Return the cells of groups with several cells, and a sentence on the excluded groups.

    `name` is the name of these cells in messages. Raises ValueError if too little remains to compare.
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
            f"{len(cells)} cells in {n_groups} groups{of} count as {n_effective}, cells - groups + 1; the tests "
            f"need {LEAST_EFFECTIVE}"
        )
    for key, column in cells.items():
        if not np.nan_to_num(centred(column.unstack().to_numpy())).any():
            raise ValueError(f"{key!r} is the same in all cells of each group{of}; there is nothing to correlate")
    note = f"of the cells {name!r}, {first_names(lone)} {'have' if len(lone) > 1 else 'has'} a single one: excluded"
    return cells, [note] if lone else []
