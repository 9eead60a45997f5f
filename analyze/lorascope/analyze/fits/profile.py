"""Profile intervals of parameters: values that fit well enough if all other parameters adapt; an end may be open.

For least squares with an unknown spread, minus twice the profile log-likelihood is n ln(SSR) plus a constant.
Bates, Watts (1988), Nonlinear Regression Analysis, section 6.1; Venzon, Moolgavkar (1988), Appl. Stat. 37.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from lorascope.analyze.results.format import format_number

from .estimate import Estimate
from .solve import Solution, exponent_grid, least_squares

N_STEPS = 30
"""Number of steps outwards, each 1.5 times the last one, after which an end counts as open."""
N_LOOKS = 19
"""Number of values over the whole range of an exponent, so that no second minimum is missed."""
EXACT = 1e-10
"""Relative accuracy of an interval's ends."""
ZERO = 1e-8
"""Exponents closer to 0 have practically infinite amplitudes."""


class Interval(NamedTuple):
    """Interval of a parameter's values that the data don't exclude, and whether its ends are open."""

    low: float
    """Lowest value; if the end is open, the lowest value that was searched."""
    high: float
    low_open: bool
    """Whether the low end is beyond the allowed or searched range."""
    high_open: bool
    in_parts: bool
    """Whether some values between the ends are excluded."""

    def text(self) -> str:
        """Return the interval as text, such as `(open) to 0.500`."""
        low = "(open)" if self.low_open else format_number(self.low)
        high = "(open)" if self.high_open else format_number(self.high)
        return f"{low} to {high}{', in parts' if self.in_parts else ''}"


class Profile(NamedTuple):
    """Least sum of squares `ssr` (m,) over all other parameters, for several `values` (m,) of one parameter."""

    name: str
    values: np.ndarray
    """Values in ascending order."""
    ssr: np.ndarray
    interval: Interval


def largest_ssr(ssr: float, df: int, level: float) -> float:
    """Return the sum of squares at an end of a profile interval, from the least one, `ssr`, with `df` residual df.

    (SSR - least SSR) / (least SSR / df) is then the quantile of F with 1 and df.
    """
    from scipy import stats  # type: ignore[import-untyped]

    return float(ssr * (1 + stats.f.ppf(level, 1, df) / df))


def profiles(fit: Estimate, level: float) -> dict[str, Profile]:
    """Return by name the profile of each amplitude, slope and exponent, with its interval of this confidence level."""
    design, exponents = fit.design, fit.solution.exponents
    limit = largest_ssr(fit.ssr, fit.df, level)
    of_exponents = {name: profile(fit, name, limit) for name in design.exponents}
    amplitudes = {}
    for column in design.columns:
        powers = column.exponents if len(column.exponents) == 1 else ()
        if any(abs(float(exponents[power])) < ZERO for power in powers):  # its amplitude is infinite
            continue
        of_amplitude = profile(fit, column.amplitude, limit)
        # As a power becomes a constant, its amplitude goes to infinity and returns with the other sign: its values
        # have two branches that meet there, so the ends of one branch don't bound the amplitude.
        exponent_intervals = [of_exponents[design.exponents[power]].interval for power in powers]
        if any(interval.low <= 0 <= interval.high for interval in exponent_intervals):
            interval = of_amplitude.interval._replace(low_open=True, high_open=True)
            of_amplitude = of_amplitude._replace(interval=interval)
        amplitudes[column.amplitude] = of_amplitude
    return amplitudes | of_exponents


def profile(fit: Estimate, name: str, limit: float) -> Profile:
    """Return the least sum of squares over values of parameter `name`, and the interval with sums below `limit`."""
    design, problem, value, error = fit.design, fit.design.problem, fit.values[name], fit.standard_errors[name]
    is_exponent = name in design.exponents
    position = (design.exponents if is_exponent else design.term_names).index(name)
    widest = 2.0 if is_exponent else 10 * max(abs(value), 1e-9)  # the first step is a standard error if possible
    step = min(max(error, 1e-6 * max(abs(value), 1e-3)), widest) if math.isfinite(error) else widest / 10
    solutions: dict[float, Solution] = {}

    def solve(at: float) -> Solution:
        """Return the best solution if the parameter has the value `at`; solutions are stored."""
        if at not in solutions:
            nearest = min(solutions, key=lambda other: abs(other - at)) if solutions else None
            start = fit.solution.exponents if nearest is None else solutions[nearest].exponents
            restricted = problem.fix(position, at) if is_exponent else problem.fix_amplitude(position, at)
            solutions[at] = least_squares(restricted, [start], grid="coarse")
        return solutions[at]

    least, most = problem.bounds[position].tolist() if is_exponent else (-math.inf, math.inf)
    coarse = exponent_grid(least, most, N_LOOKS).tolist() if is_exponent else []
    own_exponents = [] if is_exponent else list(problem.columns[position].exponents)
    inside = {at: solve(at).ssr for at in coarse}
    allowed = [value, *(at for at, ssr in inside.items() if ssr <= limit)]
    low, low_open = _interval_end(solve, min(allowed), -step, least, limit)
    high, high_open = _interval_end(solve, max(allowed), step, most, limit)
    # An end is also open if it only exists because an exponent of the term is at its bound.
    low_open |= bool(problem.at_bound(solve(low).exponents)[own_exponents].any())
    high_open |= bool(problem.at_bound(solve(high).exponents)[own_exponents].any())
    in_parts = any(low < at < high and ssr > limit for at, ssr in inside.items())
    interval = Interval(low, high, low_open, high_open, in_parts)
    values = np.array(sorted(solutions))
    return Profile(name, values, np.array([solutions[at].ssr for at in values]), interval)


def _interval_end(
    solve: Callable[[float], Solution], start: float, step: float, bound: float, limit: float
) -> tuple[float, bool]:
    """Return an interval's end, where the sum of squares crosses `limit`, and whether it is open (never crosses)."""
    from scipy import optimize

    inner = start
    for k in range(N_STEPS):
        outer = inner + step * 1.5**k
        if (outer - bound) * math.copysign(1, step) >= 0:
            outer = bound
        if solve(outer).ssr > limit:
            end = optimize.brentq(
                lambda at: math.log(solve(at).ssr / limit), inner, outer, rtol=EXACT, xtol=EXACT * abs(step)
            )
            return float(end), False
        if outer == bound:
            return bound, True
        inner = outer
    return inner, True
