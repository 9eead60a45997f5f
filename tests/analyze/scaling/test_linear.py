import doctest
import math
import re
import subprocess
import sys
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm
from scipy.stats import t as student

from lorascope.analyze.scaling import linear, random_intercept
from lorascope.analyze.scaling.linear import LinearModels, linear_models
from lorascope.study.paper_tables import CellSet, paper_study

Case = tuple[np.ndarray, np.ndarray, list[str], list[Any]]


def paper(sweep: str, model: str | None = None, cells: CellSet = "as printed") -> Case:
    study = paper_study(cells)
    whole = study["model"].map(paper_study().groupby("model")["N"].max())
    x = np.log(study["N"] / whole) if sweep == "size" else np.log(study["R"] / 32)
    kept = (study["sweep"] == sweep) & (True if model is None else study["model"] == model)
    return np.log(study["MIUB"][kept]).to_numpy(), x[kept].to_numpy()[:, None], ["x"], list(study["block"][kept])


def drawn(seed: int) -> Case:
    """Two columns, uneven groups that come mixed, heavy tails."""
    rng = np.random.default_rng(seed)
    groups = rng.permutation(np.repeat(list("abcdefg"), rng.integers(2, 7, 7)))
    level = dict(zip("abcdefg", rng.normal(size=7), strict=True))
    x = rng.normal(size=(len(groups), 2)) + np.array([level[group] for group in groups])[:, None]
    y = x @ [0.5, -2.0] + rng.standard_t(3, size=len(groups)) + np.array([level[group] for group in groups])
    return y, x, ["a", "b"], groups.tolist()


def row(found: LinearModels, model: str, covariance: str) -> pd.DataFrame:
    slopes = found.slopes
    return slopes[(slopes["model"] == model) & (slopes["covariance"] == covariance)].reset_index(drop=True)


def explicit(case: Case) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """y, columns with a dummy a group behind, group codes."""
    y, x, _, groups = case
    labels, codes = np.unique(groups, return_inverse=True)
    return y, np.column_stack([x, np.eye(len(labels))[codes]]), codes


CASES = {
    "paper's sizes": paper("size"),
    "paper's sizes, uneven": paper("size", cells="without collapsed"),
    "Phi3's sizes": paper("size", "Phi3"),
    "LLaMA3's sizes": paper("size", "LLaMA3"),
    "paper's ranks": paper("rank"),
    "Phi3's ranks": paper("rank", "Phi3"),
    "LLaMA3's ranks": paper("rank", "LLaMA3"),
    "drawn": drawn(0),
    "drawn again": drawn(1),
}
cases = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


@cases
def test_ordinary_errors_by_their_formulas(case: Case) -> None:
    y, columns, codes = explicit(case)
    (n, n_all), k, n_groups = columns.shape, case[1].shape[1], codes.max() + 1
    found = linear_models(*case, level=0.9)
    bread = np.linalg.inv(columns.T @ columns)
    beta = bread @ columns.T @ y
    e = y - columns @ beta
    leverage = np.einsum("ij,jk,ik->i", columns, bread, columns)
    scores = np.stack([(columns * e[:, None])[codes == g].sum(axis=0) for g in range(n_groups)])
    weighted = columns * (e / (1 - leverage))[:, None]
    factor = n_groups / (n_groups - 1) * (n - 1) / (n - n_all)
    expected = {
        "plain": (bread * (e @ e) / (n - n_all), n - n_all),
        "HC3": (bread @ weighted.T @ weighted @ bread, n - n_all),
        "CR1": (factor * bread @ scores.T @ scores @ bread, n_groups - 1),
    }
    for kind, (covariance, df) in expected.items():
        se = np.sqrt(np.diag(covariance))[:k]
        table = row(found, "OLS", kind)
        assert list(table["slope"]) == case[2]
        np.testing.assert_allclose(table["estimate"], beta[:k], rtol=1e-9)
        np.testing.assert_allclose(table["se"], se, rtol=1e-8)
        np.testing.assert_array_equal(table["df"], df)
        np.testing.assert_allclose(table["t"], beta[:k] / se, rtol=1e-8)
        np.testing.assert_allclose(table["p"], 2 * student.cdf(-np.abs(beta[:k] / se), df), rtol=1e-6)
        np.testing.assert_allclose(table["low"], beta[:k] - student.ppf(0.95, df) * se, rtol=1e-7)
        np.testing.assert_allclose(table["high"], beta[:k] + student.ppf(0.95, df) * se, rtol=1e-7)
    np.testing.assert_allclose(found.intercepts[np.unique(case[3])], beta[k:], rtol=1e-9)
    within = y - np.array([y[codes == g].mean() for g in range(n_groups)])[codes]
    assert found.r2_within == pytest.approx(1 - (e @ e) / (within @ within), rel=1e-9)
    assert found.sigma == pytest.approx(math.sqrt((e @ e) / (n - n_all)), rel=1e-9)
    assert (found.n, found.n_groups) == (n, n_groups)


