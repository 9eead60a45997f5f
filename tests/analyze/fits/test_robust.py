import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import optimize, special

from lorascope.analyze.fits.design import Design
from lorascope.analyze.fits.estimate import Estimate, estimate

from .simulated import simulate_study

DesignOf = Callable[..., Design]
TRUTH = {"A": 1.0, "alpha": 0.5, "B": 0.8, "beta": 0.6}


def study(seed: int = 0, **options: Any) -> pd.DataFrame:
    defaults = {"N": (1e8, 3e8, 1e9, 3e9, 1e10), "R": (4.0, 16.0, 64.0, 256.0), "groups": {"a": 1.5, "b": 2.5}}
    return simulate_study(TRUTH, **{**defaults, **options}, noise=0.02, random=np.random.default_rng(seed))


def loss_of(fit: Estimate, exponents: np.ndarray, linear: np.ndarray) -> float:
    """The summed loss at levels, centred coefficients and exponents."""
    design = fit.design
    predicted = np.column_stack([design.levels, *(column.centred(exponents) for column in design.columns)]) @ linear
    rest = {"relative": 1 - predicted / design.y, "absolute": design.y - predicted,
            "log": np.log(np.maximum(predicted, 1e-9) / design.y)}[design.residual]  # fmt: skip
    return float(special.huber(fit.delta, rest).sum()) if math.isfinite(fit.delta) else float((rest**2).sum()) / 2


@pytest.mark.parametrize(("residuals", "delta"), [("relative", 0.005), ("absolute", 0.02), ("log", math.inf)])
def test_the_loss_is_the_least_that_simplexes_find(design_of: DesignOf, residuals: str, delta: float) -> None:
    fit = estimate(design_of(study(), residuals=residuals), delta=delta)
    at = fit.parameters
    q = len(fit.design.exponents)
    assert fit.loss == pytest.approx(loss_of(fit, at[-q:], at[:-q]), rel=1e-12, abs=0)
    rng = np.random.default_rng(0)
    for size in (1e-2, 1e-4):
        simplex = at * (1 + size * rng.normal(size=(len(at) + 1, len(at))))
        search = optimize.minimize(
            lambda p: loss_of(fit, p[-q:], p[:-q]), at, method="Nelder-Mead",
            options={"initial_simplex": simplex, "xatol": 1e-10, "fatol": 1e-16, "maxiter": 1500},
        )  # fmt: skip
        assert fit.loss <= search.fun * (1 + 1e-9)


def test_an_exponent_goes_all_the_way_to_its_bound(design_of: DesignOf) -> None:
    design = design_of(study(), residuals="log", bounds={"alpha": (0.9, 3.0)})
    fit = estimate(design, delta=0.01)
    assert fit.at_bound == ("alpha",)
    assert fit.values["alpha"] == pytest.approx(0.9, rel=1e-12)


def test_laws_that_go_below_zero_on_the_way(design_of: DesignOf) -> None:
    """Nearly no floor: trial steps meet negative values, whose logarithm goes on as a straight line."""
    frame = study(groups={"a": 0.01, "b": 0.02}, R=())
    fit = estimate(design_of(frame, residuals="log"), delta=0.01)
    assert math.isfinite(fit.loss)
    assert fit.values["alpha"] == pytest.approx(0.5, abs=0.1)


def test_an_outlier_is_resisted(design_of: DesignOf) -> None:
    frame = study()
    clean = estimate(design_of(frame)).values["alpha"]
    frame.loc[3, "y"] *= 2
    least, robust = (estimate(design_of(frame), delta=delta).values["alpha"] for delta in (math.inf, 0.02))
    assert abs(robust - clean) < 0.2 * abs(least - clean)
