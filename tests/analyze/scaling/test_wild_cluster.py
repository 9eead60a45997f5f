import doctest
import itertools
import math
import re
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorascope.analyze.scaling import wild_cluster
from lorascope.analyze.scaling.linear import linear_models
from lorascope.analyze.scaling.wild_cluster import wild_cluster_test
from lorascope.study.paper_tables import paper_study

Case = tuple[np.ndarray, np.ndarray, list[str], list[Any]]


def paper(sweep: str, model: str | None = None) -> Case:
    study = paper_study()
    x = np.log(study["N"] / study.groupby("model")["N"].transform("max"))
    x = x if sweep == "size" else np.log(study["R"] / 32)
    kept = (study["sweep"] == sweep) & (True if model is None else study["model"] == model)
    return np.log(study["MIUB"][kept]).to_numpy(), x[kept].to_numpy()[:, None], ["x"], list(study["block"][kept])


def drawn(seed: int, n_groups: int = 7, k: int = 2) -> Case:
    rng = np.random.default_rng(seed)
    codes = rng.permutation(np.repeat(np.arange(n_groups), rng.integers(2, 6, n_groups)))
    x = rng.normal(size=(len(codes), k)) + rng.normal(size=n_groups)[codes, None]
    y = x @ [0.5, -0.4][:k] + rng.normal(size=len(codes)) * (1 + codes) / 3 + rng.normal(size=n_groups)[codes]
    return y, x, ["a", "b"][:k], [f"group {code}" for code in codes]


def t_of(y: np.ndarray, columns: np.ndarray, codes: np.ndarray, j: int, b: float) -> float:
    """(slope j - b) over its error CR1, by the definition; y may be of a bootstrap."""
    bread = np.linalg.inv(columns.T @ columns)
    beta = bread @ columns.T @ y
    e = y - columns @ beta
    scores = np.stack([(columns * e[:, None])[codes == g].sum(axis=0) for g in range(codes.max() + 1)])
    return float((beta[j] - b) / math.sqrt((bread @ scores.T @ scores @ bread)[j, j]))


def slow_p(case: Case, j: int, b: float) -> float:
    """Every sign vector, every fit anew."""
    y, x, _, groups = case
    labels, codes = np.unique(groups, return_inverse=True)
    columns = np.column_stack([x, np.eye(len(labels))[codes]])
    rest = np.delete(columns, j, axis=1)
    fitted = rest @ np.linalg.lstsq(rest, y - b * columns[:, j])[0] + b * columns[:, j]
    seen = abs(t_of(y, columns, codes, j, b))
    flipped = [
        abs(t_of(fitted + np.array(signs)[codes] * (y - fitted), columns, codes, j, b))
        for signs in itertools.product([1.0, -1.0], repeat=len(labels))
    ]
    return float(np.mean(np.array(flipped) >= seen * (1 - 1e-7)))


@pytest.mark.parametrize("seed", range(4))
def test_every_p_against_fits_done_anew(seed: int) -> None:
    case = drawn(seed)
    found = wild_cluster_test(*case)
    assert list(found["slope"]) == ["a", "b"]
    for j in (0, 1):
        assert found["p"][j] == slow_p(case, j, 0.0)
        assert found["t"][j] == pytest.approx(found["estimate"][j] / found["se"][j])
    np.testing.assert_array_equal(found["n_signs"], 2**7)
    np.testing.assert_array_equal(found["p_floor"], 2.0**-6)
    assert found["exact"].all()


@pytest.mark.parametrize(("case", "j"), [(drawn(0), 0), (drawn(1), 1), (paper("rank"), 0), (drawn(2, 8, 1), 0)])
def test_ends_of_the_interval_against_fits_done_anew(case: Case, j: int) -> None:
    level = 0.9
    found = wild_cluster_test(*case, level=level).iloc[j]
    for end, side in ((found["low"], -1), (found["high"], 1)):
        step = 1e-4 * found["se"] * side
        assert slow_p(case, j, end + step) <= 1 - level + 1e-12 < slow_p(case, j, end - step)
        for far in (0.1, 0.5, 3.0, 100.0):
            assert slow_p(case, j, end + side * far * found["se"]) <= 1 - level + 1e-12


