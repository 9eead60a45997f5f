"""Options that several commands of studies share: columns and rows."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import pandas as pd  # type: ignore[import-untyped]
from cyclopts import Parameter, Token

from lorascope.study.read_study import read_study

from ..screen import aside, progress_bar

__all__ = ["GROUPS", "NONE", "Whole", "chosen_groups", "listed", "rows_where", "study_table"]

GROUPS = ("dataset", "split", "prompt", "model")
"""Columns of which those that vary tell groups apart, where nothing else is said."""
NONE = "none"
"""The word for no column."""


def _whole(kind: Any, tokens: Sequence[Token]) -> int:
    """A whole number as it is written: 1.5 isn't rounded to one."""
    try:
        return int(tokens[0].value)
    except ValueError:
        raise ValueError(f"{tokens[0].value!r} isn't a whole number") from None


Whole = Annotated[int, Parameter(converter=_whole)]


def listed(text: str) -> tuple[str, ...]:
    """Names with commas between; `none` for no name.

    Examples
    --------
    >>> listed("dataset, model"), listed("none")
    (('dataset', 'model'), ())
    """
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    return () if names == (NONE,) else names


def rows_where(where: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Column -> values of which a row must hold one, from `column=value,value`."""
    found = {}
    for one in where:
        name, _, values = (side.strip() for side in one.partition("="))
        if not name or not values:
            raise ValueError(f"`where` is {one!r}; write it as name=value")
        found[name] = tuple(value.strip() for value in values.split(","))
    if len(found) < len(where):
        raise ValueError(f"`where` is {list(where)}; name each column once, its values with commas between")
    return found


def study_table(study: Sequence[str], where: Mapping[str, Sequence[str]], workers: int | None) -> pd.DataFrame:
    """What `read_study` returns, a bar for each run drawn beside the answer."""
    if workers is not None and workers < 1:
        raise ValueError(f"`workers` is {workers}; give at least 1")
    with progress_bar("runs", to=aside) as update:
        return read_study(
            study, where=where, n_workers=workers, progress=lambda done, total, part="": update(done, total, title=part)
        )


def chosen_groups(frame: pd.DataFrame, named: str | None) -> tuple[str, ...]:
    """Columns that tell groups apart: those named, or by default those of `GROUPS` that vary in the table."""
    if named is not None:
        return listed(named)
    return tuple(name for name in GROUPS if name in frame.columns and frame[name].nunique() > 1)
