import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from scipy import stats

from lorascope.analyze.scaling.bands import bands
from lorascope.analyze.scaling.design import Design, applied
from lorascope.analyze.scaling.estimate import Estimate, estimated
from lorascope.analyze.scaling.simulate import simulate_study

DesignOf = Callable[..., Design]
TRUTH = {"A": 1.0, "alpha": 0.5, "B": 0.8, "beta": 0.6, "slope_N": 0.3, "slope_R": 0.2}
NEW = pd.DataFrame({"group": ["a", "b", "b"], "N": [2e9, 1e11, 1e8], "R": [32.0, 2.0, 1024.0]}, index=["x", "y", "z"])
COLUMNS = ["mean", "mean_se", "mean_low", "mean_high", "low", "high"]
PEERS = ["mean", "mean_se", "mean_ci_lower", "mean_ci_upper", "obs_ci_lower", "obs_ci_upper"]


def study(law: str = "additive", **options: Any) -> pd.DataFrame:
    given: dict[str, Any] = {"N": (1e8, 5e8, 2e9, 1e10), "R": (4.0, 16.0, 64.0), "groups": {"a": 1.5, "b": 2.5}}
    return simulate_study(TRUTH, law=law, **{**given, **options}, noise=0.02, random=np.random.default_rng(0))


def columns(design: Design) -> np.ndarray:
    return np.column_stack([design.levels, *(one.printed(np.zeros(0)) for one in design.columns)])


@pytest.mark.parametrize("rows", [None, NEW], ids=["own", "new"])
@pytest.mark.parametrize("level", [0.95, 0.6])
def test_straight_law_against_a_regression(design_of: DesignOf, rows: pd.DataFrame | None, level: float) -> None:
    found = estimated(design_of(study("log"), law="log", residuals="absolute"))
    design = found.design if rows is None else applied(found.design, rows)
    peer = sm.OLS(found.design.y, columns(found.design)).fit().get_prediction(columns(design))
    table = bands(found, design, level)
    np.testing.assert_allclose(table[COLUMNS], peer.summary_frame(alpha=1 - level)[PEERS], rtol=1e-9)
    assert list(table.index) == list(design.frame.index)


@pytest.mark.parametrize("rows", [None, NEW], ids=["own", "new"])
def test_power_law_against_a_regression_of_logarithms(design_of: DesignOf, rows: pd.DataFrame | None) -> None:
    found = estimated(design_of(study("log-log"), law="log-log"))
    design = found.design if rows is None else applied(found.design, rows)
    peer = sm.OLS(found.design.y, columns(found.design)).fit().get_prediction(columns(design)).summary_frame()
    table = bands(found, design, 0.95)
    np.testing.assert_allclose(table["mean"], np.exp(peer["mean"]), rtol=1e-9)
    np.testing.assert_allclose(table[COLUMNS[2:]], np.exp(peer[PEERS[2:]]), rtol=1e-9)
    np.testing.assert_allclose(table["mean_se"], np.exp(peer["mean"]) * peer["mean_se"], rtol=1e-9)


def test_relative_residuals_spread_with_the_response(design_of: DesignOf) -> None:
    found = estimated(design_of(study("log"), law="log"))
    design = applied(found.design, NEW)
    peer = sm.WLS(found.design.y, columns(found.design), weights=found.design.weights**2).fit()
    frame = peer.get_prediction(columns(design)).summary_frame()
    table = bands(found, design, 0.95)
    np.testing.assert_allclose(table[COLUMNS[:4]], frame[PEERS[:4]], rtol=1e-8)
    t = stats.t.ppf(0.975, found.df)
    half = t * np.sqrt(frame["mean_se"] ** 2 + (found.sigma * frame["mean"]) ** 2)
    np.testing.assert_allclose(table["high"] - table["mean"], half, rtol=1e-8)
    np.testing.assert_allclose(table["mean"] - table["low"], half, rtol=1e-8)