def test_errors_are_those_of_the_linear_models() -> None:
    case = drawn(5)
    slopes = linear_models(*case).slopes
    by_group = slopes[slopes["covariance"] == "CR1"].reset_index(drop=True)
    columns = ["slope", "estimate", "se", "t"]
    pd.testing.assert_frame_equal(wild_cluster_test(*case)[columns], by_group[columns])


def test_five_blocks_cannot_reject_at_five_percent() -> None:
    for sweep, model in itertools.product(("size", "rank"), ("Phi3", "LLaMA3")):
        found = wild_cluster_test(*paper(sweep, model)).iloc[0]
        assert found["p"] == found["p_floor"] == 0.0625
        assert (found["low"], found["high"]) == (-math.inf, math.inf)
        wide = wild_cluster_test(*paper(sweep, model), level=0.9).iloc[0]
        assert -math.inf < wide["low"] < wide["estimate"] < wide["high"] < 0


def test_ten_blocks_reject_as_hard_as_they_can() -> None:
    for sweep in ("size", "rank"):
        found = wild_cluster_test(*paper(sweep)).iloc[0]
        assert (found["n_groups"], found["n_signs"]) == (10, 1024)
        assert found["p"] == found["p_floor"] == 2 / 1024
        assert found["low"] < found["estimate"] < found["high"] < 0


def test_a_level_that_equals_the_floor_has_ends() -> None:
    assert math.isfinite(wild_cluster_test(*paper("size", "Phi3"), level=1 - 0.0625).loc[0, "high"])


def test_a_level_near_zero_leaves_the_estimate() -> None:
    found = wild_cluster_test(*drawn(3), level=1e-9).iloc[0]
    assert found["low"] <= found["estimate"] <= found["high"]
    assert found["high"] - found["low"] < 0.01 * found["se"]


def test_draws_come_near_to_all_sign_vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    case = drawn(4, n_groups=13)
    one, same = (wild_cluster_test(*case, seed=3) for _ in range(2))
    pd.testing.assert_frame_equal(one, same)
    assert not one["exact"].any()
    np.testing.assert_array_equal(one["n_signs"], 9999)
    np.testing.assert_array_equal(one["p_floor"], 2.0**-12)
    monkeypatch.setattr(wild_cluster, "MOST_EXACT", 13)
    exact = wild_cluster_test(*case)
    assert exact["exact"].all()
    for name in ("a", "b"):
        p, q = (table.set_index("slope").loc[name, "p"] for table in (exact, one))
        assert q == pytest.approx(p, abs=5 * math.sqrt(p * (1 - p) / 9999))
    np.testing.assert_allclose(one[["low", "high"]], exact[["low", "high"]], atol=0.1 * exact["se"].max())


def test_few_draws_set_the_floor() -> None:
    found = wild_cluster_test(*drawn(4, n_groups=14), n_draws=99)
    np.testing.assert_array_equal(found["p_floor"], 0.01)
    assert (found["p"] >= 0.01).all()
    assert set(np.unique((found["p"] * 100) % 1).round(9)) <= {0.0, 1.0}


def test_only_groups_whose_signs_matter_count() -> None:
    y, x, names, groups = drawn(6, k=1)
    more_y, more_x = np.append(y, [3.0, 4.0, 9.0]), np.vstack([x, [[5.0], [5.0], [1.0]]])
    found = wild_cluster_test(more_y, more_x, names, [*groups, "flat", "flat", "lone"]).iloc[0]
    plain = wild_cluster_test(y, x, names, groups).iloc[0]
    assert found["n_groups"] == plain["n_groups"] == 7
    assert found["p"] == plain["p"] == slow_p((more_y[:-1], more_x[:-1], names, [*groups, "flat", "flat"]), 0, 0.0)
    assert found["p_floor"] == 2.0**-6


