"""Hidden weights: whether one vector of weights makes all printed averages, and what it can be."""

from typing import Any, NamedTuple

import numpy as np

from .averages import ROUNDING

__all__ = [
    "Misfit",
    "Rows",
    "fits",
    "implied_value",
    "least_left_out",
    "n_distinct",
    "tells",
    "weight_ranges",
    "worst_misfit",
]

MOST_LEFT_OUT = 2
"""Averages that are left out, to see whether the rest fits."""
NO_WEIGHT = 1e-9
"""A weight that may be as small as this says nothing about its member's value."""


class Rows(NamedTuple):
    """Averages and what they are averages of."""

    values: np.ndarray
    """Float64 (average, member)."""
    averages: np.ndarray
    """Float64 (average,)."""
    allowed: np.ndarray
    """By how much rounding of an average and its members lets it differ from their weighted mean; (average,)."""

    def gaps(self) -> np.ndarray:
        """Members less their average in units of what rounding allows, (average, member)."""
        return np.asarray((self.values - self.averages[:, None]) / self.allowed[:, None])

    def only(self, kept: np.ndarray | list[int]) -> "Rows":
        """Some of the averages."""
        return Rows(self.values[kept], self.averages[kept], self.allowed[kept])


class Misfit(NamedTuple):
    """The weights that miss the averages least."""

    units: float
    """The largest miss, in units of what rounding allows: up to 1 the averages fit."""
    weights: np.ndarray
    """Float64 (member,), none negative, of sum 1."""
    binding: np.ndarray
    """Rows, int64: to make the others fit, one of these must be left out."""


def worst_misfit(gaps: np.ndarray, weights: np.ndarray | None = None) -> Misfit:
    """The least that the largest miss of any weights can be, or the largest miss of the weights given.

    Parameters
    ----------
    gaps
        Members less their average in units of what rounding allows, (average, member); see `Rows.gaps`.
    weights
        The weights (member,), if they are known.

    Notes
    -----
    A linear program: least v with |gaps @ w| <= v, w >= 0 and sum(w) = 1. As w sums to 1, gaps @ w is the weighted mean
    less the average. Rows with a dual value above zero have the same optimum on their own: they are the binding ones.
    """
    if weights is not None:
        misses = np.abs(gaps @ weights)
        return Misfit(float(misses.max()), weights, np.flatnonzero(misses > 1 + ROUNDING))
    n_rows, n_members = gaps.shape
    sides = np.vstack([gaps, -gaps])
    found = _solved(
        np.append(np.zeros(n_members), 1.0),
        A_ub=np.column_stack([sides, -np.ones(2 * n_rows)]),
        b_ub=np.zeros(2 * n_rows),
        A_eq=np.append(np.ones(n_members), 0.0)[None],
        b_eq=[1.0],
    )
    best = np.clip(found.x[:-1], 0, None)
    best /= best.sum()
    duals = np.abs(found.ineqlin.marginals).reshape(2, n_rows).max(axis=0)
    return Misfit(float(np.abs(gaps @ best).max()), best, np.flatnonzero(duals > 1e-9))


def fits(gaps: np.ndarray, weights: np.ndarray | None = None) -> bool:
    """Whether some weights, or those given, miss no average by more than rounding allows; without averages they do."""
    return not len(gaps) or worst_misfit(gaps, weights).units <= 1 + ROUNDING


def n_distinct(gaps: np.ndarray) -> int:
    """How many different averages there are: a run printed twice tells nothing new."""
    return len(np.unique(gaps, axis=0))


def weight_ranges(gaps: np.ndarray) -> np.ndarray:
    """The least and the largest weight of each member among all weights that fit.

    Parameters
    ----------
    gaps
        As for `worst_misfit`, of averages that fit.

    Returns
    -------
    np.ndarray
        Float64 (member, 2).

    Raises
    ------
    ValueError
        If no weights fit.
    """
    if not fits(gaps):
        raise ValueError("no weights fit these averages, so there are no ranges; see `worst_misfit`")
    n = gaps.shape[1]
    limits: dict[str, Any] = {
        "A_ub": np.vstack([gaps, -gaps]),
        "b_ub": np.full(2 * len(gaps), 1 + 2 * ROUNDING),
        "A_eq": np.ones((1, n)),
        "b_eq": [1.0],
    }
    ends = [[sign * _solved(sign * one, **limits).fun for sign in (1, -1)] for one in np.eye(n)]
    return np.asarray(np.clip(ends, 0, 1))


