import re
from typing import Any

import numpy as np
import pytest

from lorascope.analyze.scaling.group_design import check_level, group_design

X = np.array([[0.0, 1.0], [1.0, 0.0], [2.0, 2.0], [0.0, 0.0], [1.0, 5.0], [3.0, 1.0]])
Y = np.array([1.0, 0.5, -0.2, 4.0, 3.7, 3.3])
GROUPS = ["a", "a", "a", "b", "b", "b"]


def test_parts_of_a_design() -> None:
    design = group_design(Y, X, ["N", "R"], GROUPS)
    assert (design.n, design.n_parameters, design.groups, design.names) == (6, 4, ("a", "b"), ("N", "R"))
    np.testing.assert_array_equal(design.sizes, [3, 3])
    np.testing.assert_allclose(design.means(X), [X[:3].mean(axis=0), X[3:].mean(axis=0)])
    np.testing.assert_allclose(design.within(Y), Y - np.repeat([Y[:3].mean(), Y[3:].mean()], 3))
    np.testing.assert_allclose((design.x_unit**2).sum(axis=0), 1)
    np.testing.assert_allclose(design.x_unit * design.spreads, design.within(X))
    np.testing.assert_array_equal(design.n_varying, [2, 2])
    np.testing.assert_array_equal(design.dummies, np.kron(np.eye(2), np.ones((3, 1))))


def test_groups_of_one_row_are_set_aside_in_the_order_of_the_others() -> None:
    groups = ["lone", *GROUPS[:3], "other", *GROUPS[3:]]
    place = [1, 2, 3, 5, 6, 7]
    y, x = np.full(8, 9.0), np.full((8, 2), 9.0)
    y[place], x[place] = Y, X
    design = group_design(y, x, ["N", "R"], groups)
    assert (design.alone, design.groups) == (("lone", "other"), ("a", "b"))
    np.testing.assert_array_equal(design.y, Y)
    np.testing.assert_array_equal(design.codes, [0, 0, 0, 1, 1, 1])


def test_labels_may_be_tuples_or_numbers() -> None:
    assert group_design(Y, X, ["N", "R"], [("a", 1)] * 3 + [("b", 2)] * 3).groups == (("a", 1), ("b", 2))
    assert group_design(Y, X, ["N", "R"], np.array([7, 7, 7, 3, 3, 3])).groups == (7, 3)  # type: ignore[arg-type]


NAN, INF = X.copy(), Y.copy()
NAN[2, 1], INF[4] = np.nan, np.inf
WIDE = np.column_stack([X, X @ [2.0, -1.0] + np.repeat([0.0, 7.0], 3), X[:, 0] ** 2])
FLAT = np.column_stack([X[:, 0], np.repeat([22.1, 23.7], 3)])
LONGER = np.tile(WIDE, (3, 1)) + np.random.default_rng(0).normal(size=(18, 1)) * [1, 0, 2, 0]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"y": Y[:5]}, "`y` has shape (5,) and `x` (6, 2); they must be (rows,) and (rows, columns), of the same rows"),
        ({"x": X[:, 0]}, "`y` has shape (6,) and `x` (6,); they must be"),
        ({"groups": GROUPS[:4]}, "`groups` has 4 labels for 6 rows; give one for each row"),
        ({"names": ["N"]}, "`names` is ['N'] for 2 columns of `x`; give one name a column, and a column"),
        ({"names": "NR"}, "`names` is 'NR' for 2 columns of `x`"),
        ({"names": [], "x": X[:, :0]}, "`names` is [] for 0 columns of `x`; give one name a column, and a column"),
        ({"names": ["N", "N"]}, "`names` holds 'N' twice; give each column a name of its own"),
        ({"y": INF}, "`y` is inf in row 4; numbers must be finite: drop such rows"),
        ({"x": NAN}, "column 'R' is nan in row 2; numbers must be finite: drop such rows"),
        ({"groups": ["a", "a", None, "b", "b", "b"]}, "`groups` is empty in row 2; each row needs a label"),
        (
            {"y": Y[:4], "x": X[:4], "groups": list("aabb")},
            "there are 4 rows for 4 parameters (2 intercepts, 2 slopes); more rows than parameters are needed",
        ),
        ({"groups": list("aabbcd")}, "there are 4 rows, without 2 groups of one row, for 4 parameters (2 intercepts, "),
        ({"groups": list("abcdef")}, "there are 0 rows, without 6 groups of one row, for 2 parameters (0 intercepts, "),
        ({"x": FLAT}, "column 'R' is constant within every group, where its slope can't be told from the groups'"),
        ({"x": np.zeros((6, 2))}, "column 'N' is constant within every group"),
        (
            {"x": LONGER[:, :3], "y": np.arange(18.0) ** 2, "names": list("abc"), "groups": GROUPS * 3},
            "column 'c' is a combination of the columns before it and the groups' intercepts; drop one of them",
        ),
        (
            {"y": X @ [0.3, -2.0] + np.repeat([1.0, 5.0], 3)},
            "the columns and the groups' intercepts fit `y` to rounding",
        ),
        (
            {"y": np.repeat([1.0, 5.0], 3)},
            "fit `y` to rounding, the largest residual is 0; without residuals there are",
        ),
        ({"y": np.zeros(6)}, "take columns out, or look whether y is measured"),
    ],
)
def test_refusals(change: dict[str, Any], words: str) -> None:
    given = {"y": Y, "x": X, "names": ["N", "R"], "groups": GROUPS} | change
    with pytest.raises(ValueError, match=re.escape(words)):
        group_design(**given)


@pytest.mark.parametrize("level", [0.0, 1.0, -1.0, 95.0, float("nan")])
def test_levels(level: float) -> None:
    with pytest.raises(ValueError, match=re.escape(f"`level` is {level!r}; allowed is what lies between 0 and 1")):
        check_level(level)


def test_groups_in_which_a_column_varies() -> None:
    x = np.column_stack([X[:, 0], [7.1, 7.1, 7.1, 1.0, 2.0, 4.0]])
    np.testing.assert_array_equal(group_design(Y, x, ["N", "R"], GROUPS).n_varying, [2, 1])


def test_a_column_far_from_zero_is_no_constant() -> None:
    assert group_design(Y, X + 1e9, ["N", "R"], GROUPS).n == 6
