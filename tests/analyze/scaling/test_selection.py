import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from scipy import stats

from lorascope.analyze.scaling.design import Design
from lorascope.analyze.scaling.estimate import estimated
from lorascope.analyze.scaling.selection import criteria
from lorascope.analyze.scaling.simulate import simulate_study

DesignOf = Callable[..., Design]
TRUTH = {"A": 1.0, "alpha": 0.5, "B": 0.8, "beta": 0.6, "slope_N": 0.3, "slope_R": 0.2}


def study(law: str = "additive", noise: float = 0.02, seed: int = 0, **options: Any) -> pd.DataFrame:
    given: dict[str, Any] = {"N": (1e8, 5e8, 2e9, 1e10), "R": (4.0, 16.0, 64.0), "groups": {"a": 1.5, "b": 2.5}}
    return simulate_study(TRUTH, law=law, **{**given, **options}, noise=noise, random=np.random.default_rng(seed))


def regression(design: Design) -> Any:
    return sm.OLS(
        design.y, np.column_stack([design.levels, *(one.printed(np.zeros(0)) for one in design.columns)])
    ).fit()


def test_straight_law_against_a_regression(design_of: DesignOf) -> None:
    found = estimated(design_of(study("log"), law="log", residuals="absolute"))
    peer = regression(found.design)
    own = criteria(found)
    assert own.minus_two_log_likelihood == pytest.approx(-2 * peer.llf, rel=1e-10)
    k = len(found.values) + 1
    assert own.n_parameters == k == 5
    assert own.aic == pytest.approx(peer.aic + 2, rel=1e-10)  # statsmodels doesn't count the spread
    assert own.bic == pytest.approx(peer.bic + math.log(24), rel=1e-10)
    assert own.aicc == pytest.approx(-2 * peer.llf + 2 * k * 24 / (24 - k - 1), rel=1e-10)


@pytest.mark.parametrize("residuals", ["relative", "absolute", "log"])
def test_power_law_is_of_the_response_itself(design_of: DesignOf, residuals: str) -> None:
    found = estimated(design_of(study("log-log"), law="log-log", residuals=residuals))
    peer = regression(found.design)
    spread = math.sqrt(peer.ssr / 24)
    density = stats.lognorm.logpdf(found.design.frame["y"], s=spread, scale=np.exp(peer.fittedvalues))
    assert criteria(found).minus_two_log_likelihood == pytest.approx(-2 * density.sum(), rel=1e-10)


def test_residuals_of_the_logarithm_are_lognormal(design_of: DesignOf) -> None:
    found = estimated(design_of(study(), residuals="log"))
    density = stats.lognorm.logpdf(found.design.y, s=math.sqrt(found.ssr / 24), scale=found.fitted)
    assert criteria(found).minus_two_log_likelihood == pytest.approx(-2 * density.sum(), rel=1e-10)


def test_relative_residuals_are_normal_with_weights_as_given(design_of: DesignOf) -> None:
    found = estimated(design_of(study()))
    y = found.design.y
    density = stats.norm.logpdf(y, loc=found.fitted, scale=math.sqrt(found.ssr / 24) * y)
    assert criteria(found).minus_two_log_likelihood == pytest.approx(-2 * density.sum(), rel=1e-10)


def test_scales_of_residuals_can_be_compared(design_of: DesignOf) -> None:
    """With little noise relative and logarithmic residuals are the same, and so are their criteria."""
    frame = study(noise=1e-5)
    relative, log = (criteria(estimated(design_of(frame, residuals=residuals))) for residuals in ("relative", "log"))
    assert relative.aicc == pytest.approx(log.aicc, abs=1e-2)
    assert relative.n_parameters == log.n_parameters
    flat = frame.assign(
        y=3 * np.exp(0.001 * np.sin(np.arange(24.0)))
    )  # absolute ones too where the response hardly varies
    found = [
        criteria(estimated(design_of(flat, law="log", residuals=each))).bic for each in ("relative", "log", "absolute")
    ]
    assert np.ptp(found) < 0.1


def test_unit_of_the_response_moves_all_laws_alike(design_of: DesignOf) -> None:
    frame = study()
    shifts = []
    for options in ({}, {"law": "log-log"}, {"residuals": "log"}, {"residuals": "absolute"}, {"law": "multiplicative"}):
        one, other = (
            criteria(estimated(design_of(each, **options))) for each in (frame, frame.assign(y=1000 * frame["y"]))
        )
        shifts.append(other.aicc - one.aicc)
    np.testing.assert_allclose(shifts, 2 * 24 * math.log(1000), rtol=1e-6)


def test_the_true_law_is_chosen(design_of: DesignOf) -> None:
    for law in ("additive", "log-log", "multiplicative"):
        frame = study(law, noise=0.003, groups={"a": 0.5, "b": 1.0})
        found = {
            each: criteria(estimated(design_of(frame, law=each))) for each in ("additive", "log-log", "multiplicative")
        }
        assert min(found, key=lambda name: found[name].aicc) == law


def test_hubers_fit_is_less_likely(design_of: DesignOf) -> None:
    design = design_of(study())
    assert criteria(estimated(design, delta=0.005)).aic > criteria(estimated(design)).aic


def test_too_few_cells_for_aicc(design_of: DesignOf) -> None:
    frame = study(groups={"a": 1.5}, N=(1e8, 5e8, 2e9, 1e10), R=())
    found = criteria(estimated(design_of(frame)))
    assert found.n_parameters == 4
    assert math.isnan(found.aicc)
    assert math.isfinite(found.bic)


def test_a_law_without_error_is_infinitely_likely(design_of: DesignOf) -> None:
    found = estimated(design_of(study("log"), law="log", residuals="absolute"))
    exact = criteria(replace(found, design=replace(found.design, frame=found.design.frame.assign(y=found.fitted))))
    assert exact.minus_two_log_likelihood == exact.aic == exact.aicc == exact.bic == -math.inf
