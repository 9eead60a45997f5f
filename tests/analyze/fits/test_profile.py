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
from lorascope.analyze.fits.profile import Profile, profile, profiles, threshold
from lorascope.analyze.fits.solve import least_squares

from .simulated import simulate_study

DesignOf = Callable[..., Design]
TRUTH = {"A": 1.0, "alpha": 0.5, "B": 0.8, "beta": 0.6, "slope_N": 0.3, "slope_R": 0.2}
SIZES: dict[str, Any] = {"N": (1e8, 3e8, 1e9, 3e9, 1e10), "R": (4.0, 16.0, 64.0, 256.0)}


def study(seed: int = 0, law: str = "additive", **options: Any) -> pd.DataFrame:
    given: dict[str, Any] = {**SIZES, "groups": {"a": 1.5, "b": 2.5}, "noise": 0.01}
    return simulate_study(TRUTH, law=law, **{**given, **options}, random=np.random.default_rng(seed))


def profiled(found: Estimate, name: str, level: float = 0.95) -> Profile:
    return profile(found, name, threshold(found.ssr, found.df, level))


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
    found = lmfit.conf_interval(fitter, best, sigmas=[level])
    names = {"a": "E[a]", "b": "E[b]"}
    return {names.get(name, name): (ends[0][1], ends[2][1]) for name, ends in found.items()}


@pytest.mark.parametrize(("residuals", "level"), [("relative", 0.95), ("absolute", 0.8)])
def test_closed_intervals_are_those_of_lmfit(design_of: DesignOf, residuals: str, level: float) -> None:
    design = design_of(study(), residuals=residuals)
    found = estimate(design)
    for name, ends in peer(design, level).items():
        if name.startswith("E"):
            continue
        low, high, *open_or_parts = profiled(found, name, level).interval
        assert (low, high) == pytest.approx(ends, rel=2e-4), name
        assert open_or_parts == [False, False, False]


@pytest.mark.parametrize("law", ["log", "log-log"])
def test_interval_of_a_slope_is_students(design_of: DesignOf, law: str) -> None:
    design = design_of(study(law=law), law=law, residuals="absolute")
    found = estimate(design)
    x = np.column_stack([design.levels, *(one.log_x for one in design.columns)])
    exact = sm.OLS(design.y, x).fit().conf_int(0.1)
    for k, name in enumerate(design.names[2:], 2):
        low, high, *open_or_parts = profiled(found, name, 0.9).interval
        assert (low, high) == pytest.approx(tuple(exact[k]), rel=1e-7), name
        assert open_or_parts == [False, False, False]


def test_threshold_by_hand() -> None:
    found = threshold(2.0, 34, 0.95)
    assert found == pytest.approx(2 * (1 + stats.t.ppf(0.975, 34) ** 2 / 34), rel=1e-12)
    assert threshold(2.0, 34, 0.5) < threshold(2.0, 34, 0.9) < found
    # With many cells the likelihood ratio's chi-square: n ln(SSR / least SSR).
    assert threshold(1.0, 10**7, 0.95) - 1 == pytest.approx(math.expm1(3.841458820694124 / 10**7), rel=1e-5)


# Where the data don't tell.


def test_a_short_range_leaves_both_ends_open(design_of: DesignOf) -> None:
    design = design_of(study(N=tuple(np.geomspace(9e9, 1e10, 5)), R=(), noise=0.05))
    found = estimate(design)
    interval = profiled(found, "alpha").interval
    assert (interval.low, interval.high) == (0.02, 25.0)
    assert (interval.low_open, interval.high_open) == (True, True)
    amplitude = profiled(found, "A").interval
    assert amplitude.low_open
    assert amplitude.high_open
    for end, bound in ((0.02, "low"), (25.0, "high")):  # the sum of squares there is inside, whatever the search says
        held = least_squares(design.problem.fix(0, end)).ssr
        assert held <= threshold(found.ssr, found.df, 0.95), bound


def test_an_estimate_at_its_bound_has_an_open_end(design_of: DesignOf) -> None:
    design = design_of(study(), bounds={"alpha": (0.7, 3.0)})
    found = estimate(design)
    assert found.search.at_bound == ("alpha",)
    interval = profiled(found, "alpha").interval
    assert (interval.low, interval.low_open, interval.high_open) == (0.7, True, False)


def test_an_amplitude_whose_exponent_can_go_no_further_is_open(design_of: DesignOf) -> None:
    """A grows as alpha falls: where alpha stops, A's interval does, and that isn't the data's doing."""
    frame = study(R=(), noise=0.05, N=(3e9, 5e9, 1e10))
    wide, narrow = (design_of(frame, bounds={"alpha": (low, 25.0)}) for low in (0.02, 0.6))
    one, other = (profiled(estimate(design), "A").interval for design in (wide, narrow))
    assert (one.low_open, one.high_open) == (False, False)
    assert (other.low_open, other.high_open) == (False, True)
    assert other.high < one.high
    assert other.low == pytest.approx(one.low, rel=1e-6)


def test_an_interval_in_parts(design_of: DesignOf) -> None:
    """Two valleys, the ridge between which the data speak against."""
    log_x = np.linspace(-2, 2, 9)
    y = 0.7 * np.abs(log_x) + 0.01 * log_x
    frame = pd.DataFrame({"y": y + 5, "N": np.exp(-log_x)})
    design = design_of(frame, residuals="absolute", bounds={"alpha": (-8.0, 8.0)})
    found = estimate(design)
    ridge = least_squares(design.problem.fix(0, 0.0)).ssr
    other = least_squares(replace(design.problem, bounds=np.array([[-8.0, 0.0]])))
    assert found.ssr < other.ssr < ridge
    limit = 1.432
    assert other.ssr < limit < least_squares(design.problem.fix(0, 8.0)).ssr < ridge
    one = profile(found, "alpha", limit)
    low, high, low_open, high_open, in_parts = one.interval
    assert in_parts
    assert low < other.exponents[0] < 0 < found.values["alpha"] < high
    assert (low_open, high_open) == (False, False)
    for end in (low, high):
        assert least_squares(design.problem.fix(0, end)).ssr == pytest.approx(limit, rel=1e-6)
    one = profile(found, "alpha", (found.ssr + other.ssr) / 2)
    assert not one.interval.in_parts
    assert one.interval.low > 0


# All profiles of a fit.


def test_profiles_are_of_amplitudes_and_exponents(design_of: DesignOf) -> None:
    found = estimate(design_of(study()))
    every, narrow = profiles(found, 0.95), profiles(found, 0.5)
    assert list(every) == ["A", "B", "alpha", "beta"]
    for name, one in every.items():
        assert one.interval.low < narrow[name].interval.low < found.values[name]
        assert found.values[name] < narrow[name].interval.high < one.interval.high
    straight = estimate(design_of(study(law="log-log"), law="log-log"))
    assert list(profiles(straight, 0.95)) == ["alpha", "beta"]


def test_no_profile_of_an_amplitude_without_end(design_of: DesignOf) -> None:
    """The best exponent is 0, the end of its range; its own profile is there, with an open end."""
    frame = study(law="log", R=()).assign(y=lambda rows: rows["y"] + np.sqrt(1 + np.log(1e10 / rows["N"])))
    found = estimate(design_of(frame, bounds={"alpha": (0.0, 5.0)}))
    assert found.search.at_bound == ("alpha",)
    every = profiles(found, 0.95)
    assert list(every) == ["alpha"]
    assert every["alpha"].interval.low_open