@cases
def test_hubers_estimate_by_its_equations(case: Case) -> None:
    y, columns, _ = explicit(case)
    (n, n_all), k = columns.shape, case[1].shape[1]
    beta = np.linalg.lstsq(columns, y)[0]
    for _ in range(5000):
        r = y - columns @ beta
        scale = np.median(np.abs(r)) / norm.ppf(0.75)
        w = np.sqrt(np.minimum(1, 1.345 * scale / np.maximum(np.abs(r), 1e-300)))
        beta = np.linalg.lstsq(columns * w[:, None], y * w)[0]
    z = (y - columns @ beta) / scale
    inside = np.abs(z) <= 1.345
    m = inside.mean()
    k_factor = 1 + n_all / n * inside.var() / m**2
    squares = (np.clip(z, -1.345, 1.345) ** 2).sum() / (n - n_all) * scale**2
    covariance = k_factor**2 * squares / m**2 * np.linalg.inv(columns.T @ columns)
    table = row(linear_models(*case), "RLM", "H1")
    np.testing.assert_allclose(table["estimate"], beta[:k], rtol=1e-6)
    np.testing.assert_allclose(table["se"], np.sqrt(np.diag(covariance))[:k], rtol=1e-6)
    np.testing.assert_array_equal(table["df"], np.inf)
    np.testing.assert_allclose(table["p"], 2 * norm.cdf(-np.abs(table["estimate"] / table["se"])), rtol=1e-9)
    np.testing.assert_allclose(table["high"] - table["estimate"], norm.ppf(0.975) * table["se"], rtol=1e-7)


def test_random_intercept_is_a_row_where_it_lies_inside() -> None:
    found = linear_models(*paper("size"))
    assert found.mixed is not None
    table = row(found, "MixedLM", "REML")
    np.testing.assert_array_equal(table["estimate"], found.mixed.slopes)
    np.testing.assert_array_equal(table["se"], found.mixed.errors)
    np.testing.assert_array_equal(table["df"], np.inf)
    assert not any("MixedLM isn't" in note for note in found.notes)


def test_phi3s_sizes_fall_back_on_fixed_effects_aloud() -> None:
    found = linear_models(*paper("size", "Phi3"))
    assert found.mixed is not None
    assert found.mixed.boundary
    assert row(found, "MixedLM", "REML").empty
    said = " ".join(found.notes)
    assert (
        "the variance of a random intercept is estimated at zero, the boundary (below 1e-6 of the residual one)" in said
    )
    assert "Read the fixed effects of OLS." in said
    assert re.search(r"Of 5 optimisers of MixedLM these miss the maximum .*lbfgs \(singular matrix\)", said)
    assert "RLM is OLS here: no residual exceeds 1.345 of its scale." in said
    assert row(found, "RLM", "H1")["se"][0] == pytest.approx(row(found, "OLS", "plain")["se"][0])


def test_huge_variance_falls_back_too() -> None:
    y, x, names, groups = drawn(0)
    found = linear_models(y + 1e5 * np.array([ord(group) for group in groups]), x, names, groups)
    assert found.mixed is not None
    assert found.mixed.place == "huge"
    assert row(found, "MixedLM", "REML").empty
    assert any(
        re.search(r"above 1e6 times the residual one, .* where it comes to fixed effects: read OLS", note)
        for note in found.notes
    )


