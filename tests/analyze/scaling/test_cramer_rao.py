"""The table of least standard errors that a design has, before any response is there."""

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest

from lorascope.analyze import fit_scaling_law, identifiability, simulate_study
from lorascope.analyze.scaling.simulate import laid_out

AT = {"E": 1500.0, "A": 300.0, "alpha": 0.4, "B": 200.0, "beta": 0.5}
SIZES: dict[str, Any] = {"N": [1e8, 3e8, 1e9, 3e9, 1e10], "R": [4.0, 12.0, 40.0, 120.0, 400.0]}


def least(frame: pd.DataFrame, **options: Any) -> pd.DataFrame:
    found = identifiability(frame, N="N", R="R", **({"at": AT, "noise": 0.01} | options)).cramer_rao
    assert found is not None
    return found.set_index("name")


def test_it_is_what_linear_theory_says_of_a_fit_at_the_truth() -> None:
    study = simulate_study(AT, **SIZES, noise=1e-7, random=np.random.default_rng(0))
    fit = fit_scaling_law(study, "y", "N", "R", n_starts=0)
    found = least(study)
    np.testing.assert_allclose(found["se"], 0.01 * (fit.bse / fit.sigma)[found.index], rtol=1e-5)
    np.testing.assert_allclose(found["relative_se"], found["se"] / found["value"])


def test_estimates_scatter_by_it() -> None:
    found, estimates = least(laid_out(SIZES, "factorial")), []
    for seed in range(200):
        study = simulate_study(AT, **SIZES, noise=0.01, random=np.random.default_rng(seed))
        estimates.append(fit_scaling_law(study, "y", "N", "R", n_starts=0).params["alpha"])
    assert np.std(estimates) == pytest.approx(found.loc["alpha", "se"], rel=0.2)  # 4 of its own standard errors


def test_every_group_has_its_level_and_shares_the_rest() -> None:
    one = laid_out(SIZES, "factorial")
    two = pd.concat([one.assign(set="a"), one.assign(set="b")])
    found = least(two, groups=["set"])
    assert list(found.index) == ["E[a]", "E[b]", "A", "B", "alpha", "beta"]
    np.testing.assert_allclose(found.loc["alpha", "se"], least(one).loc["alpha", "se"] / math.sqrt(2))


def test_what_nothing_determines_has_no_end() -> None:
    found = least(laid_out({"N": SIZES["N"], "R": [4.0, 400.0]}, "factorial"))
    assert np.isinf(found.loc[["E", "B", "beta"], "se"]).all()
    assert np.isfinite(found.loc[["A", "alpha"], "se"]).all()


def test_without_noise_there_is_none() -> None:
    assert identifiability(laid_out(SIZES, "factorial"), N="N", R="R", at=AT).cramer_rao is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"at": {name: AT[name] for name in AT if name != "beta"}}, "`at` lacks 'beta', which the errors of a design"),
        ({"at": None}, "`at` lacks 'E'"),
        ({"noise": 0.0}, "`noise` is 0.0; a standard deviation must be finite and above zero"),
        ({"noise": math.nan}, "`noise` is nan; a standard deviation must be finite and above zero"),
        ({"at": AT | {"E": -500.0}}, r"the law's value is -\S+ at some settings; it must be positive"),
    ],
)
def test_what_it_refuses(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        least(laid_out(SIZES, "factorial"), **options)
