"""Profile intervals: how far a parameter can go while all others make up for it; an end may be open.

Least squares with a spread that isn't known: minus twice the log-likelihood, spread profiled out, is n ln(SSR) and a
constant. Bates, Watts (1988), Nonlinear Regression Analysis, section 6.1; Venzon, Moolgavkar (1988), Appl. Stat. 37.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from lorascope.analyze.results.format import format_number

from .estimate import Estimate
from .solve import Problem, Solution, exponent_grid, least_squares

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
    interval: Interval


def interval_text(interval: Sequence[Any], digits: int = 4) -> str:
    """Low, high, whether each is open, and, if known, whether it is in parts, in words: `(open) to 0.5`."""
    low, high, low_open, high_open = interval[:4]
    ends = ["(open)" if is_open else format_number(end, digits=digits)
            for end, is_open in ((low, low_open), (high, high_open))]  # fmt: skip
    return " to ".join(ends) + (", in parts" if any(interval[4:]) else "")


def threshold(ssr: float, df: int, level: float) -> float:
    """Sum of squares up to which a value of one parameter is in its interval.

    (SSR - least SSR) is at most the quantile of F with 1 and df, times the least SSR over df.
    """
    from scipy import stats  # type: ignore[import-untyped]

    return float(ssr * (1 + stats.f.ppf(level, 1, df) / df))


def profiles(fit: Estimate, level: float) -> dict[str, Profile]:
    """Profile of each amplitude, slope and exponent of a least-squares fit."""
    design, exponents = fit.design, fit.parts[2]
    limit = threshold(fit.ssr, fit.df, level)
    found = {name: profile(fit, name, limit) for name in design.exponents}
    amplitudes = {}
    for column in design.columns:
        powers = column.exponents if len(column.exponents) == 1 else ()
        if any(abs(float(exponents[power])) < ZERO for power in powers):  # its amplitude is infinite
            continue
        one = profile(fit, column.amplitude, limit)
        # As a power becomes a constant, its amplitude goes to infinity on one side and comes back on the other: what is
        # allowed has two branches that meet there, and neither end of one of them bounds it.
        exponents_allowed = [found[design.exponents[power]].interval for power in powers]
        if any(own.low <= 0 <= own.high for own in exponents_allowed):
            one = one._replace(interval=one.interval._replace(low_open=True, high_open=True))
        amplitudes[column.amplitude] = one
    return amplitudes | found


def profile(fit: Estimate, name: str, limit: float) -> Profile:
    """The profile of an amplitude or exponent, and its interval by a limit of the sum of squares."""
    design, problem, value, error = fit.design, fit.design.problem, fit.values[name], fit.standard_errors[name]
    is_exponent = name in design.exponents
    place = (design.exponents if is_exponent else design.term_names).index(name)
    most = 2.0 if is_exponent else 10 * max(abs(value), 1e-9)  # a first step is a standard error, where that is of use
    step = min(max(error, 1e-6 * max(abs(value), 1e-3)), most) if math.isfinite(error) else most / 10
    seen: dict[float, Solution] = {}

    def solve(at: float) -> Solution:
        if at not in seen:
            begin = seen[min(seen, key=lambda one: abs(one - at))].exponents if seen else fit.parts[2]
            held = problem.fix(place, at) if is_exponent else _with_known(problem, place, at)
            seen[at] = least_squares(held, [begin], grid="coarse")
        return seen[at]

    bounds, coarse, own = (-math.inf, math.inf), np.zeros(0), list[int]()
    if is_exponent:
        bounds = (float(problem.bounds[place, 0]), float(problem.bounds[place, 1]))
        coarse = exponent_grid(*bounds, N_LOOKS)  # so that no further valley stays unseen
    else:
        own += problem.columns[place].exponents
    inside = {at: solve(at).ssr for at in map(float, coarse)}
    allowed = [value, *(at for at, ssr in inside.items() if ssr <= limit)]
    low, low_open = _end(solve, min(allowed), -step, bounds[0], limit)
    high, high_open = _end(solve, max(allowed), step, bounds[1], limit)
    # an end that only stands where it does because an exponent of the term can go no further is open
    low_open, high_open = (
        is_open or bool(solve(end).at_bound[own].any()) for end, is_open in ((low, low_open), (high, high_open))
    )
    in_parts = any(low < at < high and ssr > limit for at, ssr in inside.items())
    interval = Interval(low, high, low_open, high_open, in_parts)
    values = np.array(sorted(seen))
    return Profile(name, values, np.array([seen[at].ssr for at in values]), interval)


def _with_known(problem: Problem, place: int, amplitude: float) -> Problem:
    """The problem with the printed amplitude of one column held."""
    rest = problem.columns[:place] + problem.columns[place + 1 :]
    return replace(problem, columns=rest, known=(*problem.known, (problem.columns[place], amplitude)))


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
