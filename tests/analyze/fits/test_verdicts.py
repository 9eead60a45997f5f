import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from scipy import stats

from lorascope.analyze.fits.design import Design
from lorascope.analyze.fits.estimate import Estimate, estimate
from lorascope.analyze.fits.profile import Interval, profiles
from lorascope.analyze.fits.verdicts import WORDS, Summary, Verdict, axis_tests, f_test, is_small, verdicts
from lorascope.analyze.results.format import format_number

from .simulated import simulate_study

DesignOf = Callable[..., Design]
PaperCells = Callable[[str], pd.DataFrame]
TRUTH = {"A": 1.0, "alpha": 0.5, "B": 0.8, "beta": 0.6, "slope_N": 0.3, "slope_R": 0.2}


def study(law: str = "additive", truth: dict[str, float] | None = None, **options: Any) -> pd.DataFrame:
    defaults: dict[str, Any] = {
        "N": (1e8, 5e8, 2e9, 1e10), "R": (4.0, 16.0, 64.0), "groups": {"a": 1.5, "b": 2.5}, "noise": 0.01,
        "random": np.random.default_rng(0),
    }  # fmt: skip
    return simulate_study(truth or TRUTH, law=law, **{**defaults, **options})


def judged(by_claim: Estimate, intervals: dict[str, Interval] | None = None, level: float = 0.95) -> dict[str, Verdict]:
    if intervals is None:
        intervals = {name: verdict.interval for name, verdict in profiles(by_claim, level).items()}
    every = verdicts(by_claim, intervals, axis_tests(by_claim), level)
    assert all(verdict.word in WORDS for verdict in every)
    return {verdict.claim: verdict for verdict in every}


def test_a_study_that_says_it_all(design_of: DesignOf) -> None:
    by_claim = judged(estimate(design_of(study())))
    assert list(by_claim) == [
        "y falls as N grows",
        "y falls as R grows",
        "under this law, these data determine alpha",
        "under this law, these data determine beta",
    ]
    assert {verdict.word for verdict in by_claim.values()} == {"supported"}


def test_because_holds_the_numbers(design_of: DesignOf) -> None:
    fit = estimate(design_of(study()))
    by_claim = judged(fit)
    row = axis_tests(fit).iloc[0]
    change = fit.values["A"] * (1 - 100 ** fit.values["alpha"])  # from N0/N = 100 to 1
    because = by_claim["y falls as N grows"].because
    assert because.startswith(f"from the smallest to the largest N it changes by {change:.2f} of y; F(2, 18) = ")
    assert f"F(2, 18) = {format_number(row['F'])}, p = {format_number(row['p'])}, n = 24" in because
    low, high, *_ = profiles(fit, 0.95)["alpha"].interval
    expected = f"alpha = {fit.values['alpha']:.3f}, 95 % profile interval by F {low:.3f} to {high:.3f}, n = 24"
    assert by_claim["under this law, these data determine alpha"].because == expected


@pytest.mark.parametrize("law", ["additive", "multiplicative", "log", "log-log"])
def test_a_response_that_rises_contradicts(design_of: DesignOf, law: str) -> None:
    rising = {"A": -0.5, "alpha": 0.1, "B": -0.3, "beta": 0.3, "slope_N": -0.1, "slope_R": -0.1}
    if law == "log-log":
        rising |= {"alpha": -0.1, "beta": -0.3}
    frame = study(law, rising, groups={"a": 5.5, "b": 6.5})
    by_claim = judged(estimate(design_of(frame, law=law)), {})
    for size in ("N", "R"):
        assert frame.groupby(size)["y"].mean().is_monotonic_increasing
        assert by_claim[f"y falls as {size} grows"].word == "contradicted"


def test_a_size_that_does_nothing_is_not_identified(design_of: DesignOf) -> None:
    frame = study(truth={**TRUTH, "B": 1e-9})
    by_claim = judged(estimate(design_of(frame)), {})
    assert by_claim["y falls as R grows"].word == "not identified"
    assert by_claim["y falls as N grows"].word == "supported"


@pytest.mark.parametrize(
    ("interval", "word", "words"),
    [
        (Interval(0.4, 0.6, False, False, False), "supported", "interval by F 0.400 to 0.600, n = 24"),
        (Interval(-0.6, -0.4, False, False, False), "supported", "interval by F -0.600 to -0.400, n = 24"),
        (Interval(-0.1, 0.6, False, False, False), "not identified", "0 included: its term may be a logarithm as well"),
        (Interval(0.02, 0.6, True, False, False), "not identified", "interval by F (open) to 0.600, n = 24"),
        (Interval(0.4, 25.0, False, True, False), "not identified", "interval by F 0.400 to (open), n = 24"),
        (Interval(0.02, 25.0, True, True, False), "not identified", "by F (open) to (open), n = 24"),
    ],
)
def test_exponents_by_their_intervals(design_of: DesignOf, interval: Interval, word: str, words: str) -> None:
    by_claim = judged(estimate(design_of(study())), {"alpha": interval, "beta": interval})
    for name in ("alpha", "beta"):
        verdict = by_claim[f"under this law, these data determine {name}"]
        assert verdict.word == word
        assert verdict.because.endswith(words)


def test_shared_layers_make_it_rise(design_of: DesignOf, paper_cells: PaperCells) -> None:
    cells = paper_cells("Phi3")
    fit = estimate(design_of(cells, response="MIUB", groups=["dataset"], offsets=["sweep"], law="share", share="share"))
    by_claim = judged(fit, {})
    verdict = by_claim["MIUB rises as share grows"]
    assert verdict.word == "supported"
    assert (
        f"from the smallest to the largest share it changes by {7 * fit.values['slope_share']:.3g}" in verdict.because
    )


def test_texts_of_intervals() -> None:
    assert Interval(0.2, 0.51234, False, False, False).text() == "0.200 to 0.512"
    assert Interval(0.2, 0.5, True, False, False).text() == "(open) to 0.500"
    assert Interval(0.2, 0.5, False, True, True).text() == "0.200 to (open), in parts"


def test_the_text_of_a_summary_has_verdicts_and_the_first_table() -> None:
    rows = pd.DataFrame({"name": ["alpha"], "value": [1.23456]})
    verdicts = [Verdict("it falls", "supported", "4 of 4")]
    summary = Summary("A fit", verdicts, {"slopes": rows, "more": rows}, ["one row excluded"], {"seed": 7})
    lines = str(summary).split("\n")
    assert lines[:4] == ["A fit", "supported: it falls (4 of 4)", "", "slopes"]
    assert lines[-1].split() == ["alpha", "1.23"]
    record = summary.to_dict()
    assert record["tables"]["more"] == [{"name": "alpha", "value": 1.23456}]  # full precision
    assert (record["notes"], record["provenance"]) == (["one row excluded"], {"seed": 7})
    assert record["verdicts"] == [{"claim": "it falls", "word": "supported", "because": "4 of 4"}]


@pytest.mark.parametrize(("p_value", "counts"), [(0.05, True), (0.05 + 1e-13, True), (0.0501, False), (np.nan, False)])
def test_p_values_that_count(p_value: float, counts: bool) -> None:
    assert is_small(p_value, 0.95) == counts


def noisy_study(law: str = "additive", **options: Any) -> pd.DataFrame:
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
    frame = noisy_study(law)
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
