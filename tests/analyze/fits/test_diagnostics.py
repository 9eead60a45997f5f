import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from scipy import stats
from statsmodels.formula.api import ols, wls
from statsmodels.stats.anova import anova_lm

from lorascope.analyze.fits.design import Design
from lorascope.analyze.fits.diagnostics import axis_tests, criteria, f_test, lack_of_fit, residuals_by_setting
from lorascope.analyze.fits.estimate import estimate

from .simulated import simulate_study

DesignOf = Callable[..., Design]
PaperCells = Callable[[str], pd.DataFrame]
TRUTH = {"A": 1.0, "alpha": 0.5, "B": 0.8, "beta": 0.6, "slope_N": 0.3, "slope_R": 0.2}


def study(law: str = "additive", **options: Any) -> pd.DataFrame:
    given: dict[str, Any] = {
        "N": (1e8, 1e9, 3e9, 1e10),
        "R": (4.0, 16.0, 64.0),
        "groups": {"a": 1.5, "b": 2.5, "c": 2.0},
    }
    return simulate_study(TRUTH, law=law, **{**given, **options}, noise=0.02, random=np.random.default_rng(0))


def test_f_of_nested_fits() -> None:
    f, p = f_test(3.0, 2.0, 2, 10)
    assert f == pytest.approx(2.5)
    assert p == pytest.approx(stats.f.sf(2.5, 2, 10))
    assert f_test(2.0, 2.0 + 1e-12, 1, 5) == (0.0, 1.0)  # a search that stopped a hair too early
    assert f_test(1.0, 0.0, 1, 5) == (math.inf, 0.0)
    assert all(math.isnan(value) for value in f_test(0.0, 0.0, 1, 5))


# Lack of fit.


@pytest.mark.parametrize("law", ["log", "log-log"])
def test_lack_of_fit_is_that_of_nested_regressions(design_of: DesignOf, law: str) -> None:
    frame = study()  # curved, so that the straight law lacks
    row = lack_of_fit(estimate(design_of(frame, law=law, residuals="absolute"))).iloc[0]
    frame = frame.assign(
        x=np.log(frame["N"]), z=np.log(frame["R"]), y=np.log(frame["y"]) if law == "log-log" else frame["y"]
    )
    straight, free = ols("y ~ C(group) + x + z", frame).fit(), ols("y ~ C(group) + C(N):C(R)", frame).fit()
    table = anova_lm(straight, free)
    assert row["F"] == pytest.approx(table["F"].iloc[1], rel=1e-8)
    assert row["p"] == pytest.approx(table["Pr(>F)"].iloc[1], rel=1e-6, abs=1e-300)
    assert (row["n_more"], row["df"]) == (table["df_diff"].iloc[1], table["df_resid"].iloc[1]) == (9, 22)
    assert row["sigma_free"] == pytest.approx(math.sqrt(free.mse_resid), rel=1e-8)
    assert (row["n_settings"], row["note"]) == (12, "")


def test_free_settings_stand_beside_offsets(design_of: DesignOf, paper_cells: PaperCells) -> None:
    cells = paper_cells("Phi3")
    found = estimate(design_of(cells, response="MIUB", groups=["dataset"], offsets=["sweep"]))
    row = lack_of_fit(found).iloc[0]
    cells = cells.assign(weight=cells["MIUB"] ** -2.0)
    free = wls("MIUB ~ C(dataset) + C(setting)", cells, weights=cells["weight"]).fit()
    assert (row["n_more"], row["df"], row["n_settings"]) == (1, 24, 7)
    assert row["df"] == free.df_resid
    assert row["F"] == pytest.approx((found.ssr - free.ssr) / (free.ssr / 24), rel=1e-7)


def test_a_law_that_is_true_does_not_lack(design_of: DesignOf) -> None:
    """p over simulated studies is even: a third lies in each third."""
    p = []
    for seed in range(40):
        frame = simulate_study(
            TRUTH, N=(1e8, 1e9, 3e9, 1e10), R=(4.0, 16.0), law="log", groups={"a": 5.0, "b": 6.0, "c": 7.0}, noise=0.02,
            random=np.random.default_rng(seed),
        )  # fmt: skip
        p.append(lack_of_fit(estimate(design_of(frame, law="log")))["p"].iloc[0])
    assert stats.kstest(p, "uniform").pvalue > 0.01


def test_a_law_that_cannot_lack(design_of: DesignOf) -> None:
    frame = study(N=(1e8, 1e9, 1e10), R=())
    row = lack_of_fit(estimate(design_of(frame))).iloc[0]
    assert math.isnan(row["F"])
    assert math.isnan(row["p"])
    assert (row["n_more"], row["note"]) == (0, "3 settings leave the law no freedom to be wrong")


def test_nothing_that_tells_error_from_lack(design_of: DesignOf) -> None:
    frame = study(groups={"a": 1.5})
    row = lack_of_fit(estimate(design_of(frame))).iloc[0]
    assert math.isnan(row["p"])
    assert (
        row["note"]
        == "no setting was measured in several groups or several times, so nothing tells error from lack of fit"
    )
    again = pd.concat([frame, frame.iloc[:2].assign(y=lambda rows: rows["y"] * 1.01, repeat=1)])
    repeated = lack_of_fit(estimate(design_of(again, repeat="repeat"))).iloc[0]
    assert (repeated["df"], repeated["n_more"], repeated["note"]) == (2, 12 - 5, "")


# What each size adds.