def implied_value(rows: Rows, row: int, member: int, weights: np.ndarray | None = None) -> tuple[float, float]:
    """Least and largest value that one cell may have been printed with, if its average is right and so are all others.

    Parameters
    ----------
    rows
        The averages; all but `row` must fit.
    row, member
        The cell; its own value isn't used.
    weights
        The weights (member,), if they are known; else they are whatever fits the other rows.

    Returns
    -------
    tuple of float
        -inf and inf where the member may have no weight: then nothing is implied.

    Notes
    -----
    With known weights x = (average +- allowed - sum of the others' w x)/w. Else this is a linear-fractional program;
    with u = w/w_member and t = 1/w_member (Charnes and Cooper 1962) it is linear: optimise t (average +- allowed) - sum
    of the others' u x, subject to the other rows times t, u_member = 1 and sum(u) = t.

    References
    ----------
    Charnes and Cooper (1962), Programming with linear fractional functionals, Naval Research Logistics Quarterly 9.
    """
    others = np.flatnonzero(np.arange(rows.values.shape[1]) != member)
    ends = rows.averages[row] + np.array([-1, 1]) * rows.allowed[row]
    if weights is not None:
        low, high = (ends - rows.values[row, others] @ weights[others]) / weights[member]
        return float(low), float(high)
    rest = rows.only(np.flatnonzero(np.arange(len(rows.averages)) != row)).gaps()
    if not len(rest) or weight_ranges(rest)[member, 0] <= NO_WEIGHT:
        return -np.inf, np.inf
    n = rest.shape[1]
    sides = np.vstack([rest, -rest])  # times u they are t times the miss, as u sums to t
    limits: dict[str, Any] = {
        "A_ub": np.column_stack([sides, np.full(len(sides), -1 - 2 * ROUNDING)]),
        "b_ub": np.zeros(len(sides)),
        "A_eq": np.stack([np.append(np.ones(n), -1.0), np.append(np.eye(n)[member], 0.0)]),
        "b_eq": [0.0, 1.0],
    }
    cost = np.append(-rows.values[row], 0.0)
    cost[member] = 0
    ask = np.eye(n + 1)[-1]
    low = _solved(cost + ends[0] * ask, **limits).fun
    return float(low), -float(_solved(-cost - ends[1] * ask, **limits).fun)


def least_left_out(gaps: np.ndarray, weights: np.ndarray | None = None) -> list[tuple[int, ...]]:
    """Smallest sets of averages, of one or two, without which the rest fits; empty if there are none or none is needed.

    Parameters
    ----------
    gaps, weights
        As for `worst_misfit`.

    Notes
    -----
    Each such set holds a binding row (see `worst_misfit`) of the whole, and each of two holds a binding row of what is
    left without its first: so only those are tried, whatever the number of rows. Without known weights a rest of fewer
    different averages than members isn't tried: almost any would fit.
    """
    tried: set[tuple[int, ...]] = {()}
    for _ in range(MOST_LEFT_OUT + 1):
        misfits = {left: worst_misfit(np.delete(gaps, left, axis=0), weights) for left in tried}
        fitting = sorted(left for left, one in misfits.items() if one.units <= 1 + ROUNDING)
        if fitting:
            return [left for left in fitting if left]
        grown = {
            tuple(sorted((*left, row)))
            for left, one in misfits.items()
            for row in np.delete(np.arange(len(gaps)), left)[one.binding].tolist()
        }
        tried = {left for left in grown if tells(np.delete(gaps, left, axis=0), weights)}
    return []


def tells(gaps: np.ndarray, weights: np.ndarray | None = None) -> bool:
    """Whether it says anything that averages fit: known weights need one, unknown ones as many different as members."""
    return len(gaps) > 0 if weights is not None else n_distinct(gaps) >= gaps.shape[1]


def _solved(cost: np.ndarray, **limits: Any) -> Any:
    """SciPy's result of a linear program in variables that aren't negative."""
    from scipy.optimize import linprog  # type: ignore[import-untyped]  # slow to import, and scipy ships no types

    found = linprog(cost, bounds=(0, None), method="highs", **limits)
    if not found.success:
        raise RuntimeError(f"the linear program of the weights wasn't solved: {found.message}")
    return found
