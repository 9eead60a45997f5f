"""Profile intervals: how far a parameter can go while all others make up for it; an end may be open.

Least squares with a spread that isn't known: minus twice the log-likelihood, spread profiled out, is n ln(SSR) and a
constant. Bates, Watts (1988), Nonlinear Regression Analysis, section 6.1; Venzon, Moolgavkar (1988), Appl. Stat. 37.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Literal, NamedTuple

import numpy as np

from .estimate import Estimate
from .solve import Problem, Solution, exponent_grid, least_squares

__all__ = ["Interval", "Profile", "Rule", "profile", "profiles", "thresholds"]

Rule = Literal["chi2", "F"]
N_STEPS = 30
"""Steps outwards, each half as long again as the one before, before an end counts as open."""
N_LOOKS = 19
"""Values of an exponent over its whole range at which is looked for further valleys."""
EXACT = 1e-10
"""Relative accuracy to which an end is found."""
ZERO = 1e-8
"""Exponents closer to 0 have amplitudes of which nothing can be said."""


class Interval(NamedTuple):
    """Values that the data don't speak against."""

    low: float
    """The lowest; where open, as far as was looked."""
    high: float
    low_open: bool
    """Whether the end lies beyond what is allowed or was looked at."""
    high_open: bool
    in_parts: bool
    """Whether some values inside are spoken against: the ends are the outermost."""


class Profile(NamedTuple):
    """The least sum of squares over everything else, for values of one parameter."""

    name: str
    values: np.ndarray
    """(m,) ascending."""
    ssr: np.ndarray
    """(m,)"""
    intervals: dict[Rule, Interval]


def thresholds(ssr: float, n: int, df: int, level: float) -> dict[Rule, float]:
    """Sums of squares up to which a value of one parameter is in its interval.

    chi2: n ln(SSR / least SSR) is at most the quantile of chi-square with 1 degree of freedom. F: (SSR - least SSR) is
    at most the quantile of F with 1 and df, times the least SSR over df.
    """
    from scipy import stats  # type: ignore[import-untyped]

    return {
        "chi2": ssr * math.exp(stats.chi2.ppf(level, 1) / n),
        "F": ssr * (1 + stats.f.ppf(level, 1, df) / df),
    }


def profiles(fit: Estimate, level: float) -> dict[str, Profile]:
    """Profile of each amplitude, slope and exponent of a least-squares fit."""
    design, exponents = fit.design, fit.parts[2]
    limits = thresholds(fit.ssr, fit.n, fit.df, level)
    found: dict[str, Profile] = {}
    for k, name in reversed(list(enumerate(design.exponents))):
        step = _first_step(fit.standard_errors[name], 2.0, fit.values[name])
        found[name] = profile(design.problem, exponents, name, ("exponent", k), fit.values[name], step, limits)
    for k, column in reversed(list(enumerate(design.columns))):
        name, powers = column.amplitude, list(column.exponents)
        if len(powers) == 1 and abs(float(exponents[powers[0]])) < ZERO:  # its amplitude is infinite
            continue
        value = fit.values[name]
        step = _first_step(fit.standard_errors[name], 10 * max(abs(value), 1e-9), value)
        one = profile(design.problem, exponents, name, ("amplitude", k), value, step, limits)
        # As a power becomes a constant, its amplitude goes to infinity on one side and comes back on the other: what is
        # allowed has two branches that meet there, and neither end of one of them bounds it.
        for rule, end in one.intervals.items() if len(powers) == 1 else ():
            own = found[design.exponents[powers[0]]].intervals[rule]
            if own.low <= 0 <= own.high:
                one.intervals[rule] = end._replace(low_open=True, high_open=True)
        found[name] = one
    return dict(reversed(found.items()))


def _first_step(error: float, most: float, value: float) -> float:
    """A step outwards: a standard error, where that is of any use."""
    return min(max(error, 1e-6 * max(abs(value), 1e-3)), most) if math.isfinite(error) else most / 10


def profile(
    problem: Problem, exponents: np.ndarray, name: str, place: tuple[str, int], value: float, step: float,
    limits: dict[Rule, float],
) -> Profile:  # fmt: skip
    """A parameter's profile and intervals from the best exponents, its place and a first step."""
    kind, which = place
    seen: dict[float, Solution] = {}

    def solve(at: float) -> Solution:
        if at not in seen:
            begin = seen[min(seen, key=lambda one: abs(one - at))].exponents if seen else exponents
            seen[at] = least_squares(_held(problem, kind, which, at), [begin], grid="coarse")
        return seen[at]

    bounds, coarse, own = (-math.inf, math.inf), np.zeros(0), list[int]()
    if kind == "amplitude":
        own += problem.columns[which].exponents
    else:
        bounds = (float(problem.bounds[which, 0]), float(problem.bounds[which, 1]))
        coarse = exponent_grid(*bounds, N_LOOKS)  # so that no further valley stays unseen
    inside = {at: solve(at).ssr for at in map(float, coarse)}
    intervals = {}
    for rule, limit in limits.items():
        allowed = [value, *(at for at, ssr in inside.items() if ssr <= limit)]
        low, low_open = _end(solve, min(allowed), -step, bounds[0], limit)
        high, high_open = _end(solve, max(allowed), step, bounds[1], limit)
        # an end that only stands where it does because an exponent of the term can go no further is open
        low_open, high_open = low_open or _stuck(solve(low), own), high_open or _stuck(solve(high), own)
        in_parts = any(low < at < high and ssr > limit for at, ssr in inside.items())
        intervals[rule] = Interval(low, high, low_open, high_open, in_parts)
    values = np.array(sorted(seen))
    return Profile(name, values, np.array([seen[at].ssr for at in values]), intervals)


def _held(problem: Problem, kind: str, which: int, at: float) -> Problem:
    """The problem with one parameter as it is printed held."""
    if kind == "exponent":
        return problem.fix(which, at)
    rest = problem.columns[:which] + problem.columns[which + 1 :]
    return replace(problem, columns=rest, known=(*problem.known, (problem.columns[which], at)))


def _end(
    solve: Callable[[float], Solution], begin: float, step: float, bound: float, limit: float
) -> tuple[float, bool]:
    """Where the sum of squares crosses the limit on one side, and whether it never does."""
    from scipy import optimize

    inner = begin
    for k in range(N_STEPS):
        outer = inner + step * 1.5**k
        if (outer - bound) * math.copysign(1, step) >= 0:
            outer = bound
        if solve(outer).ssr > limit:
            found = optimize.brentq(
                lambda at: math.log(solve(at).ssr / limit), inner, outer, rtol=EXACT, xtol=EXACT * abs(step)
            )
            return float(found), False
        if outer == bound:
            return bound, True
        inner = outer
    return inner, True


def _stuck(solution: Solution, exponents: list[int]) -> bool:
    return bool(solution.at_bound[exponents].any())
