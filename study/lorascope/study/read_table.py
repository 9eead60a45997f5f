"""Reading a table from a file, and choosing some of its rows."""

import csv
from collections.abc import Mapping, Sequence
from io import StringIO
from pathlib import Path

import numpy as np
import pandas as pd  # type: ignore[import-untyped]
from pandas.api.types import is_numeric_dtype  # type: ignore[import-untyped]

from lorascope.stores.names import suggestion
from lorascope.stores.places.files import read_regular

from .study_names import SUFFIXES

MAX_FILE_BYTES = 2**30
"""Largest file that is read, since it is read at once."""
MOST_NAMED = 8
"""Most names, of units or of a column's values, that a message lists."""


def read_table(path: str | Path) -> pd.DataFrame:
    """Read a .csv or .tsv file as a DataFrame, with rows numbered from 1 and the path as `attrs["source"]`.

    Cells are separated by commas, semicolons or tabs, whichever the header has; an empty cell or NA is a missing value.
    Raises FileNotFoundError, or ValueError if the name ends otherwise, the file isn't a table, a row has more cells
    than the header, or two columns have the same name.
    """
    file = Path(path)
    suffix = file.suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(f"`{file}` isn't a table that can be read; its name must end in {', '.join(SUFFIXES)}")
    if not file.is_file():
        raise FileNotFoundError(f"`{file}` {'is no file' if file.exists() else 'is not there'}; name a table")
    try:
        content = read_regular(file, at_most=MAX_FILE_BYTES).decode("utf-8-sig")  # spreadsheets write a byte-order mark
        frame = _parse_table(content, "," if suffix == ".csv" else "\t")
    except (ValueError, csv.Error) as error:
        raise ValueError(f"`{file}` can't be read as a table: {' '.join(str(error).split())}") from error
    frame.index = pd.RangeIndex(1, len(frame) + 1)
    frame.attrs["source"] = str(file)
    return frame


def select_rows(frame: pd.DataFrame, where: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    """Return the rows whose value in each column of `where` is one of those listed; 32 and 32.0 are the same.

    Raises ValueError if a column doesn't exist, a value never occurs, or no row fits.
    """
    is_chosen = pd.Series(True, index=frame.index)
    for name, values in where.items():
        if name not in frame.columns:
            names = [str(column) for column in frame.columns]
            existing = f"{', '.join(map(repr, names))}{suggestion(name, names)}"
            raise ValueError(f"`where` names column {name!r}; the table has {existing}")
        labels, requested = frame[name].map(_value_label), [_value_label(value) for value in values]
        for value in values:
            if _value_label(value) not in set(labels):
                known = join_names([label.removesuffix(".0") for label in dict.fromkeys(labels)])
                raise ValueError(f"`where` asks for {name}={value}, which no row has; {name!r} holds {known}")
        is_chosen &= labels.isin(requested)
    if not is_chosen.any():
        conditions = " and ".join(f"{name}={','.join(values)}" for name, values in where.items())
        raise ValueError(f"`where` leaves no row: none has {conditions}" if len(frame) else "the table has no rows")
    chosen = frame[is_chosen]
    chosen.attrs = dict(frame.attrs)
    return chosen


def _parse_table(content: str, usual_delimiter: str) -> pd.DataFrame:
    """Return delimited text as a DataFrame; raise ValueError for text beyond the header or a column named twice.

    pandas alone would use the first column of longer rows as an index, and rename columns with the same name.
    """
    header = next((line for line in content.splitlines() if line), "")
    delimiter = max((usual_delimiter, *",;\t"), key=lambda mark: len(next(csv.reader([header], delimiter=mark), [])))
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
    return frame.assign(**{name: _convert_numbers(frame[name]) for name in frame})


def _convert_numbers(column: pd.Series) -> pd.Series:
    """Return a text column with its numbers as numbers if most cells are; other cells stay text."""
    numbers = pd.to_numeric(column, errors="coerce")
    if is_numeric_dtype(column) or 2 * numbers.notna().sum() <= column.notna().sum():
        return column
    return numbers.astype(object).where(numbers.notna(), column)


def _value_label(value: object) -> str:
    """Return a value as text to compare it by: 32, 32.0 and '32' all give '32.0'."""
    if isinstance(value, bool | np.bool_):
        return str(value)
    try:
        return repr(float(value))  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return str(value)


def join_names(names: Sequence[str]) -> str:
    """Return the first `MOST_NAMED` names as text for a message, and how many more there are."""
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(names[:MOST_NAMED]) + more
