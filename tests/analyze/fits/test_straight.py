from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import minimize_scalar
from scipy.stats import norm
from scipy.stats import t as student

from lorascope.analyze.fits.straight import LinearModels, linear_models
from lorascope.study.paper_tables import paper_study

Case = tuple[np.ndarray, np.ndarray, list[str], np.ndarray]


def paper(sweep: str, model: str | None = None) -> Case:
    study = paper_study()
    whole = study["model"].map(paper_study().groupby("model")["N"].max())
    x = np.log(study["N"] / whole) if sweep == "size" else np.log(study["R"] / 32)
    kept = (study["sweep"] == sweep) & (True if model is None else study["model"] == model)
    return np.log(study["MIUB"][kept]).to_numpy(), x[kept].to_numpy()[:, None], ["x"], study["block"][kept].to_numpy()


def drawn(seed: int) -> Case:
    """Two columns, uneven groups that come mixed, heavy tails."""
    rng = np.random.default_rng(seed)
    groups = rng.permutation(np.repeat(list("abcdefg"), rng.integers(2, 7, 7)))
    level = dict(zip("abcdefg", rng.normal(size=7), strict=True))
    x = rng.normal(size=(len(groups), 2)) + np.array([level[group] for group in groups])[:, None]
    y = x @ [0.5, -2.0] + rng.standard_t(3, size=len(groups)) + np.array([level[group] for group in groups])
    return y, x, ["a", "b"], groups


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
    "LLaMA3's sizes": paper("size", "LLaMA3"),
    "paper's ranks": paper("rank"),
    "drawn": drawn(0),
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
        np.testing.assert_allclose(table["p"], 2 * student.cdf(-np.abs(beta[:k] / se), df), rtol=1e-6)
        np.testing.assert_allclose(table["low"], beta[:k] - student.ppf(0.95, df) * se, rtol=1e-7)


@cases
def test_hubers_estimate_by_its_equations(case: Case) -> None:
    y, columns, _ = explicit(case)
    k = case[1].shape[1]
    beta = np.linalg.lstsq(columns, y)[0]
    for _ in range(500):
        r = y - columns @ beta
        scale = np.median(np.abs(r)) / norm.ppf(0.75)
        w = np.sqrt(np.minimum(1, 1.345 * scale / np.maximum(np.abs(r), 1e-300)))
        beta = np.linalg.lstsq(columns * w[:, None], y * w)[0]
    table = row(linear_models(*case), "RLM", "H1")
    np.testing.assert_allclose(table["estimate"], beta[:k], rtol=1e-6)
    np.testing.assert_allclose(table["p"], 2 * norm.cdf(-np.abs(table["estimate"] / table["se"])), rtol=1e-9)


@pytest.mark.parametrize("case", [one for name, one in CASES.items() if "paper" in name or "LLaMA3" in name])
def test_mixed_models_reach_the_maximum_of_the_restricted_likelihood(case: Case) -> None:
    """Generalised least squares at the best ratio of variances, searched here from end to end."""
    y, x, _, groups = case
    columns, same = np.column_stack([np.ones(len(y)), x]), (groups[:, None] == groups).astype(float)

    def fitted(log_ratio: float) -> tuple[float, np.ndarray]:
        v = np.eye(len(y)) + np.exp(log_ratio) * same
        inverse = np.linalg.inv(v)
        crossed = columns.T @ inverse @ columns
        beta = np.linalg.solve(crossed, columns.T @ inverse @ y)
        rest, n = y - columns @ beta, len(y) - columns.shape[1]
        return n * np.log(rest @ inverse @ rest) + np.linalg.slogdet(v)[1] + np.linalg.slogdet(crossed)[1], beta

    grid = np.linspace(-12, 12, 49)
    middle = grid[np.argmin([fitted(at)[0] for at in grid])]
    best = minimize_scalar(lambda at: fitted(at)[0], bounds=(middle - 1, middle + 1), method="bounded")
    table = row(linear_models(*case), "MixedLM", "REML")
    np.testing.assert_allclose(table["estimate"], fitted(best.x)[1][1:], rtol=1e-5)
    assert (table["se"] < 2 * row(linear_models(*case), "OLS", "plain")["se"]).all()


def test_a_variance_at_an_end_is_said() -> None:
    found = linear_models(*paper("size", "Phi3"))
    assert row(found, "MixedLM", "REML").empty
    assert found.notes[-1].startswith("MixedLM isn't among the slopes: the variance of a random intercept is zero")
    y, x, names, groups = drawn(0)
    far = linear_models(y + 1e5 * np.array([ord(group) for group in groups]), x, names, groups)
    assert row(far, "MixedLM", "REML").empty
    assert "so large that it is fixed" in far.notes[-1]


def test_one_group_has_neither_errors_by_group_nor_a_random_intercept() -> None:
    y, x, names, _ = drawn(2)
    found = linear_models(y, x, names, np.array(["a"] * len(y)))
    assert list(found.slopes["covariance"].unique()) == ["plain", "HC3", "H1"]
    assert found.notes == ()


def test_groups_of_one_row_change_nothing() -> None:
    y, x, names, groups = drawn(3)
    found = linear_models(np.append(y, 40.0), np.vstack([x, [9.0, 9.0]]), names, np.append(groups, "lone"))
    pd.testing.assert_frame_equal(found.slopes, linear_models(y, x, names, groups).slopes)


def changed(case: Case, **changes: Any) -> Case:
    y, x, names, groups = case
    return changes.get("y", y), changes.get("x", x), names, groups


def test_errors_that_cannot_be_had_are_left_out() -> None:
    _, x, _, groups = drawn(4)
    alone = x.copy()
    alone[:, 1] = 0
    alone[0, 1] = 1.0  # a row with a parameter of its own
    found = linear_models(*changed(drawn(4), x=alone))
    assert row(found, "OLS", "HC3").empty
    assert row(found, "OLS", "CR1").empty
    assert len(row(found, "OLS", "plain")) == 2
    exact = x @ [1.0, 2.0] + (groups == "a")
    exact[:3] += [4.0, -3.0, 2.0]  # most rows are fitted exactly, so that residuals have no scale
    assert row(linear_models(*changed(drawn(4), y=exact)), "RLM", "H1").empty
