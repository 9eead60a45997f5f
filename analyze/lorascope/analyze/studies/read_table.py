"""A table from a file, and some of its rows."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd  # type: ignore[import-untyped]
from pandas.api.types import is_numeric_dtype  # type: ignore[import-untyped]

__all__ = ["SUFFIXES", "read_table", "select_rows"]

MOST_NAMED = 8
"""Values of a column that a message names."""


def read_table(path: str | Path, *, text: Sequence[str] = ()) -> pd.DataFrame:
    """The table in a file, its rows numbered from 1 on; `attrs["source"]` says where it is from.

    Parameters
    ----------
    path
        A file ending in .csv, .tsv, .json (a list of objects) or .jsonl (an object a line), in UTF-8. An empty cell, NA
        or null is a value that is lacking.
    text
        Columns whose characters are kept as they are; of others, numbers are numbers.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If its name ends otherwise, or it holds something else.
    """
    file = Path(path)
    if file.suffix not in SUFFIXES:
        raise ValueError(f"`{file}` isn't a table that can be read; its name must end in {', '.join(SUFFIXES)}")
    if not file.is_file():
        raise FileNotFoundError(f"`{file}` {'is no file' if file.exists() else 'is not there'}; name a table")
    try:
        frame = READERS[file.suffix](file, text)
    except (ValueError, RecursionError) as error:
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
    kept = pd.Series(True, index=frame.index)
    for name, values in where.items():
        if name not in frame.columns:
            there = ", ".join(repr(str(column)) for column in frame.columns)
            raise ValueError(f"`where` names column {name!r}; the table has {there}")
        held = frame[name].map(_label)
        for value in values:
            if _label(value) not in set(held):
                raise ValueError(f"`where` asks for {name}={value}, which no row has; {name!r} holds {_listed(held)}")
        kept &= held.isin([_label(value) for value in values])
    if not kept.any():
        asked = " and ".join(f"{name}={','.join(values)}" for name, values in where.items())
        raise ValueError(f"`where` leaves no row: none has {asked}" if len(frame) else "the table has no rows")
    found = frame[kept]
    found.attrs = dict(frame.attrs)
    return found


def _label(value: object) -> str:
    """A value as text, the same for every way to write a number."""
    if isinstance(value, bool | np.bool_):
        return str(value)
    try:
        return repr(float(value))  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return str(value)


def _listed(held: pd.Series) -> str:
    values = [value.removesuffix(".0") for value in dict.fromkeys(held)]
    more = f" and {len(values) - MOST_NAMED} more" if len(values) > MOST_NAMED else ""
    return ", ".join(values[:MOST_NAMED]) + more


def _delimited(delimiter: str) -> Callable[[Path, Sequence[str]], pd.DataFrame]:
    def read(file: Path, text: Sequence[str]) -> pd.DataFrame:
        # A file of a spreadsheet may begin with a mark of its encoding.
        kept = dict.fromkeys(text, str)
        frame = pd.read_csv(file, sep=delimiter, encoding="utf-8-sig", dtype=kept, low_memory=False)
        return frame.assign(**{name: _mixed(frame[name]) for name in frame if name not in kept})

    return read


def _mixed(column: pd.Series) -> pd.Series:
    """A column that is text because of a few cells, with the numbers of the others: those few are what is wrong."""
    if is_numeric_dtype(column):
        return column
    numbers = pd.to_numeric(column, errors="coerce")
    if 2 * numbers.notna().sum() <= column.notna().sum():
        return column
    told = {place: int(number) if number.is_integer() else number for place, number in numbers.dropna().items()}
    return pd.Series([told.get(place, value) for place, value in column.items()], column.index, object)


def _json(file: Path, text: Sequence[str]) -> pd.DataFrame:
    return _records(json.loads(file.read_text(encoding="utf-8")))


def _json_lines(file: Path, text: Sequence[str]) -> pd.DataFrame:
    lines = file.read_text(encoding="utf-8").split("\n")
    return _records([json.loads(line) for line in lines if line.strip()])


def _records(rows: Any) -> pd.DataFrame:
    # Not pandas' own reader, which makes numbers of text and dates of numbers.
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError("it isn't a list of objects, one a row")
    return pd.DataFrame(rows)


READERS = {".csv": _delimited(","), ".tsv": _delimited("\t"), ".json": _json, ".jsonl": _json_lines}
SUFFIXES = tuple(READERS)
"""Endings of the names of files that hold a table."""
