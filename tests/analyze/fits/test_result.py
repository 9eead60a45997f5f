from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import pytest

from lorascope.analyze.fits.fit import fit_scaling_law
from lorascope.analyze.fits.result import ScalingFit
from lorascope.analyze.results.format import format_number

from .simulated import simulate_study

TRUTH = {"A": 1.0, "alpha": 0.5, "B": 0.8, "beta": 0.6, "slope_N": 0.3, "slope_R": 0.2}


def study(law: str = "additive", noise: float = 0.01) -> pd.DataFrame:
    return simulate_study(
        TRUTH, N=(1e8, 5e8, 2e9, 1e10), R=(4.0, 16.0, 64.0), groups={"a": 1.5, "b": 2.5}, law=law, noise=noise,
        random=np.random.default_rng(0),
    )  # fmt: skip


@cache
def plainly_fitted() -> ScalingFit:
    return fitted(study(), n_starts=4)


def fitted(frame: pd.DataFrame, **options: Any) -> ScalingFit:
    return fit_scaling_law(frame, "y", N="N", R="R", groups=["group"], **{"n_starts": 0, **options})


def titles(fit: ScalingFit) -> list[str]:
    return [table.title for table in fit.summary().tables]


def test_what_is_printed_of_a_fit() -> None:
    fit = plainly_fitted()
    summary = fit.summary()
    assert summary.title == "Scaling law of y"
    assert titles(fit) == [
        "parameters",
        "what each size adds to the others",
        "residuals by setting",
        "levels of groups",
    ]
    facts = summary.facts
    assert facts["law"] == "E + A (N0/N)^alpha + B (R0/R)^beta (arXiv 2501.03152, eq. 8 as its text means it)"
    assert facts["references"] == "N0 = 1e+10, R0 = 4, held"
    assert facts["cells"] == "24; groups: 2; settings: 12; parameters: 6; degrees of freedom: 18"
    assert facts["loss"].startswith("least squares of (y - f) / y; sum of squares ")
    assert facts["loss"].endswith(
        f"sigma {format_number(fit.sigma)}; AICc {fit.criteria.aicc:.2f}, BIC {fit.criteria.bic:.2f}"
    )
    share = fit.estimate.search.share_of_starts
    assert facts["search"] == f"converged; {100 * share:.0f} % of 4 random starts ended at the best optimum"
    assert facts["data"] == f"sha256 {fit.provenance['data_sha256'][:12]}"
    assert tuple(summary.verdicts) == fit.verdicts
    assert fit.identifiability is not None
    assert list(summary.notes) == [*fit.notes, *fit.identifiability.sentences]


def test_rows_of_parameters() -> None:
    fit = plainly_fitted()
    terms, levels = (table.rows for table in (fit.summary().tables[0], fit.summary().tables[-1]))
    assert list(terms["name"]) == ["A", "B", "alpha", "beta"]
    assert list(terms.columns) == ["name", "estimate", "se", "interval"]
    assert list(levels["name"]) == ["E[a]", "E[b]"]
    np.testing.assert_array_equal([*levels["estimate"], *terms["estimate"]], fit.params)
    low, high = fit.conf_int("F").loc["beta", ["low", "high"]]  # type: ignore[arg-type]
    expected = f"{format_number(low, digits=4)} to {format_number(high, digits=4)}"
    assert terms.set_index("name").loc["beta", "interval"] == expected


@pytest.mark.parametrize("options", [{"huber": 0.01}, {"residuals": "log"}], ids=str)
def test_rows_without_intervals(options: dict[str, Any]) -> None:
    table = fitted(study(), **options).summary().tables[0]
    assert list(table.rows.columns) == ["name", "estimate", "se"]
    assert table.rows["se"].isna().all() == ("huber" in options)
    assert table.note == "A fit of this kind has no profile intervals."


@pytest.mark.parametrize("law", ["log", "log-log"])
def test_straight_laws_show_their_slopes_by_model(law: str) -> None:
    fit = fitted(study(law), law=law)
    assert titles(fit)[3] == "slopes by other models"
    assert ("of y itself, each cell alike" in fit.summary().tables[3].note) == (law == "log")


def test_the_short_form_fits_a_screen() -> None:
    lines = plainly_fitted().summary().text(width=80).splitlines()
    assert len(lines) < 24
    assert lines[1].startswith("supported  ")
