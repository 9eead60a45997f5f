"""Profile intervals: how far a parameter can go while all others make up for it; an end may be open.

Least squares with a spread that isn't known: minus twice the log-likelihood, spread profiled out, is n ln(SSR) and a
constant. Bates, Watts (1988), Nonlinear Regression Analysis, section 6.1; Venzon, Moolgavkar (1988), Appl. Stat. 37.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Literal, NamedTuple

import numpy as np

from .columns import Column, Power
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
    design, (levels, coefficients, exponents) = fit.design, fit.parts
    none = np.zeros(0, bool)
    best = Solution(exponents, coefficients, levels, fit.residuals, fit.ssr, exponents != exponents, True, none)
    limits = thresholds(fit.ssr, fit.n, fit.df, level)
    places = [(one.amplitude, ("amplitude", k)) for k, one in enumerate(design.columns)]
    places += [(name, ("exponent", k)) for k, name in enumerate(design.exponents)]
    places.reverse()  # exponents first: what is known of an amplitude hangs on its own
    found: dict[str, Profile] = {}
    for name, place in places:
        value = fit.values[name]
        if place[0] == "amplitude" and _without_end(design.columns[place[1]], exponents):
            continue
        step = _first_step(fit.standard_errors[name], value, place[0])
        one = profile(design.problem, best, name, place, value, step, limits)
        if place[0] == "amplitude":
            one = _opened_at_zero(one, design.columns[place[1]], design.exponents, found)
        found[name] = one
    return dict(reversed(found.items()))


def _opened_at_zero(one: Profile, column: Column, exponents: tuple[str, ...], found: Mapping[str, Profile]) -> Profile:
    """An amplitude's profile, open at both ends where its exponent may be 0.

    As a power becomes a constant, its amplitude goes to infinity on one side and comes back on the other: what is
    allowed has two branches that meet there, and neither end of one of them bounds it.
    """
    if not isinstance(column, Power):
        return one
    own = found[exponents[column.place]].intervals
    return one._replace(
        intervals={
            rule: end._replace(low_open=True, high_open=True) if own[rule].low <= 0 <= own[rule].high else end
            for rule, end in one.intervals.items()
        }
    )


def _without_end(column: Column, exponents: np.ndarray) -> bool:
    """Whether an exponent is 0, but for rounding, so that its amplitude is infinite."""
    return isinstance(column, Power) and abs(float(exponents[column.place])) < ZERO


def _first_step(error: float, value: float, kind: str) -> float:
    """A step outwards: a standard error, where that is of any use."""
    most = 2.0 if kind == "exponent" else 10 * max(abs(value), 1e-9)
    return min(max(error, 1e-6 * max(abs(value), 1e-3)), most) if math.isfinite(error) else most / 10


def profile(
    problem: Problem, best: Solution, name: str, place: tuple[str, int], value: float, step: float,
    limits: dict[Rule, float],
) -> Profile:  # fmt: skip
    """A parameter's profile and intervals.

    Parameters
    ----------
    problem, best
        The fit.
    name
        Of the parameter.
    place
        What it is (`exponent` or `amplitude`) and which.
    value
        Its estimate, as printed.
    step
        Length of the first step outwards, such as its standard error.
    limits
        What `thresholds` returns.
    """
    kind, which = place
    seen: dict[float, Solution] = {}
    bounds = (
        (float(problem.bounds[which, 0]), float(problem.bounds[which, 1]))
        if kind == "exponent"
        else (-math.inf, math.inf)
    )

    def solve(at: float) -> Solution:
        if at not in seen:
            near = min(seen, key=lambda one: abs(one - at), default=None)
            begin = best.exponents if near is None else seen[near].exponents
            held = _held(problem, kind, which, at)
            seen[at] = least_squares(held, [begin], grid="coarse")
        return seen[at]

    def ssr(at: float) -> float:
        return solve(at).ssr

    coarse = _coarse(solve, problem, kind, which)
    intervals = {rule: _interval(ssr, value, step, bounds, limit, coarse) for rule, limit in limits.items()}
    own = problem.columns[which].exponents if kind == "amplitude" else ()
    intervals = {rule: _opened(one, solve, own) for rule, one in intervals.items()}
    values = np.array(sorted(seen))
    return Profile(name, values, np.array([seen[at].ssr for at in values]), intervals)


def _held(problem: Problem, kind: str, which: int, at: float) -> Problem:
    """The problem with one parameter as it is printed held."""
    if kind == "exponent":
        return problem.fix(which, at)
    rest = problem.columns[:which] + problem.columns[which + 1 :]
    return replace(problem, columns=rest, known=(*problem.known, (problem.columns[which], at)))


def _coarse(solve: Callable[[float], Solution], problem: Problem, kind: str, which: int) -> list[float]:
    """Values over an exponent's whole range, so that no further valley stays unseen."""
    if kind != "exponent":
        return []
    low, high = problem.bounds[which]
    found = [float(at) for at in exponent_grid(low, high, N_LOOKS)]
    for at in found:
        solve(at)
    return found


def _interval(
    ssr: Callable[[float], float], value: float, step: float, bounds: tuple[float, float], limit: float,
    coarse: list[float],
) -> Interval:  # fmt: skip
    inside = [at for at in coarse if ssr(at) <= limit]
    low, low_open, low_jump = _end(ssr, min([value, *inside]), -step, bounds[0], limit)
    high, high_open, high_jump = _end(ssr, max([value, *inside]), step, bounds[1], limit)
    gaps = any(low < at < high and ssr(at) > limit for at in coarse)
    return Interval(low, high, low_open, high_open, gaps or low_jump or high_jump)


def _end(
    ssr: Callable[[float], float], begin: float, step: float, bound: float, limit: float
) -> tuple[float, bool, bool]:
    """Where the sum of squares crosses the limit on one side, whether it never does, and whether a gap was jumped."""
    from scipy import optimize

    inner = begin
    for k in range(N_STEPS):
        outer = inner + step * 1.5**k
        if (outer - bound) * math.copysign(1, step) >= 0:
            outer = bound
        if ssr(outer) > limit:
            found = optimize.brentq(
                lambda at: math.log(ssr(at) / limit), inner, outer, rtol=EXACT, xtol=EXACT * abs(step)
            )
            return float(found), False, False
        if outer == bound:
            return bound, True, False
        inner = outer
    return inner, True, False


def _opened(interval: Interval, solve: Callable[[float], Solution], own: tuple[int, ...]) -> Interval:
    """Ends that only stand where they do because an exponent of the same term can go no further are open."""
    low = interval.low_open or bool(solve(interval.low).at_bound[list(own)].any())
    high = interval.high_open or bool(solve(interval.high).at_bound[list(own)].any())
    return interval._replace(low_open=low, high_open=high)
