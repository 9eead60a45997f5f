import itertools
from collections.abc import Sequence

import numpy as np
import pytest
import scipy.optimize
from hypothesis import assume, given
from hypothesis import strategies as st

from lorascope.analyze.audit.grid import Grid
from lorascope.analyze.audit.weights import (
    Rows,
    fits,
    implied_value,
    least_left_out,
    n_distinct,
    tells,
    weight_ranges,
    worst_misfit,
)

CE_AND_MIUB = (1, 2)
SHARE4, SHARE2 = 4, 5
"""Settings of the paper, as table 1 has them."""


def paper_rows(paper: Grid, model: str, metrics: Sequence[int] = CE_AND_MIUB) -> Rows:
    """Averages of some metrics of one model, setting by setting."""
    g = paper.groups.index(model)
    values, averages = paper.values[g, list(metrics)].reshape(-1, 5), paper.averages[g, list(metrics)].ravel()
    return Rows(values, averages, np.repeat([{0: 1e-3, 1: 1e-3, 2: 0.1}[m] for m in metrics], 7))


def repaired_rows(paper: Grid) -> Rows:
    """LLaMA3's CE and MIUB with what CE prints under share4 put under share2, and share4's average of CE left out."""
    rows = paper_rows(paper, "LLaMA3")
    rows.values[SHARE2, 0] = rows.values[SHARE4, 0]
    return rows.only(np.delete(np.arange(14), SHARE4))


def vertices(gaps: np.ndarray, units: float = 1.0) -> np.ndarray:
    """Every vertex of {w >= 0, sum(w) = 1, |gaps @ w| <= units}, by solving every system of tight constraints."""
    n = gaps.shape[1]
    sides = np.vstack([gaps, -gaps, -np.eye(n)])
    limits = np.concatenate([np.full(2 * len(gaps), units), np.zeros(n)])
    chosen = np.array(list(itertools.combinations(range(len(sides)), n - 1)))
    systems = np.concatenate([sides[chosen], np.ones((len(chosen), 1, n))], axis=1)
    wanted = np.concatenate([limits[chosen], np.ones((len(chosen), 1))], axis=1)
    solvable = np.abs(np.linalg.det(systems)) > 1e-9
    found = np.linalg.solve(systems[solvable], wanted[solvable][..., None])[..., 0]
    return found[(found @ sides.T <= limits + 1e-7).all(axis=-1)]


@st.composite
def averages(draw: st.DrawFn) -> tuple[Rows, np.ndarray]:
    """Rows with planted weights, everything rounded to two decimals."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n_rows, n_members = draw(st.integers(3, 8)), draw(st.integers(2, 4))
    weights = rng.dirichlet(np.full(n_members, 2.0))
    values = rng.uniform(0, 100, (n_rows, n_members))
    return Rows(np.round(values, 2), np.round(values @ weights, 2), np.full(n_rows, 0.01)), weights


@pytest.mark.parametrize(
    ("model", "ranges"),
    [
        (
            "Phi3",
            [(0.101, 0.111), (0.049, 0.058), (0.295, 0.296), (0.302, 0.304), (0.2416, 0.2421)],
        ),
        (
            "LLaMA3",
            [(0.091, 0.096), (0.046, 0.051), (0.374, 0.375), (0.2735, 0.2739), (0.2091, 0.2104)],
        ),
    ],
)
def test_weights_of_the_paper(paper: Grid, model: str, ranges: list[tuple[float, float]]) -> None:
    gaps = (paper_rows(paper, "Phi3") if model == "Phi3" else repaired_rows(paper)).gaps()
    found = weight_ranges(gaps)
    np.testing.assert_allclose(found[:3], ranges[:3], atol=5.1e-4)
    np.testing.assert_allclose(found[3], ranges[3], atol=5.1e-4 if model == "Phi3" else 5.1e-5)
    np.testing.assert_allclose(found[4], ranges[4], atol=5.1e-5)
    corners = vertices(gaps)
    np.testing.assert_allclose(found, np.stack([corners.min(axis=0), corners.max(axis=0)], axis=1), atol=1e-6)


def test_the_least_miss_of_the_paper_is_the_least(paper: Grid) -> None:
    for rows, units in ((paper_rows(paper, "Phi3"), 0.597), (paper_rows(paper, "LLaMA3"), 36.80)):
        found = worst_misfit(rows.gaps())
        assert found.units == pytest.approx(units, abs=5.1e-3)
        assert found.units == pytest.approx(np.abs(rows.gaps() @ found.weights).max(), rel=1e-12)
        assert len(vertices(rows.gaps(), found.units * (1 - 1e-4))) == 0
        assert len(vertices(rows.gaps(), found.units * (1 + 1e-4))) > 0


def test_members_rounding_must_enter(paper: Grid) -> None:
    rows = paper_rows(paper, "Phi3")
    assert worst_misfit(rows._replace(allowed=rows.allowed / 2).gaps()).units == pytest.approx(1.195, abs=5.1e-4)


def test_numbers_behind_the_paper_can_have_such_weights(paper: Grid) -> None:
    """Whatever members are behind the printed ones, the averages that weights within the ranges make round as printed
    for some of them: the ranges aren't wider than what rounding allows."""
    rows = paper_rows(paper, "Phi3")
    corners = vertices(rows.gaps())
    for weights in corners[np.random.default_rng(0).permutation(len(corners))[:50]]:
        miss = rows.averages - rows.values @ weights
        shift = np.clip(miss, -rows.allowed / 2, rows.allowed / 2)  # all members move by this, within their rounding
        assert (np.abs(rows.averages - (rows.values + shift[:, None]) @ weights) <= rows.allowed / 2 * (1 + 1e-5)).all()


