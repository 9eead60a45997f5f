import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import softmax  # type: ignore[import-untyped]

from lorascope.analyze.information.bound import discrete_dependence
from lorascope.analyze.information.soft_index import PIECE_ROWS, soft_index_information


def dense(x: np.ndarray, y: np.ndarray) -> float:
    """The definition, by entropies of the whole table."""
    p, q = softmax(x.astype(np.float64), axis=1), softmax(y.astype(np.float64), axis=1)
    joint = p.T @ q / len(x)

    def entropy(table: np.ndarray) -> float:
        return float(-(table[table > 0] * np.log(table[table > 0])).sum())

    return entropy(p.mean(axis=0)) + entropy(q.mean(axis=0)) - entropy(joint)


def states(seed: int, n: int, width: int, scale: float) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, width), scale=scale).astype(np.float32)


@given(
    st.integers(0, 1000),
    st.integers(2, 40),
    st.integers(1, 30),
    st.integers(1, 30),
    st.floats(0, 30),
    st.integers(1, 40),
)
def test_is_the_dense_formula_whatever_the_block(seed: int, n: int, dx: int, dy: int, scale: float, block: int) -> None:
    x, y = states(seed, n, dx, scale), states(seed + 1, n, dy, scale)
    y[:, 0] += x[:, 0]
    found = soft_index_information(x, y, block=block)
    assert found == pytest.approx(dense(x, y), abs=1e-9)
    assert soft_index_information(y, x) == pytest.approx(found, abs=1e-12)
    assert soft_index_information(x + 500, y - 500) == pytest.approx(found, abs=1e-3 * (1 + scale))
    assert -1e-13 <= found <= np.log(min(n, dx, dy)) + 1e-12


def test_rows_beyond_a_piece_count_too() -> None:
    x = states(0, PIECE_ROWS + 77, 5, 3)
    y = x + states(1, len(x), 5, 1)
    found = soft_index_information(x, y, block=2)
    assert found == pytest.approx(dense(x, y), abs=1e-12)
    assert found == pytest.approx(soft_index_information(x[::-1], y[::-1]), abs=1e-12)


def test_a_table_worked_out_by_hand() -> None:
    # Rows (1, 0) and (1/2, 1/2) on both sides: J = ((1, 0), (0, 0))/2 + ((1, 1), (1, 1))/8
    x = np.array([[0.0, -1e4], [0.0, 0.0]])
    expected = discrete_dependence(np.array([[0.625, 0.125], [0.125, 0.125]])).mutual_information
    assert soft_index_information(x, x) == pytest.approx(expected, abs=1e-14)


@pytest.mark.parametrize(("n", "width", "most"), [(30, 30, np.log(30)), (100, 4, np.log(4)), (4, 100, np.log(4))])
def test_certain_indices_that_are_equal_reach_the_most(n: int, width: int, most: float) -> None:
    x = 1000 * np.eye(width)[np.arange(n) % width]
    assert soft_index_information(x, x) == pytest.approx(most)


def test_no_dependence_is_0() -> None:
    x, y = 4 * np.eye(6)[np.repeat(np.arange(6), 5)], 4 * np.eye(5)[np.tile(np.arange(5), 6)]  # every combination once
    assert 0 <= soft_index_information(x, y) < 1e-14
    assert 0 <= soft_index_information(np.zeros((9, 3)), states(0, 9, 700, 5)) < 1e-14
    # What is too small to be seen next to entropies of 6 nats, is seen.
    faint = states(1, 50, 700, 1e-3)
    p = softmax(faint.astype(np.float64), axis=1)
    product = np.outer(p.mean(axis=0), p.mean(axis=0))
    expected = ((p.T @ p / 50 - product) ** 2 / product).sum() / 2
    assert 0 < expected < 1e-12
    assert soft_index_information(faint, faint) == pytest.approx(expected, rel=1e-3)


def test_extreme_states_stay_finite() -> None:
    x = np.array([[3e38, -3e38, 0.0], [-3e38, 3e38, 0.0], [0.0, 1.0, 2.0]], np.float32)
    found = soft_index_information(x, x, block=1)
    assert found == pytest.approx(dense(x, x), abs=1e-12)
    tiny = np.array([[0.0, -350.0], [0.0, -353.0]])  # products of these underflow
    assert soft_index_information(tiny, tiny) == pytest.approx(0, abs=1e-100)


def test_the_whole_table_is_never_held() -> None:
    x = states(0, 8, 2048, 2)
    y = x + states(1, 8, 2048, 1)
    tracemalloc.start()
    try:
        found = soft_index_information(x, y, block=16)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2048 * 2048 * 8 / 8
    assert found == pytest.approx(dense(x, y), abs=1e-12)


@pytest.mark.parametrize(
    ("x", "y", "block", "words"),
    [
        (np.zeros(3), np.zeros((3, 1)), 1, "`x` has shape .3,.; it must be .row, feature."),
        (np.zeros((3, 1)), np.zeros((3, 0)), 1, "`y` has shape .3, 0.; it must be .row, feature."),
        (np.zeros((3, 1)), np.zeros((4, 1)), 1, "`x` has 3 rows and `y` 4"),
        (np.zeros((1, 1)), np.zeros((1, 1)), 1, "there are 1 rows; give at least 2"),
        (np.zeros((2, 1)), np.array([[0], [np.nan]]), 1, "1 of 2 rows of `y` hold NaN or infinity, first row 1"),
        (np.zeros((2, 1)), np.zeros((2, 1)), 0, "`block` is 0; give at least 1"),
    ],
    ids=["flat", "no feature", "lengths", "one row", "nan", "block"],
)
def test_states_that_are_none(x: np.ndarray, y: np.ndarray, block: int, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        soft_index_information(x, y, block=block)
