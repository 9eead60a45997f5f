import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import mutual_info_score

from lorascope.analyze.information.symbols import symbol_ceiling, symbol_information

LABELS = hnp.arrays(np.int64, st.shared(st.integers(2, 60), key="rows"), elements=st.integers(-3, 4))


def slow_g(n: int) -> float:
    """Grassberger's G by its recursion: it grows at even n only, by 2/(n - 1)."""
    g = -np.euler_gamma - np.log(2)
    return float(g + sum(2 / (even - 1) for even in range(2, n + 1, 2)))


def slow_information(x: np.ndarray, y: np.ndarray) -> float:
    n, total = len(x), 0.0
    for sign, labels in ((1, list(x)), (1, list(y)), (-1, list(zip(x, y, strict=True)))):
        counts = [labels.count(label) for label in set(labels)]
        total += sign * (np.log(n) - sum(c * slow_g(c) for c in counts) / n)
    return float(total)


def test_single_occurrences() -> None:
    # Each symbol once: H = ln N - G(1) on all three sides, and so is their mutual information.
    x = np.arange(50)
    assert symbol_information(x, x) == pytest.approx(np.log(50) + np.euler_gamma + np.log(2), abs=1e-13)


@given(LABELS, LABELS)
def test_is_what_the_definition_says(x: np.ndarray, y: np.ndarray) -> None:
    assert symbol_information(x, y) == pytest.approx(slow_information(x, y), abs=1e-12)


@given(LABELS, LABELS, st.integers(1, 10**9), st.integers(-(10**9), 10**9))
def test_names_and_sides_count_for_nothing(x: np.ndarray, y: np.ndarray, a: int, b: int) -> None:
    found = symbol_information(x, y)
    assert symbol_information(b - a * x, y.astype(np.int8)) == found
    assert symbol_information(y, x) == pytest.approx(found, abs=1e-12)


@given(LABELS, LABELS)
def test_the_ceiling_is_one_of_scikit_learns_value(x: np.ndarray, y: np.ndarray) -> None:
    ceiling = symbol_ceiling(x, y)
    assert mutual_info_score(x, y) <= ceiling + 1e-12
    assert symbol_ceiling(x, x) == pytest.approx(mutual_info_score(x, x), abs=1e-12)


def test_independent_symbols_have_none_where_scikit_learn_has_its_bias() -> None:
    rng = np.random.default_rng(3)
    tables = [rng.integers(0, 10, (2, 200)) for _ in range(200)]
    assert abs(np.mean([symbol_information(*table) for table in tables])) < 0.02
    assert 0.15 < np.mean([mutual_info_score(*table) for table in tables]) < 0.25  # about 9 * 9/(2 * 200) = 0.2


def test_with_many_rows_to_a_symbol_it_is_scikit_learns() -> None:
    rng = np.random.default_rng(4)
    x = rng.integers(0, 3, 50_000)
    y = np.where(rng.random(len(x)) < 0.5, x, rng.integers(0, 3, len(x)))
    assert symbol_information(x, y) == pytest.approx(mutual_info_score(x, y), abs=2e-4)


def test_many_symbols_need_no_table() -> None:
    rng = np.random.default_rng(4)
    x = rng.integers(0, 50_000, 100_000)
    y = np.where(rng.random(len(x)) < 0.5, x, rng.integers(0, 50_000, len(x)))
    assert 0 < symbol_information(x, y) < symbol_ceiling(x, y)