@given(averages())
def test_planted_weights_lie_within_their_ranges(planted: tuple[Rows, np.ndarray]) -> None:
    rows, weights = planted
    gaps = rows.gaps()
    assert worst_misfit(gaps).units <= np.abs(gaps @ weights).max() + 1e-9 <= 1 + 1e-9
    ranges = weight_ranges(gaps)
    assert (ranges[:, 0] - 1e-9 <= weights).all()
    assert (weights <= ranges[:, 1] + 1e-9).all()


@given(averages())
def test_order_and_scale_of_rows_do_not_matter(planted: tuple[Rows, np.ndarray]) -> None:
    rows, _ = planted
    rows = rows._replace(averages=rows.averages + np.linspace(0, 1, len(rows.averages)))  # which seldom fits
    turned = Rows(rows.values[::-1] * 1000, rows.averages[::-1] * 1000, rows.allowed * 1000)
    assert worst_misfit(turned.gaps()).units == pytest.approx(worst_misfit(rows.gaps()).units, rel=1e-6, abs=1e-6)


@given(averages())
def test_binding_rows_alone_force_the_miss(planted: tuple[Rows, np.ndarray]) -> None:
    rows, _ = planted
    gaps = rows._replace(averages=rows.averages + np.arange(len(rows.averages)) ** 2).gaps()
    found = worst_misfit(gaps)
    assume(found.units > 1)
    assert worst_misfit(gaps[found.binding]).units == pytest.approx(found.units, rel=1e-6)


def test_known_weights_are_judged_row_by_row(paper: Grid) -> None:
    equal = np.full(5, 0.2)
    found = worst_misfit(paper_rows(paper, "LLaMA3", [0]).gaps(), equal)
    assert found.units == pytest.approx(136.8)
    assert found.binding.tolist() == [SHARE4, SHARE2]
    assert fits(paper_rows(paper, "Phi3", [0]).gaps(), equal)


def test_which_averages_the_paper_could_do_without(paper: Grid) -> None:
    assert least_left_out(paper_rows(paper, "LLaMA3").gaps()) == [(SHARE4, SHARE2)]
    assert least_left_out(paper_rows(paper, "Phi3").gaps()) == []
    assert least_left_out(paper_rows(paper, "LLaMA3", [0]).gaps(), np.full(5, 0.2)) == [(SHARE4, SHARE2)]


@given(averages(), st.data())
def test_sets_left_out_are_all_the_smallest(planted: tuple[Rows, np.ndarray], data: st.DataObject) -> None:
    rows, _ = planted
    n_rows = len(rows.averages)
    wrong = data.draw(st.lists(st.integers(0, n_rows - 1), max_size=2, unique=True))
    rows.averages[wrong] += [30.0, -20.0][: len(wrong)]
    gaps = rows.gaps()
    for size in (0, 1, 2):
        tried = [left for left in itertools.combinations(range(n_rows), size) if tells(np.delete(gaps, left, axis=0))]
        fitting = [left for left in tried if fits(np.delete(gaps, left, axis=0))]
        if fitting:
            break
    assert least_left_out(gaps) == [left for left in fitting if left]


