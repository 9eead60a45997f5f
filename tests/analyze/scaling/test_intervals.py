import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from scipy import stats

from lorascope.analyze.scaling.bootstrap import Bootstrap
from lorascope.analyze.scaling.design import Design
from lorascope.analyze.scaling.estimate import estimated
from lorascope.analyze.scaling.intervals import bootstrap_intervals, profile_intervals, profiles, wald_intervals
from lorascope.analyze.scaling.simulate import simulate_study

DesignOf = Callable[..., Design]
TRUTH = {"A": 1.0, "alpha": 0.5, "B": 0.8, "beta": 0.6, "slope_N": 0.3, "slope_R": 0.2}


def study(law: str = "additive", **options: Any) -> pd.DataFrame:
    given: dict[str, Any] = {"N": (1e8, 1e9, 3e9, 1e10), "R": (4.0, 16.0, 64.0), "groups": {"a": 1.5, "b": 2.5}}
    return simulate_study(TRUTH, law=law, **{**given, **options}, noise=0.01, random=np.random.default_rng(0))


def test_profiles_are_of_amplitudes_and_exponents(design_of: DesignOf) -> None:
    found = estimated(design_of(study()))
    every = profiles(found, 0.95)
    assert list(every) == ["A", "B", "alpha", "beta"]
    for rule in ("F", "chi2"):
        table = profile_intervals(every, rule)
        assert list(table.columns) == ["low", "high", "low_open", "high_open", "in_parts"]
        assert table.dtypes.map(str).tolist() == ["float64", "float64", "bool", "bool", "bool"]
        for name, row in table.iterrows():
            assert row["low"] < found.values[name] < row["high"]
            assert every[name].name == name
            assert tuple(row) == every[name].intervals[rule]
    narrower = profile_intervals(profiles(found, 0.5), "F")
    assert (narrower["low"] > table["low"]).all()
    assert (narrower["high"] < table["high"]).all()


def test_profiles_of_a_straight_law_are_of_its_slopes(design_of: DesignOf) -> None:
    found = estimated(design_of(study("log-log"), law="log-log"))
    table = profile_intervals(profiles(found, 0.95), "F")
    assert list(table.index) == ["alpha", "beta"]
    wald = wald_intervals(found, 0.95)
    np.testing.assert_allclose(table[["low", "high"]].astype(float), wald.loc[table.index], rtol=1e-6)


def test_wald_is_t_times_the_error(design_of: DesignOf) -> None:
    found = estimated(design_of(study("log"), law="log", residuals="absolute"))
    x = np.column_stack([found.design.levels, *(one.printed(np.zeros(0)) for one in found.design.columns)])
    exact = sm.OLS(found.design.y, x).fit().conf_int(0.2)
    table = wald_intervals(found, 0.8)
    assert list(table.index) == ["E[a]", "E[b]", "slope_N", "slope_R"]
    np.testing.assert_allclose(table, exact, rtol=1e-9)
    curved = estimated(design_of(study()))
    half = stats.t.ppf(0.975, curved.df) * curved.standard_errors["beta"]
    row = wald_intervals(curved, 0.95).loc["beta"]
    assert tuple(row) == pytest.approx((curved.values["beta"] - half, curved.values["beta"] + half), rel=1e-12)


def test_no_profile_of_an_amplitude_without_end(design_of: DesignOf) -> None:
    """The best exponent is 0, the end of its range; its own profile is there, with an open end."""
    frame = study("log", R=()).assign(y=lambda rows: rows["y"] + np.sqrt(1 + np.log(1e10 / rows["N"])))
    found = estimated(design_of(frame, bounds={"alpha": (0.0, 5.0)}))
    assert found.search.at_bound == ("alpha",)
    every = profiles(found, 0.95)
    assert list(every) == ["alpha"]
    assert every["alpha"].intervals["F"].low_open


@pytest.mark.parametrize("scale", [1e-9, 1e9])
def test_first_steps_fit_the_unit(design_of: DesignOf, scale: float) -> None:
    frame = study(R=())
    table = profile_intervals(profiles(estimated(design_of(frame)), 0.95), "F")
    scaled = profile_intervals(profiles(estimated(design_of(frame.assign(y=frame["y"] * scale))), 0.95), "F")
    for name, factor in (("A", scale), ("alpha", 1)):
        expected = factor * table.loc[name, ["low", "high"]].astype(float)
        np.testing.assert_allclose(scaled.loc[name, ["low", "high"]].astype(float), expected, rtol=1e-5)


def test_profiles_without_standard_errors_of_any_use(design_of: DesignOf) -> None:
    """Two exponents of one slope: linear theory knows no bounds, profiles are open."""
    frame = study(N=(9e9, 9.5e9, 1e10), R=(), groups={"a": 1.5})
    frame = pd.concat([frame, frame.assign(y=frame["y"] * [1.02, 0.99, 1.01], repeat=1)])
    found = estimated(design_of(frame, repeat="repeat"))
    table = profile_intervals(profiles(found, 0.95), "F")
    assert table["low_open"].all()
    assert table["high_open"].all()


def test_bootstrap_intervals_are_a_row_a_parameter() -> None:
    values = pd.DataFrame({"A": [1.0, 2.0, 3.0, 4.0], "alpha": [0.02, 0.5, 0.7, 25.0]})
    found = Bootstrap("wild", True, values, np.full(4, 0.25), 0, {"alpha": (0.02, 25.0)})
    table = bootstrap_intervals(found, 0.9)
    assert table.to_dict(orient="index") == {
        "A": {"low": 1.0, "high": 4.0, "low_open": False, "high_open": False},
        "alpha": {"low": 0.02, "high": 25.0, "low_open": True, "high_open": True},
    }
    assert table.dtypes.map(str).tolist() == ["float64", "float64", "bool", "bool"]
    inner = bootstrap_intervals(found, 0.3).loc["alpha"]
    assert (inner["low"], inner["high"], inner["low_open"], inner["high_open"]) == (0.5, 0.7, False, False)
    assert not math.isnan(table.loc["A", "low"])