def test_one_group_has_neither_errors_by_group_nor_a_random_intercept() -> None:
    y, x, names, _ = drawn(2)
    found = linear_models(y, x, names, ["a"] * len(y))
    assert list(found.slopes["covariance"].unique()) == ["plain", "HC3", "H1"]
    assert found.mixed is None
    assert found.n_groups == 1
    assert "There is one group: no errors by group (CR1), and no random intercept (MixedLM)." in found.notes


def test_groups_of_one_row_change_nothing_and_are_named() -> None:
    y, x, names, groups = drawn(3)
    found = linear_models(np.append(y, 40.0), np.vstack([x, [9.0, 9.0]]), names, [*groups, "lone"])
    plain = linear_models(y, x, names, groups)
    pd.testing.assert_frame_equal(found.slopes, plain.slopes)
    assert "Groups of a single row say nothing of slopes and are set aside: 'lone'." in found.notes
    assert "lone" not in found.intercepts.index


def test_hc3_is_left_out_where_rows_are_fitted_by_parameters_of_their_own() -> None:
    y, x, names, groups = drawn(4)
    x[:, 1] = 0
    pair = np.flatnonzero(np.array(groups) == groups[0])
    x[pair[0], 1] = 1.0
    found = linear_models(y, x, names, groups)
    n_full = 2 if len(pair) == 2 else 1
    assert row(found, "OLS", "HC3").empty
    assert len(row(found, "OLS", "plain")) == 2
    said = (
        f"HC3 isn't given: {n_full} of {len(y)} rows have leverage 1, that is, parameters of their own fit them exactly"
    )
    assert any(note.startswith(said) and note.endswith(f"in group {groups[0]!r}.") for note in found.notes)


def test_errors_by_group_are_left_out_where_their_scores_cancel() -> None:
    y, x, names, groups = drawn(5)
    x[np.array(groups) != "c", 1] = 1.0
    found = linear_models(y, x, names, groups)
    assert row(found, "OLS", "CR1").empty
    said = "CR1 isn't given: the scores of 'b' cancel within each group, as they do where a column varies in a single"
    assert any(note.startswith(said) for note in found.notes)


def test_errors_by_group_are_left_out_where_each_group_has_a_slope_of_its_own() -> None:
    rng = np.random.default_rng(0)
    own = rng.normal(size=(2, 5))
    x = np.column_stack([own.ravel(), np.concatenate([own[0], -own[1]])])
    found = linear_models(rng.normal(size=10), x, ["mean", "difference"], ["a"] * 5 + ["b"] * 5)
    assert row(found, "OLS", "CR1").empty
    assert any(note.startswith("CR1 isn't given: the scores of 'mean', 'difference' cancel") for note in found.notes)


@pytest.mark.parametrize(("n_groups", "few"), [(19, True), (20, False)])
def test_few_groups_are_said(n_groups: int, few: bool) -> None:
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(n_groups), 3).tolist()
    notes = linear_models(rng.normal(size=len(groups)), rng.normal(size=(len(groups), 1)), ["x"], groups).notes
    assert any(note.startswith(f"CR1 rests on {n_groups} groups; with fewer than 20") for note in notes) is few


def test_hubers_estimate_is_left_out_where_most_rows_are_exact() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 1))
    y = 2 * x[:, 0] + np.repeat([1.0, 5.0], 20)
    y[[3, 25, 30]] += [4.0, -3.0, 2.0]
    found = linear_models(y, x, ["x"], ["a"] * 20 + ["b"] * 20)
    assert row(found, "RLM", "H1").empty
    assert any(note.startswith("RLM isn't given: half of the rows or more are fitted exactly") for note in found.notes)


def test_hubers_estimate_is_left_out_where_it_still_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "ROUNDS", 3)
    found = linear_models(*drawn(0))
    assert row(found, "RLM", "H1").empty
    assert "RLM isn't given: after 3 rounds of reweighting it still moves." in found.notes


def test_refusals() -> None:
    y, x, names, groups = drawn(0)
    with pytest.raises(
        ValueError, match=re.escape("`level` is 95; allowed is what lies between 0 and 1, such as 0.95")
    ):
        linear_models(y, x, names, groups, level=95)
    with pytest.raises(ValueError, match=re.escape("`names` is ['a'] for 2 columns of `x`")):
        linear_models(y, x, ["a"], groups)