@pytest.mark.parametrize("law", ["log", "log-log"])
def test_axis_tests_are_those_of_regressions(design_of: DesignOf, law: str) -> None:
    frame = study(law)
    found = axis_tests(estimate(design_of(frame, law=law, residuals="absolute"))).set_index("axis")
    y = np.log(frame["y"]) if law == "log-log" else frame["y"]
    whole = pd.DataFrame({"N": np.log(frame["N"]), "R": np.log(frame["R"])}).join(
        pd.get_dummies(frame["group"], dtype=float)
    )
    full = sm.OLS(y, whole).fit()
    for axis in ("N", "R"):
        f, p, n_more = full.compare_f_test(sm.OLS(y, whole.drop(columns=axis)).fit())
        row = found.loc[axis]
        assert (row["F"], row["n_more"], row["df"]) == pytest.approx((f, n_more, full.df_resid), rel=1e-8)
        assert row["p"] == pytest.approx(p, rel=1e-6, abs=1e-300)
        assert row["ssr_ratio"] == pytest.approx(1 + f * n_more / full.df_resid, rel=1e-8)


def test_axis_tests_of_the_law_as_printed(design_of: DesignOf) -> None:
    truth = {**TRUTH, "C": 0.4}
    frame = simulate_study(
        truth, N=(1e8, 1e9, 1e10), R=(4.0, 16.0, 64.0), D=(1.0, 8.0, 64.0), law="as printed", groups={"a": 1.5},
        noise=0.01, random=np.random.default_rng(0),
    )  # fmt: skip
    found = axis_tests(estimate(design_of(frame, law="as printed")))
    assert found[["axis", "n_more"]].to_numpy().tolist() == [
        ["N", 1],
        ["R", 3],
        ["D", 1],
    ]  # alpha is shared; R has two terms
    assert (found["p"] < 1e-3).all()


# Residuals by setting.


def test_residuals_by_setting_are_t_tests(design_of: DesignOf) -> None:
    found = estimate(design_of(study()))
    table = residuals_by_setting(found)
    assert list(table["setting"]) == list(dict.fromkeys(found.design.settings))
    for row in table.itertuples():
        values = found.residuals[found.design.settings == row.setting]
        expected = stats.ttest_1samp(values, 0)
        assert (row.n, row.mean, row.t, row.p) == pytest.approx((3, values.mean(), expected.statistic, expected.pvalue))
        assert row.se == pytest.approx(stats.sem(values))


# Criteria.


def regression(design: Design) -> Any:
    return sm.OLS(
        design.y, np.column_stack([design.levels, *(one.printed(np.zeros(0)) for one in design.columns)])
    ).fit()


def test_straight_law_against_a_regression(design_of: DesignOf) -> None:
    found = estimate(design_of(study("log"), law="log", residuals="absolute"))
    peer = regression(found.design)
    own = criteria(found)
    assert own.minus_two_log_likelihood == pytest.approx(-2 * peer.llf, rel=1e-10)
    k = len(found.values) + 1
    assert own.n_parameters == k == 6
    assert own.aic == pytest.approx(peer.aic + 2, rel=1e-10)  # statsmodels doesn't count the spread
    assert own.bic == pytest.approx(peer.bic + math.log(36), rel=1e-10)
    assert own.aicc == pytest.approx(-2 * peer.llf + 2 * k * 36 / (36 - k - 1), rel=1e-10)


@pytest.mark.parametrize("residuals", ["relative", "absolute", "log"])
def test_power_law_is_of_the_response_itself(design_of: DesignOf, residuals: str) -> None:
    found = estimate(design_of(study("log-log"), law="log-log", residuals=residuals))
    peer = regression(found.design)
    spread = math.sqrt(peer.ssr / 36)
    density = stats.lognorm.logpdf(found.design.frame["y"], s=spread, scale=np.exp(peer.fittedvalues))
    assert criteria(found).minus_two_log_likelihood == pytest.approx(-2 * density.sum(), rel=1e-10)


def test_residuals_of_the_logarithm_are_lognormal(design_of: DesignOf) -> None:
    found = estimate(design_of(study(), residuals="log"))
    density = stats.lognorm.logpdf(found.design.y, s=math.sqrt(found.ssr / 36), scale=found.fitted)
    assert criteria(found).minus_two_log_likelihood == pytest.approx(-2 * density.sum(), rel=1e-10)


def test_relative_residuals_are_normal_with_weights_as_given(design_of: DesignOf) -> None:
    found = estimate(design_of(study()))
    y = found.design.y
    density = stats.norm.logpdf(y, loc=found.fitted, scale=math.sqrt(found.ssr / 36) * y)
    assert criteria(found).minus_two_log_likelihood == pytest.approx(-2 * density.sum(), rel=1e-10)


def test_too_few_cells_for_aicc(design_of: DesignOf) -> None:
    frame = study(groups={"a": 1.5}, N=(1e8, 5e8, 2e9, 1e10), R=())
    found = criteria(estimate(design_of(frame)))
    assert found.n_parameters == 4
    assert math.isnan(found.aicc)
    assert math.isfinite(found.bic)


def test_a_law_without_error_is_infinitely_likely(design_of: DesignOf) -> None:
    found = estimate(design_of(study("log"), law="log", residuals="absolute"))
    exact = criteria(replace(found, design=replace(found.design, frame=found.design.frame.assign(y=found.fitted))))
    assert exact.minus_two_log_likelihood == exact.aic == exact.aicc == exact.bic == -math.inf
