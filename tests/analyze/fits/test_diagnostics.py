import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from scipy import stats

from lorascope.analyze.fits.design import Design
from lorascope.analyze.fits.diagnostics import axis_tests, f_test
from lorascope.analyze.fits.estimate import estimate
from lorascope.analyze.fits.result import ScalingFit

from .simulated import simulate_study

DesignOf = Callable[..., Design]
TRUTH = {"A": 1.0, "alpha": 0.5, "B": 0.8, "beta": 0.6, "slope_N": 0.3, "slope_R": 0.2}


def study(law: str = "additive", **options: Any) -> pd.DataFrame:
    defaults: dict[str, Any] = {
        "N": (1e8, 1e9, 3e9, 1e10),
        "R": (4.0, 16.0, 64.0),
        "groups": {"a": 1.5, "b": 2.5, "c": 2.0},
    }
    return simulate_study(TRUTH, law=law, **{**defaults, **options}, noise=0.02, random=np.random.default_rng(0))


def test_f_of_nested_fits() -> None:
    f, p = f_test(3.0, 2.0, 2, 10)
    assert f == pytest.approx(2.5)
    assert p == pytest.approx(stats.f.sf(2.5, 2, 10))
    assert f_test(2.0, 2.0 + 1e-12, 1, 5) == (0.0, 1.0)  # a search that stopped a hair too early
    assert f_test(1.0, 0.0, 1, 5) == (math.inf, 0.0)
    assert all(math.isnan(value) for value in f_test(0.0, 0.0, 1, 5))


@pytest.mark.parametrize("law", ["log", "log-log"])
def test_axis_tests_are_those_of_regressions(design_of: DesignOf, law: str) -> None:
    frame = study(law)
    tests = axis_tests(estimate(design_of(frame, law=law, residuals="absolute"))).set_index("axis")
    y = np.log(frame["y"]) if law == "log-log" else frame["y"]
    whole = pd.DataFrame({"N": np.log(frame["N"]), "R": np.log(frame["R"])}).join(
        pd.get_dummies(frame["group"], dtype=float)
    )
    full = sm.OLS(y, whole).fit()
    for axis in ("N", "R"):
        f, p, n_more = full.compare_f_test(sm.OLS(y, whole.drop(columns=axis)).fit())
        row = tests.loc[axis]
        assert (row["F"], row["n_more"], row["df"]) == pytest.approx((f, n_more, full.df_resid), rel=1e-8)
        assert row["p"] == pytest.approx(p, rel=1e-6, abs=1e-300)
        assert row["ssr_ratio"] == pytest.approx(1 + f * n_more / full.df_resid, rel=1e-8)


@pytest.mark.parametrize("residuals", ["relative", "absolute", "log"])
@pytest.mark.parametrize("law", ["additive", "log-log"])
def test_aicc_is_of_the_likelihood_of_the_response(design_of: DesignOf, law: str, residuals: str) -> None:
    fit = estimate(design_of(study(law), law=law, residuals=residuals))
    y, spread = fit.design.frame["y"], math.sqrt(fit.ssr / 36)
    fitted = np.exp(fit.fitted) if law == "log-log" else fit.fitted
    if law == "log-log" or residuals == "log":
        density = stats.lognorm.logpdf(y, s=spread, scale=fitted)
    else:
        density = stats.norm.logpdf(y, loc=fitted, scale=spread * (y if residuals == "relative" else 1.0))
    k = len(fit.values) + 1  # the spread counts
    assert ScalingFit(fit, 0.95, {}).aicc == pytest.approx(-2 * density.sum() + 2 * k * 36 / (36 - k - 1), rel=1e-10)


def test_aicc_of_a_straight_law_is_that_of_a_regression(design_of: DesignOf) -> None:
    fit = estimate(design_of(study("log"), law="log", residuals="absolute"))
    columns = [column.printed(np.zeros(0)) for column in fit.design.columns]
    peer = sm.OLS(fit.design.y, np.column_stack([fit.design.levels, *columns])).fit()
    assert ScalingFit(fit, 0.95, {}).aicc == pytest.approx(peer.aic + 2 + 2 * 6 * 7 / (36 - 7), rel=1e-10)


def test_aicc_at_its_limits(design_of: DesignOf) -> None:
    few = estimate(design_of(study(groups={"a": 1.5}, N=(1e8, 5e8, 2e9, 1e10), R=())))
    assert math.isnan(ScalingFit(few, 0.95, {}).aicc)  # 4 cells, 4 parameters
    fit = estimate(design_of(study("log"), law="log", residuals="absolute"))
    exact = replace(fit, design=replace(fit.design, frame=fit.design.frame.assign(y=fit.fitted)))
    assert ScalingFit(exact, 0.95, {}).aicc == -math.inf
