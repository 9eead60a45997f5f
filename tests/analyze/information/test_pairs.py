from typing import Any

import numpy as np
import pytest

from lorascope.analyze.information.pairs import LEAST_PAIRS, check_pairs, is_repeat

X, Y = np.random.default_rng(0).normal(size=(2, 60, 3))


def test_rows_come_as_float64_with_a_group_each() -> None:
    pairs = check_pairs(X.astype(np.float32), Y[:, 0].astype(np.float16))
    assert pairs.x.dtype == pairs.y.dtype == np.float64
    assert pairs.x.shape == (60, 3)
    assert pairs.y.shape == (60, 1)
    np.testing.assert_array_equal(pairs.x, X.astype(np.float32))
    for labels in (pairs.groups_x, pairs.groups_y):
        np.testing.assert_array_equal(labels, np.arange(60))
        assert labels.dtype == np.int64


def test_groups_may_have_any_names() -> None:
    named = np.array([f"sample {9 - place // 6}" for place in range(60)])
    np.testing.assert_array_equal(check_pairs(X, Y, named).groups_x, 9 - np.arange(60) // 6)
    assert check_pairs(X, Y, list(named)).groups_y.dtype == np.int64


def with_value(value: float, row: int = 7) -> np.ndarray:
    changed = X.copy()
    changed[row, 1] = value
    return changed


@pytest.mark.parametrize(
    ("x", "y", "words"),
    [
        (X, Y[:59], "`x` has 60 rows and `y` 59; row i of one belongs to row i of the other"),
        (X[:31], Y[:31], f"there are 31 pairs; give at least {LEAST_PAIRS}"),
        (np.empty((0, 2)), np.empty((0, 2)), "there are 0 pairs"),
        ([], [], "there are 0 pairs"),
        (X[:, :0], Y, r"`x` has shape \(60, 0\); it must be \(n, dimension\) or \(n,\)"),
        (X, Y[:, :, None], r"`y` has shape \(60, 3, 1\); it must be"),
        (3.5, Y, r"`x` has shape \(\); it must be"),
        (X + 1j, Y, "`x` is of type complex128; it must hold real numbers"),
        (X, Y.astype(str), "`y` is of type <U32; it must hold real numbers"),
        (X, Y.astype(object), "`y` is of type object; it must hold real numbers"),
        (np.arange(60).astype("datetime64[s]"), Y, r"`x` is of type datetime64\[s\]; it must hold real numbers"),
        (with_value(np.nan), Y, "1 of 60 rows of `x` contain NaN or infinity, the first is row 7; drop them"),
        (X, with_value(-np.inf, 0), "1 of 60 rows of `y` contain NaN or infinity, the first is row 0"),
        (X * [1, 0, 1], Y, "1 columns of `x` are constant, the first is column 1; drop them"),
        (X, np.full((60, 2), 0.1), "2 columns of `y` are constant, the first is column 0"),
        (np.repeat(X, 2, axis=0), np.repeat(Y, 2, axis=0), "60 of 120 pairs occur before: of continuous data"),
        (X * 1e160, Y, "`x` has absolute values from .* whose squares can't be computed; scale it"),
        (X, Y * 1e-170, "`y` has absolute values from .* whose squares can't be computed; scale it"),
        (np.ma.masked_less(X, 0), Y, "`x` has masked values; drop those rows"),
        (with_value(-0.0)[[*range(60), 7]], with_value(0.0)[[*range(60), 7]], "1 of 61 pairs occur before"),
    ],
)
def test_arrays_are_refused_in_words(x: Any, y: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        check_pairs(x, y)


def test_whole_numbers_may_repeat() -> None:
    symbols = np.arange(120)[:, None] % 3
    assert len(check_pairs(symbols, symbols).x) == 120


def test_each_repeat_counts_but_for_the_first() -> None:
    pairs = check_pairs(X, Y)
    doubled = pairs.take(np.array([0, 1, 0, 2, 0, 1]))
    np.testing.assert_array_equal(is_repeat(doubled), [False, False, True, False, True, True])


@pytest.mark.parametrize(("n", "dx", "dy"), [(60, 14, 14), (60, 30, 31), (60, 20, 60)])
def test_fewer_rows_than_dimensions_need_are_refused_in_words(n: int, dx: int, dy: int) -> None:
    x, y = (np.random.default_rng(d).normal(size=(n, d)) for d in (dx, dy))
    least = 2 * (dx + dy + 3)
    with pytest.raises(ValueError, match=rf"there are {n} rows for {dx} \+ {dy} dimensions; give at least {least}, or"):
        check_pairs(x, y)
    enough = [np.random.default_rng(d).normal(size=(least, d)) for d in (dx, dy)]
    assert len(check_pairs(*enough).x) == least


@pytest.mark.parametrize(
    ("groups", "words"),
    [
        (np.zeros(60), "`groups` has 1 labels; halves, shuffles and errors need at least 4"),
        (np.arange(59), r"`groups` has shape \(59,\); it must be \(60,\), a label for each row"),
        (np.arange(60)[:, None], r"`groups` has shape \(60, 1\)"),
        (np.arange(60) // 20, "`groups` has 3 labels; halves, shuffles and errors need at least 4"),
        ([None, *range(59)], "`groups` has labels that can't be compared"),
        (np.where(np.arange(60) % 2, np.nan, 1.0), "`groups` contains NaN; every row needs a label"),
    ],
)
def test_groups_are_refused_in_words(groups: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        check_pairs(X, Y, groups)
