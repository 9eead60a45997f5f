import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from lorascope.analyze.fits.design import Design
from lorascope.analyze.fits.estimate import Estimate, estimate

from .simulated import expected, simulate_study

DesignOf = Callable[..., Design]
TRUTH = {"A": 1.0, "alpha": 0.5, "B": 0.8, "beta": 0.6, "C": 0.5, "gamma": 0.9, "slope_N": 0.3, "slope_R": 0.2}
SIZES: dict[str, Any] = {"N": (1e8, 3e8, 1e9, 3e9, 1e10), "R": (4.0, 16.0, 64.0, 256.0)}
GROUPS = {"a": 1.5, "b": 2.5}
LAWS = ["additive", "log", "log-log", "multiplicative"]
laws = pytest.mark.parametrize("law", LAWS)


def study(seed: int = 0, law: str = "additive", **options: Any) -> pd.DataFrame:
    defaults: dict[str, Any] = {**SIZES, "groups": GROUPS, "noise": 0.01, "random": np.random.default_rng(seed)}
    return simulate_study(TRUTH, law=law, **{**defaults, **options})


def printed(fit: Estimate, frame: pd.DataFrame) -> np.ndarray:
    """(n,) the law of the printed parameters, by `expected`."""
    values, refs = fit.values, fit.design.references
    parts = np.zeros(len(frame))
    for name in dict.fromkeys(frame["group"]):
        rows = (frame["group"] == name).to_numpy()
        sizes = frame.loc[rows, list(refs)]
        parts[rows] = expected(sizes, {**values, "E": values[f"E[{name}]"]}, fit.design.law_name, refs)
    return parts


@laws
def test_printed_values_give_back_the_fit(design_of: DesignOf, law: str) -> None:
    frame = study(law=law)
    fit = estimate(design_of(frame, law=law))
    values = np.exp(fit.fitted) if law == "log-log" else fit.fitted
    np.testing.assert_allclose(printed(fit, frame), values, rtol=1e-9)
    rest = np.log(frame["y"] / values) if law == "log-log" else 1 - values / frame["y"]
    np.testing.assert_allclose(fit.residuals, rest, rtol=1e-9, atol=1e-13)
    assert fit.ssr == pytest.approx((rest**2).sum(), rel=1e-9, abs=0)
    assert fit.solution.ssr == pytest.approx(fit.ssr, rel=1e-9, abs=0)
    assert (fit.n, fit.df) == (40, 40 - len(fit.values))
    assert fit.sigma == pytest.approx(math.sqrt(fit.ssr / fit.df), rel=1e-12)
    assert list(fit.values) == list(fit.design.names)


# Standard errors.


@laws
@pytest.mark.parametrize("residuals", ["relative", "absolute"])
def test_errors_are_those_of_crossed_derivatives(design_of: DesignOf, law: str, residuals: str) -> None:
    frame = study(law=law)
    fit = estimate(design_of(frame, law=law, residuals=residuals))
    names, at = list(fit.values), np.array(list(fit.values.values()))
    kind = "of logarithms" if law == "log-log" else residuals

    def rest(p: np.ndarray) -> np.ndarray:
        moved = replace(fit, solution=fit.solution)
        moved.__dict__["values"] = dict(zip(names, p, strict=True))
        f = printed(moved, frame)
        return np.asarray({"relative": 1 - f / frame["y"], "of logarithms": -np.log(f), "absolute": -f}[kind])

    jacobian = np.zeros((40, len(at)))
    for k in range(len(at)):
        step = 1e-4 * np.eye(len(at))[k]
        near, far = ((rest(at + m * step) - rest(at - m * step)) / (2e-4 * m) for m in (1, 2))
        jacobian[:, k] = (4 * near - far) / 3
    covariance = fit.sigma**2 * np.linalg.inv(jacobian.T @ jacobian)
    np.testing.assert_allclose(list(fit.standard_errors.values()), np.sqrt(np.diag(covariance)), rtol=1e-5)


def moved_to(fit: Estimate, alpha: float) -> Estimate:
    """The estimate with levels 2 and 3, coefficient 0.3 and this exponent."""
    moved = fit.solution._replace(
        levels=np.array([2.0, 3.0]), coefficients=np.array([0.3]), exponents=np.array([alpha])
    )
    return replace(fit, solution=moved)


def test_an_exponent_of_zero_has_an_amplitude_without_end(design_of: DesignOf) -> None:
    frame = study(law="log", R=())
    design = design_of(frame, bounds={"alpha": (-1.0, 1.0)})
    fit = moved_to(estimate(design), 0.0)
    assert fit.values == {"E[a]": -math.inf, "E[b]": -math.inf, "A": math.inf, "alpha": 0.0}
    straight = np.where(frame["group"] == "a", 2.0, 3.0) + 0.3 * np.log(1e10 / frame["N"])
    np.testing.assert_allclose(fit.fitted, straight, rtol=1e-14)
    assert all(math.isnan(error) for error in fit.standard_errors.values())


@pytest.mark.parametrize("alpha", [0.0, 1e-25, -1e-12, 1e-5, 0.4])
def test_errors_of_predictions_do_not_mind_an_exponent_of_zero(design_of: DesignOf, alpha: float) -> None:
    design = design_of(study(law="log", R=()), residuals="absolute", bounds={"alpha": (-1.0, 1.0)})
    fit = moved_to(estimate(design), alpha)
    x = np.log(1e10 / design.frame["N"].to_numpy())
    curved = [
        np.expm1(alpha * x) / alpha if alpha else x,
        0.3 * design.columns[0].centred_slopes(np.array([alpha]))[:, 0],
    ]
    jacobian = np.column_stack([design.levels, *curved])
    covariance = fit.sigma**2 * np.linalg.inv(jacobian.T @ jacobian)
    expected_errors = np.sqrt(np.einsum("ni,ij,nj->n", jacobian, covariance, jacobian))
    np.testing.assert_allclose(fit.prediction_errors(design), expected_errors, rtol=1e-7)


# What must not matter.


@pytest.mark.parametrize("law", ["additive", "multiplicative"])
@pytest.mark.parametrize("c", [1e-9, 1e6])
@pytest.mark.parametrize("residuals", ["relative", "absolute"])
def test_unit_of_the_response(design_of: DesignOf, law: str, c: float, residuals: str) -> None:
    frame = study(law=law)
    first = estimate(design_of(frame, law=law, residuals=residuals))
    other = estimate(design_of(frame.assign(y=c * frame["y"]), law=law, residuals=residuals))
    for name, value in first.values.items():
        factor = 1 if name in first.design.exponents else c
        assert other.values[name] == pytest.approx(factor * value, rel=1e-4, abs=0), name
        error = factor * first.standard_errors[name]
        assert other.standard_errors[name] == pytest.approx(error, rel=1e-4, abs=0), name


def test_offsets_shift_all_groups(design_of: DesignOf) -> None:
    frame = study(noise=0.001)
    frame["sweep"] = np.where(np.arange(len(frame)) % 3, "x", "y")
    frame.loc[frame["sweep"] == "x", "y"] += 0.25
    fit = estimate(design_of(frame, offsets=["sweep"]))
    assert fit.values["offset[sweep=x]"] == pytest.approx(0.25, abs=0.002)
    assert (fit.solution.converged, fit.at_bound) == (True, ())