def test_some_columns() -> None:
    case = drawn(7)
    pd.testing.assert_frame_equal(
        wild_cluster_test(*case, which=["b"]), wild_cluster_test(*case).iloc[[1]].reset_index(drop=True)
    )


ONE = drawn(0)[1].copy()
ONE[np.array(drawn(0)[3]) != "group 2", 1] = 0.0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"level": 0}, "`level` is 0; allowed is what lies between 0 and 1"),
        ({"n_draws": 0}, "`n_draws` is 0; allowed is 1 and above, such as 9999"),
        ({"which": ["c"]}, "`which` is ['c']; it is a list of some of ['a', 'b']"),
        ({"which": "a"}, "`which` is 'a'; it is a list of some of ['a', 'b']"),
        ({"which": []}, "`which` is []; it is a list of some of"),
        (
            {"groups": ["all"] * len(drawn(0)[0])},
            "the scores of column 'a' cancel within each group, of which there are 1; they",
        ),
        (
            {"x": ONE, "which": ["b"]},
            "the scores of column 'b' cancel within each group, of which there are 7; they",
        ),
        ({"y": drawn(0)[0][:-1]}, "`y` has shape"),
    ],
)
def test_refusals(change: dict[str, Any], words: str) -> None:
    given = dict(zip(("y", "x", "names", "groups"), drawn(0), strict=True)) | change
    with pytest.raises(ValueError, match=re.escape(words)):
        wild_cluster_test(**given)


def test_a_slope_for_each_group_is_refused() -> None:
    rng = np.random.default_rng(0)
    own = rng.normal(size=(2, 5))
    x = np.column_stack([own.ravel(), np.concatenate([own[0], -own[1]])])
    with pytest.raises(ValueError, match="A test by group needs two: take the t test"):
        wild_cluster_test(rng.normal(size=10), x, ["mean", "difference"], ["a"] * 5 + ["b"] * 5)


NUMBERS = ["estimate", "se", "low", "high"]


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000), st.floats(-1e3, 1e3))
def test_constants_of_groups_change_nothing(seed: int, shift: float) -> None:
    y, x, names, groups = drawn(seed)
    added = shift * np.array([int(group[-1]) for group in groups])
    one, other = wild_cluster_test(y, x, names, groups), wild_cluster_test(y + added, x, names, groups)
    np.testing.assert_allclose(other[NUMBERS], one[NUMBERS], rtol=1e-6, atol=1e-8)
    np.testing.assert_array_equal(other["p"], one["p"])


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000), st.floats(-3, 3), st.floats(-3, 3), st.floats(-10, 10))
def test_scales_and_a_slope_that_is_added(seed: int, log_x: float, log_y: float, slope: float) -> None:
    y, x, names, groups = drawn(seed)
    by, size = -(10**log_x), 10**log_y
    one, other = wild_cluster_test(y, x, names, groups), wild_cluster_test(y * size, x * by, names, groups)
    np.testing.assert_allclose(
        other[["estimate", "high", "low"]] * by / size, one[["estimate", "low", "high"]], rtol=1e-5
    )
    np.testing.assert_array_equal(other["p"], one["p"])
    moved = wild_cluster_test(y + slope * x[:, 0], x, names, groups)
    np.testing.assert_allclose(
        moved.loc[0, NUMBERS], one.loc[0, NUMBERS] + [slope, 0, slope, slope], rtol=1e-6, atol=1e-6
    )


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000))
def test_order_of_rows_and_columns(seed: int) -> None:
    y, x, names, groups = drawn(seed)
    order = np.random.default_rng(seed).permutation(len(y))
    other = wild_cluster_test(y[order], x[order][:, ::-1], names[::-1], [groups[place] for place in order])
    pd.testing.assert_frame_equal(other[::-1].reset_index(drop=True), wild_cluster_test(y, x, names, groups), rtol=1e-6)


def test_examples_run() -> None:
    assert doctest.testmod(wild_cluster) == (0, 5)
