from itertools import product

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from lorascope.analyze.audit.grid import Grid
from lorascope.analyze.audit.repairs import Place, find_repairs, repaired
from lorascope.analyze.audit.weights import Rows, fits, weight_ranges

EQUAL = np.full(5, 0.2)
SHARE4, SHARE2 = 4, 5


def paper_family(paper: Grid, model: str, *metrics: int) -> tuple[Rows, list[Place]]:
    g, unit = paper.groups.index(model), {0: 1e-3, 1: 1e-3, 2: 0.1}
    places = list(product(metrics, range(7)))
    values = np.array([paper.values[g, m, s] for m, s in places])
    averages = np.array([paper.averages[g, m, s] for m, s in places])
    return Rows(values, averages, np.array([unit[m] for m, _ in places])), places


@st.composite
def families(draw: st.DrawFn, *, n_metrics: int = 2) -> tuple[Rows, list[Place], np.ndarray]:
    """Averages of `n_metrics` metrics under seven settings, with planted weights none of which is small."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n_members = draw(st.integers(2, 4))
    weights = 0.1 + rng.dirichlet(np.ones(n_members)) * (1 - 0.1 * n_members)
    places = list(product(range(n_metrics), range(7)))
    values = rng.uniform(0, 100, (len(places), n_members))
    return Rows(np.round(values, 2), np.round(values @ weights, 2), np.full(len(places), 0.01)), places, weights


def test_the_slip_of_the_paper_is_the_only_one(paper: Grid) -> None:
    (accuracy,) = find_repairs(*paper_family(paper, "LLaMA3", 0), EQUAL)
    assert accuracy[:5] == ("move", 0, SHARE2, SHARE4, (0,))
    assert accuracy.left[0] == pytest.approx((0.212, 0.222), abs=1e-9)
    (entropy,) = find_repairs(*paper_family(paper, "LLaMA3", 1, 2))
    assert entropy[:5] == ("move", 0, SHARE2, SHARE4, (1,))
    assert entropy.units == pytest.approx(0.26, abs=5.1e-3)
    assert entropy.left[0] == pytest.approx((13.627, 13.661), abs=5.1e-4)


def test_what_the_paper_leaves_of_weights_after_the_repair(paper: Grid) -> None:
    rows, places = paper_family(paper, "LLaMA3", 1, 2)
    (slip,) = find_repairs(rows, places)
    mended = repaired(rows, places, slip)
    assert len(mended.averages) == 13
    assert mended.values[SHARE4, 0] == 11.594  # share2, now that share4 is left out
    np.testing.assert_allclose(weight_ranges(mended.gaps())[0], (0.0911, 0.0957), atol=5.1e-5)


def test_what_fits_needs_no_repair(paper: Grid) -> None:
    assert find_repairs(*paper_family(paper, "Phi3", 1, 2)) == []
    assert find_repairs(*paper_family(paper, "Phi3", 0), EQUAL) == []


@given(families(), st.data())
def test_a_planted_swap_is_found(planted: tuple[Rows, list[Place], np.ndarray], data: st.DataObject) -> None:
    rows, places, weights = planted
    member = data.draw(st.integers(0, len(weights) - 1))
    a, b = sorted(data.draw(st.lists(st.integers(0, 6), min_size=2, max_size=2, unique=True)))
    assume(abs(rows.values[a, member] - rows.values[b, member]) > 10)
    slipped = rows._replace(values=rows.values.copy())
    slipped.values[[a, b], member] = rows.values[[b, a], member]
    for known in (None, weights):
        found = find_repairs(slipped, places, known)
        assert ("swap", member, a, b, (0,)) in [one[:5] for one in found]
        swap = next(one for one in found if one[:4] == ("swap", member, a, b))
        np.testing.assert_array_equal(repaired(slipped, places, swap).values, rows.values)
        assert swap.left == ()
        for one in found:
            assert fits(repaired(slipped, places, one).gaps(), known)


@given(families(), st.data())
def test_a_planted_move_is_found(planted: tuple[Rows, list[Place], np.ndarray], data: st.DataObject) -> None:
    rows, places, weights = planted
    member = data.draw(st.integers(0, len(weights) - 1))
    under, source = data.draw(st.lists(st.integers(0, 6), min_size=2, max_size=2, unique=True))
    lost = rows.values[source, member]
    assume(abs(lost - rows.values[under, member]) > 10)
    assume(abs(lost - rows.values[under, member] - 40) > 10)  # else it would be a swap
    slipped = rows._replace(values=rows.values.copy())
    slipped.values[source, member] = rows.values[under, member]
    slipped.values[under, member] = rows.values[under, member] + 40  # some other number
    for known in (None, weights):
        found = find_repairs(slipped, places, known)
        move = next(one for one in found if one[:5] == ("move", member, under, source, (0,)))
        ((low, high),) = move.left
        assert low - 1e-6 <= lost <= high + 1e-6
        assert len(repaired(slipped, places, move).averages) == 13


@given(families(), st.data())
def test_a_swap_in_all_metrics_at_once(planted: tuple[Rows, list[Place], np.ndarray], data: st.DataObject) -> None:
    rows, places, weights = planted
    member = data.draw(st.integers(0, len(weights) - 1))
    assume((np.abs(rows.values[[0, 7], member] - rows.values[[3, 10], member]) > 10).all())
    slipped = rows._replace(values=rows.values.copy())
    slipped.values[[0, 3, 7, 10], member] = rows.values[[3, 0, 10, 7], member]
    assert ("swap", member, 0, 3, (0, 1)) in [one[:5] for one in find_repairs(slipped, places)]


def test_known_weights_mend_what_they_can() -> None:
    rng = np.random.default_rng(0)
    places = [(0, s) for s in range(6)]
    values = np.round(rng.uniform(0, 100, (6, 3)), 2)
    rows = Rows(values, np.round(values.mean(axis=1), 2), np.full(6, 0.01))
    slipped = rows._replace(values=values.copy(), averages=rows.averages.copy())
    slipped.averages[5] += 7  # a third one is wrong too
    slipped.values[[1, 4], 2] = values[[4, 1], 2]
    assert [one[:5] for one in find_repairs(slipped, places, np.full(3, 1 / 3))] == [("swap", 2, 1, 4, (0,))]
    assert find_repairs(slipped, places) == []


def test_slips_that_mend_nothing_are_none() -> None:
    values = np.array([[10.0, 20.0], [10.0, 20.0], [10.01, 20.01], [10.0, 20.0]])
    rows = Rows(values, np.array([90.0, 15.0, 15.01, 15.0]), np.full(4, 0.01))
    places = [(0, s) for s in range(4)]
    assert (
        find_repairs(rows, places, np.full(2, 0.5)) == []
    )  # the first can't be mended, though others could be swapped


def test_one_wrong_average_is_no_sign_of_a_move() -> None:
    values = np.array([[10.0, 20.0], [30.0, 20.0], [50.0, 60.0], [70.0, 65.0]])
    rows = Rows(values, values.mean(axis=1), np.full(4, 0.01))
    rows.values[0, 0] = 33.0  # for 10; and the second average fits as it is
    rows.averages[0] = 25.0  # as if the first were 30, which is printed under the second
    assert find_repairs(rows, [(0, s) for s in range(4)], np.full(2, 0.5)) == []


@pytest.mark.parametrize("n_settings", [5, 6])
def test_few_other_averages_tell_nothing(n_settings: int) -> None:
    values = np.round(np.random.default_rng(0).uniform(0, 100, (n_settings, 4)), 2)
    rows = Rows(values, np.round(values @ [0.4, 0.3, 0.2, 0.1], 2), np.full(n_settings, 0.01))
    rows.values[[0, 1], 0] = values[[1, 0], 0]
    found = find_repairs(rows, [(0, s) for s in range(n_settings)])
    assert [one[:5] for one in found] == ([] if n_settings == 5 else [("swap", 0, 0, 1, (0,))])


def test_settings_without_an_average_are_no_candidates() -> None:
    values = np.array([[10.0, 20.0], [30.0, 80.0], [50.0, 10.0], [12.0, 90.0]])
    rows = Rows(values, values.mean(axis=1), np.full(4, 0.01))
    places = [(0, 0), (0, 1), (0, 2), (1, 3)]  # another metric, under another setting
    rows.values[[0, 1], 1] = rows.values[[1, 0], 1]
    assert [one[:5] for one in find_repairs(rows, places, np.full(2, 0.5))] == [("swap", 1, 0, 1, (0,))]