def test_paper_says_what_it_says() -> None:
    """Slopes by a formula of their own: covariance over variance within blocks; from the study to two digits."""
    for (sweep, model), about in {("size", None): -0.256, ("size", "Phi3"): -0.294, ("size", "LLaMA3"): -0.209}.items():
        y, x, _, groups = paper(sweep, model)
        rows = pd.DataFrame({"y": y, "x": x[:, 0], "g": groups})
        rows[["y", "x"]] -= rows.groupby("g")[["y", "x"]].transform("mean")
        slope = (rows["x"] * rows["y"]).sum() / (rows["x"] ** 2).sum()
        assert linear_models(*paper(sweep, model)).slopes["estimate"][0] == pytest.approx(slope, rel=1e-10)
        assert slope == pytest.approx(about, abs=5e-4)


def quick(case: Case) -> LinearModels:
    """With a single optimiser of MixedLM."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(random_intercept, "OPTIMISERS", ("bfgs",))
        return linear_models(*case)


def compared(found: LinearModels) -> np.ndarray:
    """(row, number) of the models that have an intercept for each group."""
    kept = found.slopes[found.slopes["model"] != "MixedLM"]
    return kept[["estimate", "se", "low", "high"]].to_numpy()


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10_000), st.floats(-1e3, 1e3))
def test_constants_of_groups_change_only_intercepts(seed: int, shift: float) -> None:
    y, x, names, groups = drawn(seed)
    added = shift * np.array([ord(group) - 100 for group in groups])
    one, other = quick((y, x, names, groups)), quick((y + added, x, names, groups))
    np.testing.assert_allclose(compared(other), compared(one), rtol=1e-5, atol=1e-7)
    steps = shift * np.array([ord(group) - 100 for group in one.intercepts.index])
    np.testing.assert_allclose(other.intercepts - one.intercepts, steps, atol=1e-8)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10_000), st.floats(-6, 6), st.floats(-4, 4), st.booleans())
def test_scales_of_columns_and_response(seed: int, log_x: float, log_y: float, flip: bool) -> None:
    y, x, names, groups = drawn(seed)
    by, size = 10**log_x * (-1 if flip else 1), 10**log_y
    one, other = quick((y, x, names, groups)), quick((y * size, x * [by, 1], names, groups))
    a, b = (found.slopes.set_index(["model", "covariance", "slope"]) for found in (one, other))
    np.testing.assert_allclose(b["estimate"].xs("a", level=2) * by / size, a["estimate"].xs("a", level=2), rtol=1e-4)
    np.testing.assert_allclose(b["estimate"].xs("b", level=2) / size, a["estimate"].xs("b", level=2), rtol=1e-4)
    np.testing.assert_allclose(b["se"].xs("a", level=2) * abs(by) / size, a["se"].xs("a", level=2), rtol=1e-4)
    np.testing.assert_allclose(b["p"], a["p"], rtol=1e-2, atol=1e-9)
    assert other.r2_within == pytest.approx(one.r2_within, rel=1e-8, abs=1e-10)
    assert other.sigma == pytest.approx(one.sigma * size, rel=1e-8)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10_000))
def test_order_of_rows_and_columns(seed: int) -> None:
    y, x, names, groups = drawn(seed)
    order = np.random.default_rng(seed).permutation(len(y))
    one = quick((y, x, names, groups))
    other = quick((y[order], x[order][:, ::-1], names[::-1], [groups[place] for place in order]))
    a, b = (found.slopes.set_index(["model", "covariance", "slope"]) for found in (one, other))
    pd.testing.assert_frame_equal(b.loc[a.index], a, rtol=1e-4, atol=1e-8)
    pd.testing.assert_series_equal(other.intercepts[one.intercepts.index], one.intercepts)


def test_examples_run() -> None:
    assert doctest.testmod(linear) == (0, 5)


LIGHT = (
    "import sys, lorascope.analyze.scaling.{}\nprint([n for n in ('statsmodels', 'scipy.stats') if n in sys.modules])"
)


@pytest.mark.parametrize("module", ["linear", "wild_cluster"])
def test_import_stays_light(module: str) -> None:
    done = subprocess.run([sys.executable, "-c", LIGHT.format(module)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    done = subprocess.run(
        [sys.executable, "-c", "import scipy.stats\n" + LIGHT.format(module)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "['scipy.stats']"  # the test can fail