def test_too_few_averages_tell_nothing() -> None:
    gaps = np.array([[1.0, -2.0, 3.0], [2.0, -1.0, 4.0]])
    assert not tells(gaps)
    assert not tells(np.vstack([gaps, gaps]))  # the same two runs again
    assert n_distinct(np.vstack([gaps, gaps])) == 2
    assert tells(np.vstack([gaps, gaps + 1]))
    assert tells(gaps[:1], np.full(3, 1 / 3))
    assert not tells(gaps[:0], np.full(3, 1 / 3))
    assert fits(gaps[:0])
    assert least_left_out(np.array([[5.0, 6.0], [5.0, 7.0]])) == []  # no weights fit; without one row too few are left


def test_implied_values_of_the_paper(paper: Grid) -> None:
    rows = paper_rows(paper, "LLaMA3")
    without = rows.only([*np.delete(np.arange(14), [SHARE4, SHARE2]), SHARE4])
    assert implied_value(without, 12, 0) == pytest.approx((13.627, 13.661), abs=5.1e-4)
    without = rows.only([*np.delete(np.arange(14), [SHARE4, SHARE2]), SHARE2])
    low, high = implied_value(without, 12, 0)
    assert low < rows.values[SHARE4, 0] < high  # 11.594, which is printed under share4
    equal = np.full(5, 0.2)
    accuracy = paper_rows(paper, "LLaMA3", [0])
    assert implied_value(accuracy, SHARE4, 0, equal) == pytest.approx((0.212, 0.222), abs=1e-9)
    assert implied_value(accuracy, SHARE2, 0, equal) == pytest.approx((0.896, 0.906), abs=1e-9)


@given(averages(), st.data())
def test_implied_values_are_where_averages_begin_to_fit(planted: tuple[Rows, np.ndarray], data: st.DataObject) -> None:
    rows, weights = planted
    row = data.draw(st.integers(0, len(rows.averages) - 1))
    member = data.draw(st.integers(0, len(weights) - 1))
    low, high = implied_value(rows, row, member)
    assert low - 1e-6 <= rows.values[row, member] <= high + 1e-6
    width = high - low
    if width > 1000:  # hardly any weight: then next to nothing is said
        return
    for value, fitting in (
        (low - 0.01 * width, False),
        (low + 0.01 * width, True),
        (high - 0.01 * width, True),
        (high + 0.01 * width, False),
    ):
        values = rows.values.copy()
        values[row, member] = value
        assert fits(rows._replace(values=values).gaps()) == fitting


@pytest.mark.parametrize("weight", [0.5, 0.05])
def test_implied_value_with_known_weights(weight: float) -> None:
    rows = Rows(np.array([[1.0, 9.0]]), np.array([2.0]), np.array([0.1]))
    low, high = implied_value(rows, 0, 0, np.array([weight, 1 - weight]))
    assert (weight * low + (1 - weight) * 9, weight * high + (1 - weight) * 9) == pytest.approx((1.9, 2.1))


def test_nothing_is_implied_where_the_weight_may_be_zero() -> None:
    rows = Rows(np.array([[1.0, 2.0], [5.0, 7.0]]), np.array([2.0, 7.0]), np.full(2, 0.1))
    assert implied_value(rows, 1, 0) == (-np.inf, np.inf)
    assert implied_value(rows.only([0]), 0, 1) == (-np.inf, np.inf)


def test_ranges_of_averages_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="no weights fit these averages, so there are no ranges; see `worst_misfit`"):
        weight_ranges(np.array([[5.0, 6.0]]))


def test_an_unsolved_program_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def unsolved(*args: object, **kwargs: object) -> scipy.optimize.OptimizeResult:
        return scipy.optimize.OptimizeResult(success=False, message="out of time")

    monkeypatch.setattr(scipy.optimize, "linprog", unsolved)
    with pytest.raises(RuntimeError, match="the linear program of the weights wasn't solved: out of time"):
        worst_misfit(np.array([[5.0, 6.0]]))
