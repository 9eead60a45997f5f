"""Slips in a table: two settings of a member whose values, exchanged or moved, make the printed averages fit."""

from collections.abc import Sequence
from itertools import combinations
from typing import Literal, NamedTuple

import numpy as np

from .averages import ROUNDING
from .weights import Rows, fits, implied_value, tells, worst_misfit

__all__ = ["Place", "Repair", "find_repairs", "repaired"]

Place = tuple[int, int]
"""Metric and setting of an average."""


class Repair(NamedTuple):
    """A slip that would explain why averages don't fit."""

    kind: Literal["swap", "move"]
    """`swap`: values of two settings stand in each other's place. `move`: the value that belongs to setting `under`
    stands at `source` instead, whose own value isn't in the table."""
    member: int
    under: int
    """The setting whose value is the one printed at `source`."""
    source: int
    metrics: tuple[int, ...]
    """The metrics in which it happened."""
    units: float
    """The largest miss of an average afterwards, in units of what rounding allows."""
    left: tuple[tuple[float, float], ...]
    """Of a move, least and largest value of `source` that the averages allow, for each of `metrics`."""


class _Pair(NamedTuple):
    """Averages of two settings, and what they must fit with."""

    settings: tuple[int, int]
    metrics: tuple[int, ...]
    first: list[int]
    second: list[int]
    rest: list[int]

    def turned(self) -> "_Pair":
        return self._replace(settings=self.settings[::-1], first=self.second, second=self.first)


def find_repairs(rows: Rows, places: Sequence[Place], weights: np.ndarray | None = None) -> list[Repair]:
    """All single slips that make averages fit, in as few metrics at once as possible.

    Parameters
    ----------
    rows
        Averages that share their weights, and their members.
    places
        Where each average stands.
    weights
        The weights (member,), if they are known. Then averages don't depend on each other: a slip has to mend only
        those that it touches, and all slips are named that mend as many as any does.

    Returns
    -------
    list of Repair
        Empty if the averages fit as they are, or no single slip mends them, or without known weights the averages that
        it doesn't touch are fewer than members.

    Notes
    -----
    A move is only tried where both averages must be wrong: if it were enough to doubt one of them, a move would say no
    more than that. Where a swap fits, the two moves that it consists of aren't listed.
    """
    misfit = worst_misfit(rows.gaps(), weights)
    if misfit.units <= 1 + ROUNDING:
        return []
    bad = set(misfit.binding.tolist())
    metrics, settings = (sorted({place[k] for place in places}) for k in (0, 1))
    for size in range(1, len(metrics) + 1):
        chosen = [(some, pair) for some in combinations(metrics, size) for pair in combinations(settings, 2)]
        pairs = [_pair(places, some, *pair, alone=weights is not None) for some, pair in chosen]
        touching = [pair for pair in pairs if pair is not None and bad & {*pair.first, *pair.second}]
        found = [repair for pair in touching for repair in _of_pair(rows, pair, weights)]
        if found:
            mended = [
                len(bad & {*_at(places, one.metrics, one.under), *_at(places, one.metrics, one.source)})
                for one in found
            ]
            return [one for one, n in zip(found, mended, strict=True) if weights is None or n == max(mended)]
    return []


def repaired(rows: Rows, places: Sequence[Place], repair: Repair) -> Rows:
    """Averages as they are after a repair; those whose member then has no value are left out."""
    under, source = _at(places, repair.metrics, repair.under), _at(places, repair.metrics, repair.source)
    changed = _changed(rows, repair.kind, repair.member, under, source)
    return changed.only([k for k in range(len(places)) if repair.kind == "swap" or k not in source])


def _at(places: Sequence[Place], metrics: Sequence[int], setting: int) -> list[int]:
    return [places.index((metric, setting)) for metric in metrics]


def _pair(places: Sequence[Place], metrics: tuple[int, ...], a: int, b: int, *, alone: bool) -> _Pair | None:
    """Averages of settings a and b, if they all exist; `alone`: they need fit with no other."""
    if any((metric, setting) not in places for metric in metrics for setting in (a, b)):
        return None
    first, second = _at(places, metrics, a), _at(places, metrics, b)
    rest = [] if alone else [k for k in range(len(places)) if k not in (*first, *second)]
    return _Pair((a, b), metrics, first, second, rest)


def _of_pair(rows: Rows, pair: _Pair, weights: np.ndarray | None) -> list[Repair]:
    rest = rows.only(pair.rest).gaps()
    if weights is None and not (tells(rest) and fits(rest)):
        return []
    one_is_enough = any(fits(rows.only([*pair.rest, *one]).gaps(), weights) for one in (pair.first, pair.second))
    found: list[Repair | None] = []
    for member in range(rows.values.shape[1]):
        swap = _tried(rows, "swap", member, pair, weights)
        moves = (
            []
            if swap or one_is_enough
            else [_tried(rows, "move", member, one, weights) for one in (pair, pair.turned())]
        )
        found += [swap, *moves]
    return [one for one in found if one is not None]


def _tried(
    rows: Rows, kind: Literal["swap", "move"], member: int, pair: _Pair, weights: np.ndarray | None
) -> Repair | None:
    changed = _changed(rows, kind, member, pair.first, pair.second)
    kept = [*pair.rest, *pair.first, *(pair.second if kind == "swap" else [])]
    units = worst_misfit(changed.only(kept).gaps(), weights).units
    if units > 1 + ROUNDING:
        return None
    vacated = pair.second if kind == "move" else []
    left = tuple(implied_value(changed.only([*kept, row]), len(kept), member, weights) for row in vacated)
    return Repair(kind, member, *pair.settings, pair.metrics, units, left)


def _changed(rows: Rows, kind: str, member: int, under: list[int], source: list[int]) -> Rows:
    values = rows.values.copy()
    values[under, member] = rows.values[source, member]
    if kind == "swap":
        values[source, member] = rows.values[under, member]
    return rows._replace(values=values)