def delta(found: Estimate, rows: Design) -> np.ndarray:
    """(n,) standard errors by differences of the printed law and the printed covariance."""
    jacobian = []
    values = np.array(list(found.values.values()))
    for k in range(len(values)):
        moved = []
        for sign in (-1, 1):
            at = dict(zip(found.values, values + sign * 1e-6 * np.eye(len(values))[k], strict=True))
            shifts = rows.terms.shifts
            n = np.exp((rows.terms.logs["N"] + shifts.get("N", 0)) * at["alpha"])
            r = np.exp((rows.terms.logs["R"] + shifts.get("R", 0)) * at["beta"])
            moved.append(rows.levels @ [at["E[a]"], at["E[b]"]] + at["A"] * n + at["B"] * r)
        jacobian.append((moved[1] - moved[0]) / 2e-6)
    root = np.stack(jacobian, axis=1)
    return np.asarray(np.sqrt(np.einsum("ni,ij,nj->n", root, found.covariance, root)))


@pytest.mark.parametrize("residuals", ["relative", "absolute", "log"])
def test_curved_law_by_the_delta_method(design_of: DesignOf, residuals: str) -> None:
    found = estimated(design_of(study(), residuals=residuals))
    for rows in (found.design, applied(found.design, NEW)):
        table = bands(found, rows, 0.95)
        error, t = delta(found, rows), stats.t.ppf(0.975, found.df)
        np.testing.assert_allclose(table["mean"], found.predicted(rows), rtol=1e-12)
        np.testing.assert_allclose(table["mean_se"], error, rtol=1e-5)
        if residuals == "log":
            np.testing.assert_allclose(np.log(table["mean_high"] / table["mean"]), t * error / table["mean"], rtol=1e-5)
            np.testing.assert_allclose(np.log(table["mean"] / table["mean_low"]), t * error / table["mean"], rtol=1e-5)
            whole = np.hypot(error / table["mean"], found.sigma)
            np.testing.assert_allclose(np.log(table["high"] / table["mean"]), t * whole, rtol=1e-5)
        else:
            np.testing.assert_allclose(table["mean_high"] - table["mean"], t * error, rtol=1e-5)


@pytest.mark.parametrize("law", ["additive", "multiplicative", "log", "log-log"])
def test_references_do_not_matter(design_of: DesignOf, law: str) -> None:
    frame = study(law)
    one, other = (estimated(design_of(frame, law=law, references=refs)) for refs in ({}, {"N": 1.0, "R": 1.0}))
    tables = [bands(found, applied(found.design, NEW), 0.95) for found in (one, other)]
    np.testing.assert_allclose(tables[0], tables[1], rtol=1e-6)


def test_bands_hold_near_an_exponent_of_zero(design_of: DesignOf) -> None:
    """A straight line in ln N: exponent near 0, amplitude in the thousands, and errors like those of a line."""
    frame = study("log", R=())
    found = estimated(design_of(frame))
    assert abs(found.values["alpha"]) < 0.3
    line = estimated(design_of(frame, law="log"))
    curved, straight = (bands(each, each.design, 0.95)["mean_se"] for each in (found, line))
    assert ((curved / straight > 0.99) & (curved / straight < 2)).all()


def test_no_band_of_a_logarithm_below_zero(design_of: DesignOf) -> None:
    frame = study("log", R=())
    found = estimated(design_of(frame, law="log", residuals="log"))
    far = pd.DataFrame({"group": ["a", "a"], "N": [1e10, 1e14]})
    table = bands(found, applied(found.design, far), 0.95)
    assert table.iloc[0].notna().all()
    assert table["mean"].iloc[1] < 0
    assert table[["mean_low", "mean_high", "low", "high"]].iloc[1].isna().all()


def test_a_further_cell_lies_in_its_band(design_of: DesignOf) -> None:
    """19 of 20, over studies and new cells."""
    inside = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        frame = simulate_study(TRUTH, N=(1e8, 5e8, 2e9, 1e10), groups={"a": 1.5, "b": 2.5}, noise=0.02, random=rng)
        new = simulate_study(TRUTH, N=(3e8, 3e9), groups={"a": 1.5, "b": 2.5}, noise=0.02, random=rng)
        truth = {"a": 1.5, "b": 2.5}
        new["y"] = (new["group"].map(truth) + (1e10 / new["N"]) ** 0.5) * (new["y"] / new["expected"])
        found = estimated(design_of(frame))
        table = bands(found, applied(found.design, new), 0.95)
        inside += list((new["y"] > table["low"]) & (new["y"] < table["high"]))
    assert np.mean(inside) == pytest.approx(0.95, abs=4 * math.sqrt(0.95 * 0.05 / len(inside)))
