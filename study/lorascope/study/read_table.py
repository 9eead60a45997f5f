"""A table from a file, and some of its rows."""

import csv
from collections.abc import Mapping, Sequence
from io import StringIO
from pathlib import Path

import numpy as np
import pandas as pd  # type: ignore[import-untyped]
from pandas.api.types import is_numeric_dtype  # type: ignore[import-untyped]

from lorascope.stores.places.files import read_regular

from .named import SUFFIXES

MAX_FILE_BYTES = 2**30
"""Bytes of the largest file, which is read whole."""
MOST_NAMED = 8
"""Values of a column that a message names."""


def read_table(path: str | Path) -> pd.DataFrame:
    """The table in a file, its rows numbered from 1 on; `attrs["source"]` says where it is from.

    Parameters
    ----------
    path
        A file ending in .csv or .tsv, in UTF-8. Between cells there are commas, semicolons or tabs, whichever the
        header has. An empty cell or NA is a value that is lacking.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If its name ends otherwise, it holds something else, a row has more cells than the header, or two columns have
        one name.
    """
    file = Path(path)
    suffix = file.suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(f"`{file}` isn't a table that can be read; its name must end in {', '.join(SUFFIXES)}")
    if not file.is_file():
        raise FileNotFoundError(f"`{file}` {'is no file' if file.exists() else 'is not there'}; name a table")
    try:
        content = read_regular(file, at_most=MAX_FILE_BYTES).decode("utf-8-sig")  # a spreadsheet's begins with a mark
        frame = _delimited(content, "," if suffix == ".csv" else "\t")
    except (ValueError, csv.Error) as error:
        raise ValueError(f"`{file}` can't be read as a table: {' '.join(str(error).split())}") from error
    frame.index = pd.RangeIndex(1, len(frame) + 1)
    frame.attrs["source"] = str(file)
    return frame


def select_rows(frame: pd.DataFrame, where: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    """The rows in which each column named holds one of the values named, as text; 32 and 32.0 are the same number.

    Raises
    ------
    ValueError
        If a column isn't there, it never holds a value, or no row is left.
    """
    is_chosen = pd.Series(True, index=frame.index)
    for name, values in where.items():
        if name not in frame.columns:
            existing = ", ".join(repr(str(column)) for column in frame.columns)
            raise ValueError(f"`where` names column {name!r}; the table has {existing}")
        labels, requested = frame[name].map(_label), [_label(value) for value in values]
        for value in values:
            if _label(value) not in set(labels):
                raise ValueError(f"`where` asks for {name}={value}, which no row has; {name!r} holds {_join(labels)}")
        is_chosen &= labels.isin(requested)
    if not is_chosen.any():
        conditions = " and ".join(f"{name}={','.join(values)}" for name, values in where.items())
        raise ValueError(f"`where` leaves no row: none has {conditions}" if len(frame) else "the table has no rows")
    chosen = frame[is_chosen]
    chosen.attrs = dict(frame.attrs)
    return chosen


def _delimited(content: str, promised: str) -> pd.DataFrame:
    """A table of rows of cells; empty cells beyond the header are left out.

    Not pandas' own reading, which takes the first column of longer rows for an index and renames columns named twice.
    """
    header = next((line for line in content.splitlines() if line), "")
    delimiter = max((promised, *",;\t"), key=lambda mark: len(next(csv.reader([header], delimiter=mark), [])))
    reader = csv.reader(StringIO(content, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True)
    names, *rows = [row for row in reader if len(row) > 1 or "".join(row).strip()] or [[]]
    names = [name.strip() for name in names]
    while names and not names[-1]:
        names.pop()
    if not names:
        raise ValueError("it has no header")
    if twice := [name for name in names if name and names.count(name) > 1]:
        raise ValueError(f"its header has {twice[0]!r} twice; give each column a name of its own")
    for n, row in enumerate(rows, 1):
        if any(cell.strip() for cell in row[len(names) :]):
            raise ValueError(
                f"row {n} has {len(row)} cells, the header {len(names)}; a cell that holds a delimiter needs quotes"
            )
    written = StringIO()
    csv.writer(written).writerows([names, *(row[: len(names)] for row in rows)])
    frame = pd.read_csv(StringIO(written.getvalue()), low_memory=False, index_col=False)
    return frame.assign(**{name: _mixed(frame[name]) for name in frame})


def _mixed(column: pd.Series) -> pd.Series:
    """A column that is text because of a few cells, with the numbers of the others: those few are what is wrong."""
    numbers = pd.to_numeric(column, errors="coerce")
    if is_numeric_dtype(column) or 2 * numbers.notna().sum() <= column.notna().sum():
        return column
    return numbers.astype(object).where(numbers.notna(), column)


def _label(value: object) -> str:
    """A value as text, the same for every way to write a number."""
    if isinstance(value, bool | np.bool_):
        return str(value)
    try:
        return repr(float(value))  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return str(value)


def _join(labels: pd.Series) -> str:
    values = [value.removesuffix(".0") for value in dict.fromkeys(labels)]
    more = f" and {len(values) - MOST_NAMED} more" if len(values) > MOST_NAMED else ""
    return ", ".join(values[:MOST_NAMED]) + more
