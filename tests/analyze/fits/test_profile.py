import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import lmfit
import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from scipy import stats

from lorascope.analyze.fits.design import Design
from lorascope.analyze.fits.estimate import Estimate, estimate
from lorascope.analyze.fits.profile import Profile, largest_ssr, profile, profiles
from lorascope.analyze.fits.solve import least_squares

from .simulated import simulate_study

DesignOf = Callable[..., Design]
TRUTH = {"A": 1.0, "alpha": 0.5, "B": 0.8, "beta": 0.6, "slope_N": 0.3, "slope_R": 0.2}
SIZES: dict[str, Any] = {"N": (1e8, 3e8, 1e9, 3e9, 1e10), "R": (4.0, 16.0, 64.0, 256.0)}


def study(seed: int = 0, law: str = "additive", **options: Any) -> pd.DataFrame:
    defaults: dict[str, Any] = {**SIZES, "groups": {"a": 1.5, "b": 2.5}, "noise": 0.01}
    return simulate_study(TRUTH, law=law, **{**defaults, **options}, random=np.random.default_rng(seed))


def profiled(fitted: Estimate, name: str, level: float = 0.95) -> Profile:
    return profile(fitted, name, largest_ssr(fitted.ssr, fitted.df, level))


def peer(design: Design, level: float) -> dict[str, tuple[float, float]]:
    """Profile intervals by F that lmfit finds, over the printed parameters."""
    n, r = (np.exp(design.logs[axis]) for axis in "NR")
    parameters = lmfit.create_params(
        a=1.5,
        b=2.5,
        A=1.0,
        B=0.8,
        alpha={"value": 0.5, "min": 0.02, "max": 25},
        beta={"value": 0.6, "min": -1.5, "max": 12},
    )

    def rest(p: lmfit.Parameters) -> np.ndarray:
        f = design.levels @ [p["a"].value, p["b"].value] + p["A"] * n ** p["alpha"] + p["B"] * r ** p["beta"]
        return design.weights * (design.y - f)

    fitter = lmfit.Minimizer(rest, parameters)
    best = fitter.minimize(xtol=1e-12, ftol=1e-12)
    fitted = lmfit.conf_interval(fitter, best, sigmas=[level])
    names = {"a": "E[a]", "b": "E[b]"}
    return {names.get(name, name): (ends[0][1], ends[2][1]) for name, ends in fitted.items()}


@pytest.mark.parametrize(("residuals", "level"), [("relative", 0.95), ("absolute", 0.8)])
def test_closed_intervals_are_those_of_lmfit(design_of: DesignOf, residuals: str, level: float) -> None:
    design = design_of(study(), residuals=residuals)
    fitted = estimate(design)
    for name, ends in peer(design, level).items():
        if name.startswith("E"):
            continue
        low, high, *open_or_parts = profiled(fitted, name, level).interval
        assert (low, high) == pytest.approx(ends, rel=2e-4), name
        assert open_or_parts == [False, False, False]


@pytest.mark.parametrize("law", ["log", "log-log"])
def test_interval_of_a_slope_is_students(design_of: DesignOf, law: str) -> None:
    design = design_of(study(law=law), law=law, residuals="absolute")
    fitted = estimate(design)
    x = np.column_stack([design.levels, *(column.log_x for column in design.columns)])
    exact = sm.OLS(design.y, x).fit().conf_int(0.1)
    for k, name in enumerate(design.names[2:], 2):
        low, high, *open_or_parts = profiled(fitted, name, 0.9).interval
        assert (low, high) == pytest.approx(tuple(exact[k]), rel=1e-7), name
        assert open_or_parts == [False, False, False]


def test_threshold_by_hand() -> None:
    limit = largest_ssr(2.0, 34, 0.95)
    assert limit == pytest.approx(2 * (1 + stats.t.ppf(0.975, 34) ** 2 / 34), rel=1e-12)
    assert largest_ssr(2.0, 34, 0.5) < largest_ssr(2.0, 34, 0.9) < limit
    # With many cells the likelihood ratio's chi-square: n ln(SSR / least SSR).
    assert largest_ssr(1.0, 10**7, 0.95) - 1 == pytest.approx(math.expm1(3.841458820694124 / 10**7), rel=1e-5)


# Where the data don't tell.


