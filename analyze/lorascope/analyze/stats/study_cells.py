"""The cells that metrics are compared on: a study's table, checked and laid out as groups by settings."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import NamedTuple

import numpy as np
import pandas as pd  # type: ignore[import-untyped]

from .correlations import centred
from .frame import Cells, checked, group_labels, some_of

__all__ = ["Metric", "StudyCells", "lay_out", "parse_metrics", "read_rows"]

LOG = "ln "
"""Beginning of the name of a metric that is the natural logarithm of a column."""
MOST_ITEMS = 2**53
"""The largest number of test items: above it not every whole number is a float64."""
LEAST_EFFECTIVE = 4
"""Fewest cells, less groups, plus 1, that a comparison takes: with fewer, Williams' t has no degree of freedom."""


class Metric(NamedTuple):
    """A column, or its logarithm, and which way it points."""

    name: str
    column: str
    sign: int
    """-1 where lower is better, 1 where higher is: what turns it the way of accuracy."""

    @property
    def is_log(self) -> bool:
        """Whether it is the logarithm of its column."""
        return self.name != self.column


@dataclass(frozen=True)
class StudyCells:
    """Cells of groups that have two or more of them; arrays are (group, setting), NaN where there is no cell."""

    name: str
    """Which cells of the table these are."""
    accuracy: np.ndarray
    """Shares from 0 to 1."""
    metrics: Mapping[str, np.ndarray]
    """Values in the table's units, or their logarithms."""
    groups: tuple[str, ...]
    """Names in alphabetical order, so that no result depends on the order of rows."""
    settings: tuple[str, ...]
    n_items: np.ndarray | None
    """Test items behind each accuracy, if known."""

    @property
    def n_cells(self) -> int:
        """How many cells there are."""
        return int(np.isfinite(self.accuracy).sum())

    @property
    def n_effective(self) -> int:
        """Cells, less groups, plus 1: what a correlation of values centred by group is worth."""
        return self.n_cells - len(self.groups) + 1


def parse_metrics(
    names: Sequence[str],
    reference: str | None,
    higher_is_better: Sequence[str],
    accuracy: str,
    columns: Collection[str],
) -> tuple[Metric, ...]:
    """Metrics from their names, the reference first; `ln CE` is the logarithm of the column `CE` unless it is a column.

    Raises ValueError if there is no metric, one is named twice or is accuracy itself, or an option names none of them.

    Examples
    --------
    >>> parse_metrics(["ln CE"], None, [], "ACC", ["ACC", "CE"])
    (Metric(name='ln CE', column='CE', sign=-1),)
    """
    if not names:
        raise ValueError("`metrics` is empty; name at least one column")
    if twice := [name for k, name in enumerate(names) if name in names[:k]]:
        raise ValueError(f"`metrics` names {twice[0]!r} twice; once is enough")
    first = names[0] if reference is None else reference
    for role, name in [("reference", first), *(("higher_is_better", name) for name in higher_is_better)]:
        if name not in names:
            raise ValueError(f"`{role}` names {name!r}, which isn't among the metrics {list(names)}")
    found = []
    for name in [first, *(name for name in names if name != first)]:
        bare = name.removeprefix(LOG)
        if accuracy in (name, bare):
            raise ValueError(f"metric {name!r} is accuracy itself; name what is to predict it")
        found.append(Metric(name, name if name in columns else bare, 1 if name in higher_is_better else -1))
    return tuple(found)


def read_rows(
    frame: pd.DataFrame,
    accuracy: str,
    metrics: Sequence[Metric],
    groups: Sequence[str],
    setting: str,
    n_items: int | str | None,
) -> Cells:
    """The rows of a table that can be compared, each setting of a group once.

    Raises TypeError or ValueError as `checked`; ValueError also if accuracy isn't between 0 and 1, a group has a
    setting twice, or items aren't whole numbers.
    """
    if not groups:
        raise ValueError("`groups` is empty; name the columns whose values say which cells may be compared")
    columns = list(dict.fromkeys(one.column for one in metrics))
    rows, left_out = checked(
        frame,
        numbers=[accuracy, *columns, *([n_items] if isinstance(n_items, str) else [])],
        positive=[one.column for one in metrics if one.is_log],
        labels=[*groups, setting],
        may_lack=[accuracy, *columns],
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
            "tells them apart"
        )
    for value in () if n_items is None else rows[n_items] if isinstance(n_items, str) else (n_items,):
        is_whole = isinstance(value, Integral | float) and not isinstance(value, bool) and value == value // 1
        if not (is_whole and 1 <= value <= MOST_ITEMS):
            raise ValueError(f"`n_items` gives {value!r}; test items are a whole number between 1 and 2^53")
    return Cells(rows, left_out)


def lay_out(
    rows: pd.DataFrame,
    name: str,
    accuracy: str,
    metrics: Sequence[Metric],
    groups: Sequence[str],
    setting: str,
    n_items: int | str | None,
) -> tuple[StudyCells, tuple[str, ...]]:
    """Some of the rows that `read_rows` returned as groups by settings, without groups of a single cell.

    Returns a sentence on these as well; raises ValueError if too little is left to compare.
    """
    labels = pd.Series(group_labels(rows, groups), rows.index)
    n = labels.map(labels.value_counts())
    lone, rows, labels = sorted(labels[n == 1]), rows[n > 1], labels[n > 1]
    keys = pd.MultiIndex.from_arrays([labels, rows[setting]])

    def table(values: pd.Series | float) -> np.ndarray:
        return np.asarray(pd.Series(np.broadcast_to(values, len(keys)), keys, np.float64).unstack())

    shape = pd.Series(0, keys).unstack()
    cells = StudyCells(
        name=name,
        accuracy=table(rows[accuracy]),
        metrics={one.name: table(np.log(rows[one.column]) if one.is_log else rows[one.column]) for one in metrics},
        groups=tuple(shape.index),
        settings=tuple(shape.columns),
        n_items=None if n_items is None else table(rows[n_items] if isinstance(n_items, str) else n_items),
    )
    _refuse_little(cells)
    said = f"of the cells {name!r}, {some_of(lone)} {'have' if len(lone) > 1 else 'has'} a single one: left out"
    return cells, (said,) if lone else ()


def _refuse_little(cells: StudyCells) -> None:
    of = "" if cells.name == "all" else f" of the cells {cells.name!r}"
    if len(cells.groups) < 2:
        raise ValueError(
            f"{len(cells.groups)} group{'' if len(cells.groups) == 1 else 's'}{of} with two cells or more; metrics are "
            "compared within groups, and how sure that is comes from the groups: give at least 2"
        )
    if cells.n_effective < LEAST_EFFECTIVE:
        raise ValueError(
            f"{cells.n_cells} cells in {len(cells.groups)} groups{of} count as {cells.n_effective}, cells less groups "
            f"plus 1; the tests need {LEAST_EFFECTIVE}"
        )
    for name, values in (("accuracy", cells.accuracy), *cells.metrics.items()):
        if not np.nan_to_num(centred(values)).any():
            raise ValueError(f"{name!r} is the same in all cells of each group{of}; there is nothing to correlate")
