import doctest
import math
import re
from typing import Any

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from scipy import stats

from lorascope.analyze.fits import fit as module
from lorascope.analyze.fits.design import apply_design
from lorascope.analyze.fits.estimate import estimate
from lorascope.analyze.fits.fit import fit_scaling_law
from lorascope.analyze.fits.result import ScalingFit
from lorascope.analyze.fits.verdicts import search_notes
from lorascope.analyze.results.save import data_hash

from .conftest import DesignOf
from .simulated import simulate_study

TRUTH = {"A": 1.0, "alpha": 0.5, "B": 0.8, "beta": 0.6, "slope_N": 0.3, "slope_R": 0.2}
SIZES: dict[str, Any] = {"N": (1e8, 5e8, 2e9, 1e10), "R": (4.0, 16.0, 64.0)}


def study(law: str = "additive", **options: Any) -> pd.DataFrame:
    defaults: dict[str, Any] = {
        **SIZES,
        "groups": {"a": 1.5, "b": 2.5},
        "noise": 0.01,
        "random": np.random.default_rng(0),
    }
    return simulate_study(TRUTH, law=law, **{**defaults, **options})


def fitted(frame: pd.DataFrame, **options: Any) -> ScalingFit:
    roles = {axis: axis for axis in ("N", "R", "D") if axis in frame}
    return fit_scaling_law(frame, "y", **{**roles, "groups": ["group"], **options})


def test_example_runs() -> None:
    results = doctest.testmod(module)
    assert results.failed == 0
    assert results.attempted >= 4


def test_names_of_statsmodels() -> None:
    frame = study()
    fit = fitted(frame)
    assert list(fit.params.index) == list(fit.bse.index) == ["E[a]", "E[b]", "A", "B", "alpha", "beta"]
    assert (fit.nobs, fit.df_resid) == (24, 18)
    assert fit.ssr == pytest.approx((fit.resid**2).sum())
    assert fit.sigma == pytest.approx(math.sqrt(fit.ssr / 18))
    np.testing.assert_allclose(fit.resid, 1 - fit.fittedvalues / frame["y"], rtol=1e-9, atol=1e-14)
    assert list(fit.resid.index) == list(fit.fittedvalues.index) == list(frame.index)
    for name in ("A", "B", "alpha", "beta"):
        assert abs(fit.params[name] - TRUTH[name]) < 5 * fit.bse[name]
    shuffled = frame.sample(frac=1, random_state=0)
    np.testing.assert_allclose(fitted(shuffled).resid[frame.index], fit.resid, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("law", ["additive", "log", "log-log", "multiplicative"])
def test_a_law_without_noise_gives_its_parameters_back(law: str) -> None:
    fit = fitted(study(law, noise=0), law=law)
    for name in fit.design.term_names:
        assert fit.params[name] == pytest.approx(TRUTH[name], rel=1e-6)
    assert fit.profiles == {}
    with pytest.raises(ValueError, match="no profile intervals: the law goes through every cell"):
        fit.conf_int()


# Predictions.


NEW = pd.DataFrame({"group": ["a", "b", "b"], "N": [2e9, 1e11, 1e8], "R": [32.0, 2.0, 1024.0]}, index=["x", "y", "z"])


def columns_of(fit: ScalingFit, rows: pd.DataFrame) -> np.ndarray:
    design = apply_design(fit.design, rows)
    return np.column_stack([design.levels, *(column.printed(np.zeros(0)) for column in design.columns)])


@pytest.mark.parametrize("law", ["log", "log-log"])
@pytest.mark.parametrize("level", [0.95, 0.6])
def test_predictions_of_a_straight_law_are_those_of_a_regression(law: str, level: float) -> None:
    frame = study(law)
    fit = fitted(frame, law=law, residuals="absolute", level=level)
    peer = sm.OLS(fit.design.y, columns_of(fit, frame)).fit().get_prediction(columns_of(fit, NEW))
    expected = peer.summary_frame(alpha=1 - level)[["mean", "mean_ci_lower", "mean_ci_upper"]]
    table = fit.predict(NEW)
    np.testing.assert_allclose(table, np.exp(expected) if law == "log-log" else expected, rtol=1e-9)
    assert list(table.index) == list(NEW.index)


@pytest.mark.parametrize("residuals", ["relative", "absolute"])
def test_predictions_of_a_curved_law_by_the_delta_method(residuals: str) -> None:
    fit = fitted(study(), residuals=residuals)
    table, values = fit.predict(NEW), fit.params
    terms = values["A"] * (1e10 / NEW["N"]) ** values["alpha"] + values["B"] * (4 / NEW["R"]) ** values["beta"]
    np.testing.assert_allclose(table["mean"], NEW["group"].map({"a": values["E[a]"], "b": values["E[b]"]}) + terms)
    half = stats.t.ppf(0.975, fit.df_resid) * fit.estimate.prediction_errors(apply_design(fit.design, NEW))
    np.testing.assert_allclose(table["high"] - table["mean"], half, rtol=1e-9)
    np.testing.assert_allclose(table["mean"] - table["low"], half, rtol=1e-9)
    pd.testing.assert_frame_equal(fit.predict(), fit.predict(study()))


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"group": "c"}, "E[c] isn't among the fit's levels: E[a], E[b]"),
        ({"N": -1.0}, "column 'N' is -1 in row 0; it must be above zero"),
        ({"R": math.nan}, "column 'R' is empty in row 0"),
        ({"N": "large"}, "column 'N' holds 'large' in row 0, where a number belongs"),
    ],
)
def test_rows_that_are_not_predicted(row: dict[str, Any], words: str) -> None:
    fit = fitted(study())
    with pytest.raises(ValueError, match=re.escape(words)):
        fit.predict(pd.DataFrame([{"group": "a", "N": 1e9, "R": 8.0, **row}]))
    with pytest.raises(ValueError, match="the table has no column 'R'; it has 'group', 'N'"):
        fit.predict(pd.DataFrame([{"group": "a", "N": 1e9}]))