def test_a_short_range_leaves_both_ends_open(design_of: DesignOf) -> None:
    design = design_of(study(N=tuple(np.geomspace(9e9, 1e10, 5)), R=(), noise=0.05))
    fitted = estimate(design)
    interval = profiled(fitted, "alpha").interval
    assert (interval.low, interval.high) == (0.02, 25.0)
    assert (interval.low_open, interval.high_open) == (True, True)
    amplitude = profiled(fitted, "A").interval
    assert amplitude.low_open
    assert amplitude.high_open
    for end, bound in ((0.02, "low"), (25.0, "high")):  # the sum of squares there is inside, whatever the search says
        ssr = least_squares(design.problem.fix(0, end)).ssr
        assert ssr <= largest_ssr(fitted.ssr, fitted.df, 0.95), bound


def test_an_estimate_at_its_bound_has_an_open_end(design_of: DesignOf) -> None:
    design = design_of(study(), bounds={"alpha": (0.7, 3.0)})
    fitted = estimate(design)
    assert fitted.at_bound == ("alpha",)
    interval = profiled(fitted, "alpha").interval
    assert (interval.low, interval.low_open, interval.high_open) == (0.7, True, False)


def test_an_amplitude_whose_exponent_can_go_no_further_is_open(design_of: DesignOf) -> None:
    """A grows as alpha falls: where alpha stops, A's interval does, and that isn't the data's doing."""
    frame = study(R=(), noise=0.05, N=(3e9, 5e9, 1e10))
    wide, narrow = (design_of(frame, bounds={"alpha": (low, 25.0)}) for low in (0.02, 0.6))
    wider, narrower = (profiled(estimate(design), "A").interval for design in (wide, narrow))
    assert (wider.low_open, wider.high_open) == (False, False)
    assert (narrower.low_open, narrower.high_open) == (False, True)
    assert narrower.high < wider.high
    assert narrower.low == pytest.approx(wider.low, rel=1e-6)


def test_an_interval_in_parts(design_of: DesignOf) -> None:
    """Two minima with a ridge between them that the data exclude."""
    log_x = np.linspace(-2, 2, 9)
    y = 0.7 * np.abs(log_x) + 0.01 * log_x
    frame = pd.DataFrame({"y": y + 5, "N": np.exp(-log_x)})
    design = design_of(frame, residuals="absolute", bounds={"alpha": (-8.0, 8.0)})
    fitted = estimate(design)
    ridge = least_squares(design.problem.fix(0, 0.0)).ssr
    other = least_squares(replace(design.problem, bounds=np.array([[-8.0, 0.0]])))
    assert fitted.ssr < other.ssr < ridge
    limit = 1.432
    assert other.ssr < limit < least_squares(design.problem.fix(0, 8.0)).ssr < ridge
    outcome = profile(fitted, "alpha", limit)
    low, high, low_open, high_open, in_parts = outcome.interval
    assert in_parts
    assert low < other.exponents[0] < 0 < fitted.values["alpha"] < high
    assert (low_open, high_open) == (False, False)
    for end in (low, high):
        assert least_squares(design.problem.fix(0, end)).ssr == pytest.approx(limit, rel=1e-6)
    outcome = profile(fitted, "alpha", (fitted.ssr + other.ssr) / 2)
    assert not outcome.interval.in_parts
    assert outcome.interval.low > 0


# All profiles of a fit.


def test_profiles_are_of_amplitudes_and_exponents(design_of: DesignOf) -> None:
    fitted = estimate(design_of(study()))
    every, narrow = profiles(fitted, 0.95), profiles(fitted, 0.5)
    assert list(every) == ["A", "B", "alpha", "beta"]
    for name, outcome in every.items():
        assert outcome.interval.low < narrow[name].interval.low < fitted.values[name]
        assert fitted.values[name] < narrow[name].interval.high < outcome.interval.high
    straight = estimate(design_of(study(law="log-log"), law="log-log"))
    assert list(profiles(straight, 0.95)) == ["alpha", "beta"]


def test_no_profile_of_an_amplitude_without_end(design_of: DesignOf) -> None:
    """The best exponent is 0, the end of its range; its own profile is there, with an open end."""
    frame = study(law="log", R=()).assign(y=lambda rows: rows["y"] + np.sqrt(1 + np.log(1e10 / rows["N"])))
    fitted = estimate(design_of(frame, bounds={"alpha": (0.0, 5.0)}))
    assert fitted.at_bound == ("alpha",)
    every = profiles(fitted, 0.95)
    assert list(every) == ["alpha"]
    assert every["alpha"].interval.low_open
