"""Intervals of a fit's parameters by profile, by linear theory, and by bootstrap."""

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd  # type: ignore[import-untyped]

from .bootstrap import Bootstrap
from .columns import Column, Power
from .estimate import Estimate
from .profile import Profile, Rule, profile, thresholds
from .solve import Solution

__all__ = ["bootstrap_intervals", "profile_intervals", "profiles", "wald_intervals"]

ZERO = 1e-8
"""Exponents closer to 0 have amplitudes of which nothing can be said."""


def profiles(estimate: Estimate, level: float) -> dict[str, Profile]:
    """Profile of each amplitude, slope and exponent of a least-squares fit."""
    design, (levels, coefficients, exponents) = estimate.design, estimate.parts
    best = Solution(
        exponents, coefficients, levels, estimate.residuals, estimate.ssr, exponents != exponents, True, math.nan
    )
    limits = thresholds(estimate.ssr, estimate.n, estimate.df, level)
    places = [(one.amplitude, ("amplitude", k)) for k, one in enumerate(design.columns)]
    places += [(name, ("exponent", k)) for k, name in enumerate(design.exponents)]
    places.reverse()  # exponents first: what is known of an amplitude hangs on its own
    found: dict[str, Profile] = {}
    for name, place in places:
        value = estimate.values[name]
        if place[0] == "amplitude" and _without_end(design.columns[place[1]], exponents):
            continue
        step = _first_step(estimate.standard_errors[name], value, place[0])
        one = profile(design.problem, best, name, place, value, step, limits)
        found[name] = one if place[0] == "exponent" else _opened(one, design.columns[place[1]], design.exponents, found)
    return dict(reversed(found.items()))


def _opened(one: Profile, column: Column, exponents: tuple[str, ...], found: Mapping[str, Profile]) -> Profile:
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


def profile_intervals(found: Mapping[str, Profile], rule: Rule) -> pd.DataFrame:
    """A row a parameter: `low`, `high`, `low_open`, `high_open`, `in_parts`."""
    return pd.DataFrame.from_dict({name: one.intervals[rule]._asdict() for name, one in found.items()}, orient="index")


def wald_intervals(estimate: Estimate, level: float) -> pd.DataFrame:
    """A row a parameter: estimate plus and minus t times its standard error; `low`, `high`."""
    from scipy import stats  # type: ignore[import-untyped]

    t = float(stats.t.ppf((1 + level) / 2, estimate.df))
    rows = {
        name: {"low": value - t * estimate.standard_errors[name], "high": value + t * estimate.standard_errors[name]}
        for name, value in estimate.values.items()
    }
    return pd.DataFrame.from_dict(rows, orient="index")


def bootstrap_intervals(found: Bootstrap, level: float) -> pd.DataFrame:
    """A row a parameter: `low`, `high`, `low_open`, `high_open` (at a bound of an exponent)."""
    rows = {name: found.interval(name, level) for name in found.values.columns}
    return pd.DataFrame.from_dict(rows, orient="index", columns=["low", "high", "low_open", "high_open"])
