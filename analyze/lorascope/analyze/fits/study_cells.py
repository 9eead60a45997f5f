"""Cells by group and setting on which metrics are compared, checked."""

from collections.abc import Sequence

import numpy as np
import pandas as pd  # type: ignore[import-untyped]

from .correlations import centred
from .frame import checked, group_labels, some_of

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
