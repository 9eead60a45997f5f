import math
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import pytest

from lorascope.analyze.format import format_number
from lorascope.analyze.scaling.fit import fit_scaling_law
from lorascope.analyze.scaling.result import ScalingFit
from lorascope.analyze.scaling.simulate import simulate_study
from lorascope.analyze.scaling.summarise import end_text, interval_text, parameter_rows, summarise

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
    return [table.title for table in summarise(fit).tables]


def test_what_is_printed_of_a_fit() -> None:
    fit = plainly_fitted()
    summary = summarise(fit)
    assert summary.title == "Scaling law of y"
    assert titles(fit) == ["parameters", "what each size adds to the others", "residuals by setting"]
    facts = summary.facts
    assert facts["law"] == ("E + A (N0/N)^alpha + B (R0/R)^beta (arXiv 2501.03152, eq. 8 as its text means it)")
    assert facts["references"] == "N0 = 1e+10, R0 = 4, held"
    assert facts["cells"] == "24 in 2 groups and 12 settings; 6 parameters, 18 degrees of freedom"
    assert facts["loss"].startswith("least squares of (y - f) / y; sum of squares ")
    assert facts["loss"].endswith(f"sigma {format_number(fit.sigma)}")
    assert facts["AICc, BIC"] == f"{fit.criteria.aicc:.2f}, {fit.criteria.bic:.2f}"
    share = fit.estimate.search.share_of_starts
    assert facts["search"] == f"converged; {100 * share:.0f} % of 4 random starts ended at the best optimum"
    assert facts["data"] == f"sha256 {fit.provenance['data_sha256'][:12]}"
    row = fit.lack_of_fit.iloc[0]
    assert facts["lack of fit"] == f"F(7, 11) = {format_number(row['F'])}, p = {format_number(row['p'])}"
    assert tuple(summary.verdicts) == fit.verdicts
    assert list(summary.notes) == [*fit.notes, *fit.identifiability.sentences]
    assert summary.tables[0].note.startswith(
        "95 % intervals; (open): the data don't bound it inside of what was looked at"
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"residuals": "log"}, "least squares of ln y - ln f;"),
        ({"residuals": "absolute"}, "least squares of y - f;"),
        ({"huber": 0.01}, "Huber, delta 0.0100, summed of (y - f) / y;"),
        ({"law": "log-log"}, "least squares of ln y - ln f;"),
    ],
)
def test_loss_in_words(options: dict[str, Any], words: str) -> None:
    assert summarise(fitted(study(), **options)).facts["loss"].startswith(words)


def test_search_in_words() -> None:
    facts = summarise(fitted(study(), bounds={"alpha": (0.02, 0.2)})).facts
    assert facts["search"] == "converged; at a bound: alpha; not checked by random starts"


def test_rows_of_parameters() -> None:
    fit = plainly_fitted()
    rows = parameter_rows(fit).set_index("name")
    assert list(rows.index) == list(fit.params.index)
    assert list(rows.columns) == ["estimate", "se", "F", "chi2"]
    np.testing.assert_array_equal(rows["estimate"], fit.params)
    np.testing.assert_array_equal(rows["se"], fit.bse)
    assert rows.loc["E[a]", "F"] == rows.loc["E[b]", "chi2"] == ""
    for rule in ("F", "chi2"):
        low, high = fit.conf_int(rule).loc["beta", ["low", "high"]]  # type: ignore[arg-type]
        assert rows.loc["beta", rule] == f"{format_number(low, digits=4)} to {format_number(high, digits=4)}"


@pytest.mark.parametrize("options", [{"huber": 0.01}, {"residuals": "log"}], ids=str)
def test_rows_without_intervals(options: dict[str, Any]) -> None:
    fit = fitted(study(), **options)
    rows = parameter_rows(fit)
    assert list(rows.columns) == ["name", "estimate", "se"]
    assert rows["se"].isna().all() == ("huber" in options)
    assert summarise(fit).tables[0].note == "no profile intervals of this fit; see conf_int('cluster')."


@pytest.mark.parametrize("law", ["log", "log-log"])
def test_straight_laws_show_their_slopes_by_model(law: str) -> None:
    fit = fitted(study(law), law=law)
    assert titles(fit)[1] == "slopes by model and kind of error"
    pd.testing.assert_frame_equal(summarise(fit).tables[1].rows, fit.linear_models().slopes)
    weighted = law == "log"  # the fit of logarithms has no weights
    assert summarise(fit).tables[1].note == (
        "of y itself, each cell alike: the fit above has other residuals." * weighted
    )


@pytest.mark.parametrize("law", ["additive", "log", "log-log", "multiplicative"])
def test_a_law_through_every_cell_can_be_printed(law: str) -> None:
    fit = fitted(study(law, noise=0), law=law)
    text = summarise(fit).text(full=True)
    assert "no profile intervals of this fit" in text
    assert "slopes by model" not in text


def test_texts_of_intervals() -> None:
    assert interval_text((0.2, 0.51234, False, False, False)) == "0.2000 to 0.5123"
    assert interval_text((0.2, 0.5, True, False, False)) == "(open) to 0.5000"
    assert interval_text((0.2, 0.5, False, True, True)) == "0.2000 to (open), in parts"
    assert interval_text((-4e6, 4e6, True, True, False)) == "(open) to (open)"
    assert end_text(math.inf, False) == "∞"


def test_forms_of_print() -> None:
    summary = summarise(plainly_fitted())
    text, markdown, page = summary.text(full=True, width=300), summary.as_markdown(), summary._repr_html_()
    for form in (text, markdown, page):
        for words in ("Scaling law of y", "alpha", "what each size adds to the others", "residuals by setting"):
            assert words in form
        for verdict in summary.verdicts:
            assert verdict.claim.split(" grows")[0] in form
    assert "| name | estimate | se | F | chi2 |" in markdown
    assert "### Verdicts" in markdown
    assert "<h3>Scaling law of y</h3>" in page
    assert "<td>alpha</td>" in page