# Notes.


def test_notes(design_of: DesignOf) -> None:
    assert fitted(study()).notes == ()
    frame = study().assign(D=5.0)
    frame.loc[4, "y"] = math.nan
    design = design_of(frame, bounds={"alpha": (0.02, 0.25)})
    notes = (*design.notes, *search_notes(estimate(design)))
    assert notes[:4] == (
        "1 of 24 rows without a value in 'y' are excluded",
        "'D' is 5 in every row: C (D0/D)^gamma is part of the level",
        "settings that other groups have are missing in 1 of 2 groups",
        "alpha is at an end of its range, 0.02 to 0.25: it isn't an estimate",
    )
    assert notes[4].startswith("relative residuals divide by the observed response; with this much noise, sigma 0.0")


# Settings.


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"level": 95}, "`level` is 95; it lies between 0 and 1, such as 0.95"),
        ({"level": 1.0}, "`level` is 1.0; it lies between 0 and 1, such as 0.95"),
        ({"level": 0.0}, "`level` is 0.0; it lies between 0 and 1, such as 0.95"),
        ({"law": "cubic"}, "`law` is 'cubic'; allowed are"),
    ],
)
def test_settings_that_are_not_allowed(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        fitted(study(), **options)


# Records.


def test_provenance() -> None:
    frame = study().assign(more="?")
    fit = fitted(frame)
    record = fit.provenance
    assert record["data_sha256"] == data_hash(fit.design.frame)
    assert record["n_rows"] == 24
    assert {"numpy", "scipy", "pandas", "lorascope"} <= set(record["versions"])
    settings = record["settings"]
    assert settings["bounds"] == {"alpha": [0.02, 25.0], "beta": [-1.5, 12.0]}
    assert settings["references"] == {"N": 1e10, "R": 4.0}
    assert (settings["response"], settings["N"], settings["R"], settings["D"]) == ("y", "N", "R", None)
    assert (settings["groups"], settings["offsets"], settings["law"]) == (["group"], [], "additive")
    assert (settings["residuals"], settings["level"]) == ("relative", 0.95)
    assert (settings["share"], settings["repeat"]) == (None, None)
    assert fitted(frame.drop(columns="more")).provenance["data_sha256"] == record["data_sha256"]
    changed = frame.assign(y=frame["y"].where(frame.index != 3, frame["y"] * (1 + 1e-15)))
    assert (changed["y"] != frame["y"]).sum() == 1
    assert fitted(changed).provenance["data_sha256"] != record["data_sha256"]
