import json
from typing import Any

import numpy as np
import pandas as pd
import pytest

from lorascope.analyze.fits.fit import FitReport, fit_report, fit_scaling_law
from lorascope.analyze.fits.refits import cross_validate
from lorascope.analyze.fits.resampling import few_groups_note
from lorascope.study.paper_tables import paper_study

from .simulated import simulate_study

TRUTH = {"A": 1.0, "alpha": 0.5, "B": 0.8, "beta": 0.6, "slope_N": 0.3, "slope_R": 0.2}
PARTS = ["bootstrap", "held out", "laws"]


def study(law: str = "additive", **options: Any) -> pd.DataFrame:
    defaults: dict[str, Any] = {
        "N": (1e8, 5e8, 2e9, 1e10), "R": (4.0, 16.0, 64.0), "groups": {"a": 1.5, "b": 2.5}, "noise": 0.01,
        "random": np.random.default_rng(0),
    }  # fmt: skip
    return simulate_study(TRUTH, law=law, **{**defaults, **options})


def reported(frame: pd.DataFrame, **options: Any) -> FitReport:
    return fit_report(frame, "y", "N", "R" if "R" in frame else None, groups=["group"], **options)


STEPS: list[tuple[int, int, str]] = []


@pytest.fixture(scope="module")
def paper() -> FitReport:
    """The report of the paper's cells of Phi3."""
    cells = paper_study(once=True)
    return fit_report(
        cells[cells["model"] == "Phi3"], "MIUB", N="N", R="R", groups=["dataset"], offsets=["sweep"], share="share",
        seed=3, progress=lambda done, n, part="": STEPS.append((done, n, part)),
    )  # fmt: skip


def test_fit_is_the_one_asked_for(paper: FitReport) -> None:
    cells = paper_study(once=True)
    cells = cells[cells["model"] == "Phi3"]
    fit = fit_scaling_law(cells, "MIUB", N="N", R="R", groups=["dataset"], offsets=["sweep"], share="share")
    pd.testing.assert_series_equal(paper.fit.params, fit.params)
    assert paper.fit.provenance == fit.provenance
    pd.testing.assert_frame_equal(paper.held_out, fit.held_out())
    assert paper.bootstrap is not None
    pd.testing.assert_frame_equal(paper.bootstrap.values, fit.bootstrap(seed=3).values)


@pytest.mark.usefixtures("paper")
def test_progress_reaches_the_end() -> None:
    assert list(dict.fromkeys(part for _, _, part in STEPS)) == PARTS
    for part in PARTS:
        own = [(done, n) for done, n, name in STEPS if name == part]
        assert own[-1] == (own[0][1], own[0][1])
    assert {part: n for _, n, part in STEPS} == {"held out": 35 + 7 + 5 + 2 + 1, "laws": 5, "bootstrap": 126}


def test_rivals_on_the_same_cells(paper: FitReport) -> None:
    laws = paper.laws.set_index("law")
    assert list(laws.index) == ["additive", "log", "log-log", "multiplicative", "share"]
    assert list(laws.columns) == ["n_parameters", "sigma", "rmse_cell", "rmse_setting", "rmse_group", "n_setting"]
    own, errors = laws.loc["additive"], cross_validate(paper.held_out).set_index("split")
    assert (own["n_parameters"], own["sigma"]) == (len(paper.fit.params), paper.fit.sigma)
    for split in ("cell", "setting", "group"):
        assert own[f"rmse_{split}"] == errors.loc[split, "rmse"]
    # a rank, of three, can't be predicted without it by laws whose beta has an amplitude of its own
    assert laws["n_setting"].to_dict() == {"additive": 20, "log": 35, "log-log": 35, "multiplicative": 35, "share": 20}
    cells = paper_study(once=True)
    alone = fit_scaling_law(
        cells[cells["model"] == "Phi3"], "MIUB", N="N", R="R", groups=["dataset"], offsets=["sweep"], law="log-log"
    )
    assert laws.loc["log-log", "sigma"] == pytest.approx(alone.sigma, rel=1e-12)
    assert laws.loc["log-log", "rmse_cell"] == pytest.approx(
        cross_validate(alone.held_out()).set_index("split").loc["cell", "rmse"], rel=1e-9
    )


def test_refused_laws_are_named() -> None:
    two = study(N=(1e8, 1e10), R=(4.0, 64.0), n_repeats=3)
    report = reported(two, law="log", repeat="repeat")
    assert set(report.refused) == {"additive"}
    assert "need three levels" in report.refused["additive"]
    assert f"the law 'additive' is excluded: {report.refused['additive']}" in report.summary().notes
    assert set(report.laws["law"]) == {"log", "log-log", "multiplicative"}


@pytest.mark.parametrize(("law", "other"), [("additive", "multiplicative"), ("multiplicative", "additive")])
def test_laws_that_are_one_with_one_size(law: Any, other: str) -> None:
    report = reported(study("log", R=()), law=law)
    assert report.refused[other] == f"with one size it is the law {law!r}"
    assert sorted(report.laws["law"]) == sorted([law, "log", "log-log"])


@pytest.mark.parametrize("law", ["additive", "log-log"])
def test_a_law_through_every_cell(law: Any) -> None:
    report = reported(study(law, R=(), noise=0), law=law)
    assert "profile intervals" not in report.summary().tables
    assert json.dumps(report.summary().to_dict(), allow_nan=False)


def test_words_of_the_verdicts(paper: FitReport) -> None:
    assert {verdict.claim: verdict.word for verdict in paper.summary().verdicts} == {
        "MIUB falls as N grows": "supported",
        "MIUB falls as R grows": "not identified",
        "under this law, these data determine alpha": "supported",
        "under this law, these data determine beta": "not identified",
    }


def test_parts_of_its_summary(paper: FitReport) -> None:
    summary, own = paper.summary(), paper.fit.summary()
    assert list(summary.tables) == [
        *own.tables, "laws on the same cells", "cells held out", "bootstrap over groups",
    ]  # fmt: skip
    assert summary.verdicts == paper.fit.verdicts
    assert summary.notes[-2:] == [
        "bootstrap: 95 % percentiles of all 126 draws of groups",
        *few_groups_note("the bootstrap", 5),
    ]
    record = json.loads(json.dumps(summary.to_dict(), allow_nan=False))
    assert [row["law"] for row in record["tables"]["laws on the same cells"]] == list(paper.laws["law"])
    assert paper.bootstrap is not None
    intervals = {row.pop("name"): row for row in record["tables"]["bootstrap over groups"]}
    assert intervals["alpha"] == paper.bootstrap.intervals(0.95).loc["alpha"].to_dict()


def test_one_group() -> None:
    report = reported(study(groups={"a": 1.5}, R=()), n_draws=5)
    assert report.bootstrap is None
    assert "bootstrap over groups" not in report.summary().tables
    assert "rmse_group" not in report.laws


def test_a_response_below_zero_has_no_logarithms() -> None:
    frame = study("log", N=(1e8, 1e9, 1e10), R=()).assign(y=lambda rows: rows["y"] - 2.0)
    assert (frame["y"] < 0).any()
    report = reported(frame, law="log", residuals="absolute")
    assert "it must be above zero" in report.refused["log-log"]
    assert json.dumps(report.summary().to_dict(), allow_nan=False)
