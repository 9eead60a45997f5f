import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lorascope.analyze.information.symbols import (
    argmax_symbols,
    symbol_ceiling,
    symbol_information,
)

CORRECTIONS = ("none", "miller-madow", "grassberger")
LABELS = hnp.arrays(np.int64, st.shared(st.integers(2, 60), key="rows"), elements=st.integers(-3, 4))
TABLES = {
    "equal": ([[2, 0], [0, 2]], np.log(2)),
    "independent": ([[2, 2], [2, 2]], 0.0),
    "skewed": ([[4, 1], [1, 4]], 0.8 * np.log(1.6) + 0.2 * np.log(0.4)),
    "three by two": ([[3, 0], [0, 3], [0, 3]], -np.log(1 / 3) / 3 - 2 / 3 * np.log(2 / 3)),
}


def pairs_of(table: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    counts = np.array(table)
    first, second = np.indices(counts.shape)
    return np.repeat(first.ravel(), counts.ravel()), np.repeat(second.ravel(), counts.ravel())


def slow_g(n: int) -> float:
    """Grassberger's G by its recursion: it grows at even n only, by 2/(n - 1)."""
    g = -np.euler_gamma - np.log(2)
    return float(g + sum(2 / (even - 1) for even in range(2, n + 1, 2)))


def slow_information(x: np.ndarray, y: np.ndarray, correction: str) -> float:
    n, total = len(x), 0.0
    for sign, labels in ((1, list(x)), (1, list(y)), (-1, list(zip(x, y, strict=True)))):
        counts = [labels.count(label) for label in set(labels)]
        if correction == "grassberger":
            entropy = np.log(n) - sum(c * slow_g(c) for c in counts) / n
        else:
            entropy = -sum(c / n * np.log(c / n) for c in counts)
            entropy += (len(counts) - 1) / (2 * n) if correction == "miller-madow" else 0
        total += sign * entropy
    return float(total)


@pytest.mark.parametrize("name", TABLES)
def test_tables_worked_out_by_hand(name: str) -> None:
    table, value = TABLES[name]
    assert symbol_information(*pairs_of(table), correction="none") == pytest.approx(value, abs=1e-14)


def test_miller_madow_counts_cells_that_occur() -> None:
    x, y = pairs_of([[2, 1], [0, 1]])
    plug_in = symbol_information(x, y, correction="none")
    # 2 + 2 symbols and 3 of 4 cells: (1 + 1 - 2)/(2 * 4)
    assert symbol_information(x, y, correction="miller-madow") == pytest.approx(plug_in, abs=1e-14)
    x, y = pairs_of([[2, 1], [1, 2]])
    expected = symbol_information(x, y, correction="none") - 1 / 12
    assert symbol_information(x, y, correction="miller-madow") == pytest.approx(expected, abs=1e-14)


def test_grassberger_of_single_occurrences() -> None:
    # Each symbol once: H = ln N - G(1) on all three sides, and so is their mutual information.
    x = np.arange(50)
    expected = np.log(50) + np.euler_gamma + np.log(2)
    assert symbol_information(x, x, correction="grassberger") == pytest.approx(expected, abs=1e-13)


@given(LABELS, LABELS, st.sampled_from(CORRECTIONS))
def test_is_what_the_definition_says(x: np.ndarray, y: np.ndarray, correction: str) -> None:
    found = symbol_information(x, y, correction=correction)  # type: ignore[arg-type]
    assert found == pytest.approx(slow_information(x, y, correction), abs=1e-12)


@given(LABELS, LABELS, st.sampled_from(CORRECTIONS), st.integers(1, 10**9), st.integers(-(10**9), 10**9))
def test_names_and_sides_count_for_nothing(x: np.ndarray, y: np.ndarray, correction: str, a: int, b: int) -> None:
    found = symbol_information(x, y, correction=correction)  # type: ignore[arg-type]
    assert symbol_information(b - a * x, y.astype(np.int8), correction=correction) == found  # type: ignore[arg-type]
    assert symbol_information(y, x, correction=correction) == pytest.approx(found, abs=1e-12)  # type: ignore[arg-type]


@given(LABELS, LABELS)
def test_plug_in_lies_between_0_and_its_ceilings(x: np.ndarray, y: np.ndarray) -> None:
    ceiling = symbol_ceiling(x, y)
    assert -1e-12 <= symbol_information(x, y, correction="none") <= ceiling + 1e-12
    assert ceiling <= np.log(min(len(np.unique(x)), len(np.unique(y)), len(x))) + 1e-12
    assert symbol_information(x, x, correction="none") == pytest.approx(symbol_ceiling(x, x), abs=1e-12)


@pytest.mark.parametrize(("n_symbols", "n_rows"), [(7, 70), (40, 40)])
def test_uniform_symbols_that_are_equal_reach_the_most(n_symbols: int, n_rows: int) -> None:
    x = np.arange(n_rows) % n_symbols
    assert symbol_information(x, x, correction="none") == pytest.approx(np.log(min(n_symbols, n_rows)))


@pytest.mark.parametrize(("correction", "low", "high"), [("none", 0.15, 0.25), ("grassberger", -0.02, 0.02)])
def test_independent_symbols(correction: str, low: float, high: float) -> None:
    rng = np.random.default_rng(3)
    found = [
        symbol_information(*rng.integers(0, 10, (2, 200)), correction=correction)  # type: ignore[arg-type]
        for _ in range(200)
    ]
    assert low < np.mean(found) < high  # the plug-in's bias is about 9 * 9/(2 * 200) = 0.2


def test_many_symbols_need_no_table() -> None:
    rng = np.random.default_rng(4)
    x = rng.integers(0, 50_000, 100_000)
    y = np.where(rng.random(len(x)) < 0.5, x, rng.integers(0, 50_000, len(x)))
    assert 0 < symbol_information(x, y) < symbol_information(x, y, correction="none") < symbol_ceiling(x, y)


def test_argmax_takes_the_first_of_equals() -> None:
    states = np.array([[0.0, 2.0, 1.0], [5.0, 5.0, 0.0], [-3.0, -2.0, -1.0]], np.float32)
    found = argmax_symbols(states)
    np.testing.assert_array_equal(found, [1, 0, 2])
    assert found.dtype == np.int64


@pytest.mark.parametrize(
    ("x", "y", "words"),
    [
        (np.zeros(3), np.zeros(3, int), "`x` is float64 of shape .3,.; it must be integer labels"),
        (np.zeros(3, int), np.zeros((3, 1), int), "`y` is int64 of shape .3, 1.; it must be integer labels"),
        (np.zeros(3, int), np.zeros(4, int), "`x` has 3 rows and `y` 4"),
        (np.zeros(1, int), np.zeros(1, int), "there are 1 rows; give at least 2"),
    ],
    ids=["floats", "table", "lengths", "one row"],
)
def test_labels_that_are_none(x: np.ndarray, y: np.ndarray, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        symbol_information(x, y)
    with pytest.raises(ValueError, match=words):
        symbol_ceiling(x, y)


def test_other_mistakes() -> None:
    with pytest.raises(ValueError, match="`correction` is 'jackknife'; allowed are 'none', 'miller-madow', 'grass"):
        symbol_information(np.arange(3), np.arange(3), correction="jackknife")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="`states` has shape .3, 0.; it must be .row, feature."):
        argmax_symbols(np.zeros((3, 0)))
    with pytest.raises(ValueError, match="2 of 3 rows of `states` hold NaN or infinity, first row 1"):
        argmax_symbols(np.array([[0.0], [np.nan], [np.inf]]))
