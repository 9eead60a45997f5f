"""Tests whether printed averages are plain means, or means with one vector of weights, within rounding."""

from itertools import permutations
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.optimize import linprog

from lorascope.study.paper_tables import paper_table

AVERAGE = "AVG"
HALF_UNITS = {"ACC": 0.0005, "CE": 0.0005, "MIUB": 0.05}
"""Metric -> largest rounding error of a number in table 1: half a unit of its last decimal."""
ROUNDING = 1e-6
"""Tolerance of floating-point numbers and linear programs, as a share of the allowed rounding."""


class Averages(NamedTuple):
    """Printed averages of a model's metrics, with their members: the data sets' printed values."""

    members: np.ndarray
    """Printed members, (average, member)."""
    printed: np.ndarray
    """Printed averages, (average,)."""
    allowed: np.ndarray
    """Largest distance from the weighted mean that rounding of average and members allows, (average,)."""
    names: list[tuple[str, str]]
    """Metric and setting of each average."""

    def gaps(self) -> np.ndarray:
        """Return members minus their average, (average, member), in units of what rounding allows."""
        return (self.members - self.printed[:, None]) / self.allowed[:, None]

    def without(self, place: int) -> "Averages":
        """Return all averages except the one at index `place`."""
        rest = [k for k in range(len(self.printed)) if k != place]
        return Averages(self.members[rest], self.printed[rest], self.allowed[rest], [self.names[k] for k in rest])


class Slip(NamedTuple):
    """A value of table 1 that may be printed in the wrong column, since averages would fit if it were moved."""

    model: str
    member: str
    metric: str
    under: str
    """Setting that the value belongs to."""
    source: str
    """Setting that it is printed under; the value of that setting is missing in the table."""
    printed_under: float
    printed_source: float
    low: float
    high: float
    """Ends of the range that the averages leave for the value of `source`."""


def wide_table() -> pd.DataFrame:
    """Return the paper's table 1 with one column per data set and for AVG; rows are model, metric and setting."""
    table = paper_table(1)
    order = list(dict.fromkeys(zip(table["model"], table["metric"], table["setting"], strict=True)))
    wide = table.pivot(index=["model", "metric", "setting"], columns="dataset", values="value").loc[order]
    return wide[list(dict.fromkeys(table["dataset"]))]


def averages_of(wide: pd.DataFrame, model: str, metrics: tuple[str, ...]) -> Averages:
    """Return the printed averages of a model's `metrics`, with their members and what rounding allows."""
    rows = pd.concat([wide.loc[[model]].xs(metric, level="metric", drop_level=False) for metric in metrics])
    names = [(metric, setting) for _, metric, setting in rows.index]
    allowed = np.array([2 * HALF_UNITS[metric] for metric, _ in names])
    return Averages(rows.drop(columns=AVERAGE).to_numpy(), rows[AVERAGE].to_numpy(), allowed, names)


def plain_misses(averages: Averages) -> np.ndarray:
    """Return each average's distance from the plain mean, (average,), in units of what rounding allows.

    Up to 1, rounding explains it.
    """
    return np.abs(averages.gaps().mean(axis=1))


def least_miss(averages: Averages) -> float:
    """Return the largest distance of averages from a weighted mean, with the weights that make it smallest.

    It is in units of what rounding allows (`allowed`), and found by a linear program: the least v with
    |gaps @ w| <= v, w >= 0 and sum(w) = 1.
    """
    gaps = averages.gaps()
    sides = np.vstack([gaps, -gaps])
    solution = _solve(
        np.append(np.zeros(gaps.shape[1]), 1.0),
        A_ub=np.column_stack([sides, -np.ones(len(sides))]),
        b_ub=np.zeros(len(sides)),
        A_eq=np.append(np.ones(gaps.shape[1]), 0.0)[None],
        b_eq=[1.0],
    )
    return float(solution.fun)


def implied_value(averages: Averages, place: int, member: int) -> tuple[float, float]:
    """Return the least and largest value that `member` of the average `place` can have, if all averages are right.

    With u = w/w_member and t = 1/w_member (Charnes and Cooper 1962, Naval Research Logistics Quarterly 9) this
    linear-fractional program is linear: optimise t (average +- allowed) - sum of the others' u x.
    """
    rest = averages.without(place).gaps()
    n = rest.shape[1]
    sides = np.vstack([rest, -rest])  # times u they are t times the miss, as u sums to t
    limits = {
        "A_ub": np.column_stack([sides, np.full(len(sides), -1 - 2 * ROUNDING)]),
        "b_ub": np.zeros(len(sides)),
        "A_eq": np.stack([np.append(np.ones(n), -1.0), np.append(np.eye(n)[member], 0.0)]),
        "b_eq": [0.0, 1.0],
    }
    cost = np.append(-averages.members[place], 0.0)
    cost[member] = 0
    low, high = averages.printed[place] + np.array([-1, 1]) * averages.allowed[place]
    ask = np.eye(n + 1)[-1]
    return float(_solve(cost + low * ask, **limits).fun), -float(_solve(-cost - high * ask, **limits).fun)


def find_slips(wide: pd.DataFrame, model: str, metric: str, others: tuple[str, ...]) -> list[Slip]:
    """Return all single values whose move to another column of table 1 would make a metric's averages fit.

    `wide` is what `wide_table` returns; `others` are metrics that share the weights, or, for a plain mean, none.
    """
    averages = averages_of(wide, model, (metric, *others))
    members = [name for name in wide.columns if name != AVERAGE]
    settings = [setting for name, setting in averages.names if name == metric]
    slips = []
    for k, (under, source) in ((k, pair) for k in range(len(members)) for pair in permutations(settings, 2)):
        a, b = (averages.names.index((metric, setting)) for setting in (under, source))
        moved = averages.members.copy()
        moved[a, k] = moved[b, k]
        mended = averages._replace(members=moved)
        left = mended.without(b)
        if not others:
            if plain_misses(left).max() > 1 + ROUNDING:
                continue
            rest = averages.members[b].sum() - averages.members[b, k]
            ends = [len(members) * (averages.printed[b] + sign * averages.allowed[b]) - rest for sign in (-1, 1)]
        elif least_miss(left) > 1 + ROUNDING:
            continue
        else:
            ends = list(implied_value(mended, b, k))
        printed = averages.members[a, k], averages.members[b, k]
        slips.append(Slip(model, members[k], metric, under, source, *map(float, (*printed, *ends))))
    return slips


def _solve(cost: np.ndarray, **limits: Any) -> Any:
    """Return SciPy's solution of a linear program in nonnegative variables; raise RuntimeError if it fails."""
    solution = linprog(cost, bounds=(0, None), method="highs", **limits)
    if not solution.success:
        raise RuntimeError(f"the linear program of the weights wasn't solved: {solution.message}")
    return solution
