"""Whether one vector of weights makes the averages, what it can be, and which slip would explain that none does."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from .families import Family, families_of, left_out_sets
from .grid import Grid
from .repairs import Repair, find_repairs, repaired
from .weights import fits, implied_value, n_distinct, tells, weight_ranges, worst_misfit

__all__ = ["AS_PRINTED", "HiddenWeights", "ImpliedRow", "RangeRow", "RepairRow", "WeightRow", "hidden_weights"]

AS_PRINTED = "as printed"
NO_MISS = 1e-9
"""A miss that float64 makes of none, in units of what rounding allows."""
MOST_CASES = 3
"""Repairs of one family for which ranges of weights are given."""


class WeightRow(NamedTuple):
    """Averages of a group, asked for one vector of weights."""

    group: str
    metrics: str
    weights: str
    """`equal`, or `free`: whatever misses least."""
    n_averages: int
    n_distinct: int
    """Different ones: a run printed twice counts once."""
    n_members: int
    rounding_units: float
    """The largest miss, in units of what rounding of average and members allows."""
    fits: bool
    """Whether that is up to 1."""
    tells: bool
    """Whether there are averages enough that they could have failed to fit."""
    asked: bool
    """Whether it is judged; the other rows stand beside it for comparison."""


class RangeRow(NamedTuple):
    """The weights of a member that fit."""

    group: str
    metrics: str
    case: str
    """As printed, or after a slip has been repaired."""
    member: str
    low: float
    high: float


class ImpliedRow(NamedTuple):
    """A cell of an average that contradicts the others."""

    group: str
    metrics: str
    left_out: str
    """The averages without which the others fit."""
    metric: str
    setting: str
    member: str
    printed: float
    low: float
    high: float
    """What the cell would have to be, if all others are right; infinite where anything goes."""
    printed_under: str
    """Settings under which the member has such a value."""


class RepairRow(NamedTuple):
    """A metric of a slip that would explain why averages don't fit."""

    group: str
    metrics: str
    kind: str
    """`swap`: values of two settings stand in each other's place; `move`: what belongs under `under` is printed under
    `source`, whose own value isn't in the table."""
    member: str
    metric: str
    under: str
    source: str
    printed_under: float
    printed_source: float
    source_low: float
    source_high: float
    """What a move leaves for `source`; NaN for a swap."""
    rounding_units: float
    """The largest miss afterwards."""


class HiddenWeights(NamedTuple):
    """What can be said of the weights behind averages."""

    weights: list[WeightRow]
    ranges: list[RangeRow]
    implied: list[ImpliedRow]
    repairs: list[RepairRow]


def hidden_weights(grid: Grid, weighted: Sequence[Sequence[str]] | None = None) -> HiddenWeights:
    """Rows about weights; parameters and errors as `families_of`."""
    found = HiddenWeights([], [], [], [])
    for family in families_of(grid, weighted):
        repairs = find_repairs(family.rows, family.places, family.weights) if family.searched else []
        found.weights.append(_fit(grid, family))
        found.ranges.extend(_ranges(grid, family, repairs))
        found.implied.extend(_implied(grid, family) if family.searched else [])
        found.repairs.extend(row for repair in repairs for row in _slip(grid, family, repair))
    return found


def _fit(grid: Grid, family: Family) -> WeightRow:
    gaps = family.rows.gaps()
    return WeightRow(
        grid.groups[family.group],
        family.names(grid),
        "equal" if family.equal else "free",
        len(gaps),
        n_distinct(gaps),
        len(family.members),
        _cleared(worst_misfit(gaps, family.weights).units),
        fits(gaps, family.weights),
        tells(gaps, family.weights),
        family.searched,
    )


def _cleared(units: float) -> float:
    return 0.0 if units < NO_MISS else units


def _ranges(grid: Grid, family: Family, repairs: Sequence[Repair]) -> list[RangeRow]:
    if family.equal:
        return []
    cases = {AS_PRINTED: family.rows} if fits(family.rows.gaps()) else {}
    cases |= {_case(grid, family, one): repaired(family.rows, family.places, one) for one in repairs[:MOST_CASES]}
    return [
        RangeRow(grid.groups[family.group], family.names(grid), case, grid.members[member], low, high)
        for case, rows in cases.items()
        for member, (low, high) in zip(family.members, weight_ranges(rows.gaps()).tolist(), strict=True)
    ]


def _case(grid: Grid, family: Family, repair: Repair) -> str:
    what = f"{grid.members[family.members[repair.member]]} {', '.join(grid.metrics[m] for m in repair.metrics)}"
    under, source = grid.settings[repair.under], grid.settings[repair.source]
    return (
        f"{what} of {under} and {source} swapped" if repair.kind == "swap" else f"{what} of {source} moved to {under}"
    )


def _slip(grid: Grid, family: Family, repair: Repair) -> list[RepairRow]:
    member = family.members[repair.member]
    values = grid.values[family.group, :, :, member]
    return [
        RepairRow(
            grid.groups[family.group],
            family.names(grid),
            repair.kind,
            grid.members[member],
            grid.metrics[m],
            grid.settings[repair.under],
            grid.settings[repair.source],
            float(values[m, repair.under]),
            float(values[m, repair.source]),
            low,
            high,
            _cleared(repair.units),
        )
        for m, (low, high) in zip(repair.metrics, repair.left or [(np.nan, np.nan)] * len(repair.metrics), strict=True)
    ]


def _implied(grid: Grid, family: Family) -> list[ImpliedRow]:
    return [
        _cell(grid, family, left, row, k)
        for left in left_out_sets(family)
        for row in left
        for k in range(len(family.members))
    ]


def _cell(grid: Grid, family: Family, left: tuple[int, ...], row: int, k: int) -> ImpliedRow:
    """The member `k` of the average `row`, if the averages `left` aren't believed."""
    kept = [place for place in range(len(family.places)) if place not in left]
    low, high = implied_value(family.rows.only([*kept, row]), len(kept), k, family.weights)
    (metric, setting), member = family.places[row], family.members[k]
    printed = grid.values[family.group, metric, :, member]
    also = [name for name, value in zip(grid.settings, printed, strict=True) if low <= value <= high < np.inf]
    names = [f"{grid.metrics[m]} {grid.settings[s]}" for m, s in (family.places[one] for one in left)]
    return ImpliedRow(
        grid.groups[family.group],
        family.names(grid),
        ", ".join(names),
        grid.metrics[metric],
        grid.settings[setting],
        grid.members[member],
        float(printed[setting]),
        low,
        high,
        ", ".join(also),
    )
