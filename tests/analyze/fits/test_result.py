import json
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import pytest

from lorascope.analyze.fits.fit import fit_scaling_law
from lorascope.analyze.fits.result import ScalingFit
from lorascope.analyze.results.format import format_number

from .simulated import simulate_study

TRUTH = {"A": 1.0, "alpha": 0.5, "B": 0.8, "beta": 0.6}


def fitted(**options: Any) -> ScalingFit:
    study = simulate_study(
        TRUTH, N=(1e8, 5e8, 2e9, 1e10), R=(4.0, 16.0, 64.0), groups={"a": 1.5, "b": 2.5}, noise=0.01,
        random=np.random.default_rng(0),
    )  # fmt: skip
    return fit_scaling_law(study, "y", N="N", R="R", groups=["group"], **options)


@cache
def plain() -> ScalingFit:
    return fitted()


def test_parts_of_a_summary() -> None:
    fit = plain()
    summary = fit.summary()
    assert summary.title == "Scaling law of y"
    assert list(summary.tables) == [
        "parameters", "each size against the law without it", "profile intervals", "levels of groups",
    ]  # fmt: skip
    assert summary.notes[:3] == [
        "E + A (N0/N)^alpha + B (R0/R)^beta (arXiv 2501.03152, eq. 8 as its text means it); N0 = 1e+10, R0 = 4",
        f"least squares of (y - f) / y: sum of squares {fit.ssr:.6g}, sigma {fit.sigma:.3g}; 24 "
        "cells, 2 groups, 12 settings, 18 degrees of freedom",
        "intervals: 95 % profiles by F; an end is (open) where the data don't limit it",
    ]
    assert (tuple(summary.verdicts), summary.provenance) == (fit.verdicts, fit.provenance)


def test_rows_of_parameters() -> None:
    fit = plain()
    terms, _, intervals, levels = fit.summary().tables.values()
    assert list(terms["name"]) == list(intervals["name"]) == ["A", "B", "alpha", "beta"]
    assert list(levels["name"]) == ["E[a]", "E[b]"]
    np.testing.assert_array_equal([*levels["estimate"], *terms["estimate"]], fit.params)
    low, high = fit.conf_int().loc["beta", ["low", "high"]]
    expected = f"{format_number(low)} to {format_number(high)}"
    assert terms.set_index("name").loc["beta", "interval"] == expected
    pd.testing.assert_frame_equal(intervals.set_index("name"), fit.conf_int(), check_names=False)


@pytest.mark.parametrize("options", [{"residuals": "absolute"}, {"law": "log"}], ids=str)
def test_json_has_every_number_at_full_precision(options: dict[str, Any]) -> None:
    fit = fitted(**options)
    record = json.loads(json.dumps(fit.summary().to_dict(), allow_nan=False))
    rows = [*record["tables"]["levels of groups"], *record["tables"]["parameters"]]
    assert {row["name"]: row["estimate"] for row in rows} == fit.params.to_dict()
    intervals = {row.pop("name"): row for row in record["tables"]["profile intervals"]}
    assert intervals == fit.conf_int().to_dict(orient="index")
    assert [row["axis"] for row in record["tables"]["each size against the law without it"]] == ["N", "R"]
    assert record["provenance"] == fit.provenance
