"""What a published table can be checked for without its data, in one call."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd  # type: ignore[import-untyped]

from ..stats.frame import checked, group_labels
from ..stats.record import provenance
from .audit import Audit
from .averages import averages_part
from .ceilings import Ceiling, ceilings_part
from .decimals import decimals_of
from .duplicates import duplicates_part
from .grid import grid_of
from .hidden import ImpliedRow, RangeRow, RepairRow, WeightRow, hidden_weights
from .monotone import Direction, monotone_part
from .part import Part, rows_table
from .ratios import RatioClaim, ratios_part
from .rounding import half_unit
from .weight_findings import weight_findings, weight_verdicts

__all__ = ["audit_table"]


def audit_table(
    frame: pd.DataFrame,
    *,
    value: str = "value",
    averaged: str = "dataset",
    average: str | None = "AVG",
    members: Sequence[str] | None = None,
    metric: str = "metric",
    setting: str = "setting",
    groups: Sequence[str] = ("model",),
    printed: str | None = None,
    decimals: int | Mapping[str, int] | None = None,
    weighted: Sequence[Sequence[str]] | None = None,
    order: Mapping[str, Sequence[str]] | None = None,
    directions: Mapping[str, Direction] | None = None,
    ceilings: Mapping[str, Ceiling] | None = None,
    claims: Sequence[RatioClaim] = (),
) -> Audit:
    """A published table held against itself: averages, weights, slips, repeated runs, trends, ratios and ceilings.

    Parameters
    ----------
    frame
        One printed number a row, with columns of labels. Rows without a value are left out, and counted.
    value
        The column of numbers.
    averaged
        The column of what averages are over, such as data sets; averages are rows of their own in it.
    average
        What it calls an average, or None for a table without any.
    members
        What the average is over; by default all that `averaged` has beside it.
    metric, setting
        The columns of what is measured, and of the runs that are compared, such as ranks.
    groups
        Columns that tell apart what has averages and runs of its own, such as models; there may be none.
    printed
        A column of the numbers' printed characters, which show trailing zeros.
    decimals
        With how many decimals numbers were printed: one for all, or metric -> its own. By default read from `printed`,
        or else the most that any number of the metric shows, averages apart.
    weighted
        Metrics whose averages would share one vector of weights, a sequence for each vector; by default those of whose
        averages more than half aren't plain means, together.
    order, directions
        Name of an order -> its settings, and metric -> `rises` or `falls`, as it is claimed to do along every order.
    ceilings
        Metric -> the largest value it can have.
    claims
        Ratios or relative changes that a text names.

    Returns
    -------
    Audit
        A table for each check, findings in sentences and verdicts.

    Raises
    ------
    TypeError
        If this isn't a DataFrame, or `decimals` aren't whole numbers.
    ValueError
        If a column is missing or serves twice, a value isn't a finite number, two rows have the same labels, numbers
        have more decimals than are printed, or an option names what the table hasn't.

    Notes
    -----
    A printed number stands for all that round to it. An average and a weighted mean of its members may thus differ by
    half a unit of the average's last decimal and half of the members': where both have as many decimals, by one unit.
    What differs by more is wrong whatever the data were. Slips are looked for one at a time: two in one metric of one
    group go unexplained. That averages fit after a repair is evidence of a slip, not proof: count the rivals in
    `repairs`.

    Examples
    --------
    >>> import pandas as pd
    >>> rows = [("a", 0.2), ("b", 0.6), ("mean", 0.7)]
    >>> table = pd.DataFrame(rows, columns=["task", "value"]).assign(metric="accuracy", setting="base")
    >>> audit = audit_table(table, averaged="task", average="mean", groups=())
    >>> print(audit.verdicts[0].word, len(audit.averages))
    contradicted 1
    """
    options = {name: given for name, given in locals().items() if name != "frame"}  # before there are other names
    columns = [*groups, metric, setting, averaged]
    cells, left_out = _cells(frame, value, columns, printed)
    shown = decimals_of(cells, average, decimals)
    grid = grid_of(cells.assign(half=half_unit(shown)), average, members)
    hidden = hidden_weights(grid, weighted)
    averages, duplicates = averages_part(grid), duplicates_part(grid)
    weights = Part(
        rows_table(WeightRow, hidden.weights), weight_findings(hidden), weight_verdicts(hidden, grid.average)
    )
    steps = monotone_part(grid, order or {}, directions or {})
    ratios, limits = ratios_part(grid, claims), ceilings_part(grid, ceilings or {})
    parts = (averages, weights, duplicates, steps, ratios, limits)
    return Audit(
        averages=averages.table,
        weights=weights.table,
        ranges=rows_table(RangeRow, hidden.ranges),
        implied=rows_table(ImpliedRow, hidden.implied),
        repairs=rows_table(RepairRow, hidden.repairs),
        duplicates=duplicates.table,
        steps=steps.table,
        ratios=ratios.table,
        ceilings=limits.table,
        decimals=_decimals(cells, shown, average),
        findings=tuple(sentence for part in parts for sentence in part.findings),
        verdicts=tuple(verdict for part in parts for verdict in part.verdicts),
        notes=(*left_out, *(note for part in parts for note in part.notes)),
        provenance=provenance(cells, options | {"source": frame.attrs.get("source")}),
    )


def _cells(
    frame: pd.DataFrame, value: str, columns: Sequence[str], printed: str | None
) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """`group`, `metric`, `setting`, `member`, `value` and perhaps `printed` of each row with a value."""
    used = [value, *columns, *([] if printed is None else [printed])]
    twice = [name for name in used if used.count(name) > 1]
    if twice:
        raise ValueError(
            f"column {twice[0]!r} is named for two things; each of {', '.join(map(repr, used))} needs its own"
        )
    rows, left_out = checked(frame, numbers=[value], labels=used[1:], may_lack=[value])
    *groups, metric, setting, averaged = columns
    names = {"metric": metric, "setting": setting, "member": averaged, "value": value}
    names |= {} if printed is None else {"printed": printed}
    cells = pd.DataFrame(
        {"group": group_labels(rows, groups)} | {name: rows[old].to_numpy() for name, old in names.items()}
    )
    cells.index = rows.index
    _refuse_twins(cells)
    return cells, left_out


def _refuse_twins(cells: pd.DataFrame) -> None:
    labels = ["group", "metric", "setting", "member"]
    twins = cells[cells.duplicated(labels, keep=False)]
    if len(twins):
        same = twins[(twins[labels] == twins[labels].iloc[0]).all(axis=1)]
        named = ", ".join(filter(None, twins[labels].iloc[0]))
        raise ValueError(
            f"rows {', '.join(map(str, same.index))} have the same labels: {named}; keep one, or name the column that "
            "tells them apart among `groups`"
        )


def _decimals(cells: pd.DataFrame, shown: np.ndarray, average: str | None) -> pd.DataFrame:
    kind = np.where(cells["member"] == average, "average", "member")
    table = cells.assign(kind=kind, decimals=shown).groupby(["metric", "kind"], sort=False)["decimals"]
    return table.agg(decimals="max", n_values="size").reset_index()
