"""A study's table by group and setting, and what it refuses."""

import re
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorascope.analyze.fits.frame import check_columns, comparable_cells, group_labels, read_cells
from lorascope.analyze.fits.metrics import compare_metrics

from .conftest import make_study

TABLE = pd.DataFrame(
    {"model": ["a", "a", "b"], "seed": [1, 2, 1], "N": [1, 2, 3], "loss": [0.5, 0.25, -1.0], "note": ["", None, "x"]},
    index=[7, 8, 9],
)


def test_what_was_asked_for_comes_back() -> None:
    rows, notes = check_columns(TABLE, numbers=["N", "loss"], positive=["N"], labels=["model", "seed"])
    assert notes == []
    assert rows.columns.tolist() == ["N", "loss", "model", "seed"]
    assert rows.index.tolist() == [7, 8, 9]
    assert (rows[["N", "loss"]].dtypes == np.float64).all()
    assert rows["seed"].tolist() == ["1", "2", "1"]
    assert rows["loss"].tolist() == TABLE["loss"].tolist()


def test_the_table_given_stays_as_it_was() -> None:
    before = TABLE.copy(deep=True)
    rows, _ = check_columns(TABLE, numbers=["N"], labels=["model"])
    rows["N"] = 0.0
    pd.testing.assert_frame_equal(TABLE, before)


def test_rows_without_a_value_are_left_out_and_counted() -> None:
    table = TABLE.assign(loss=[np.nan, 1.0, 2.0], PPL=[1.0, None, 3.0])
    rows, notes = check_columns(table, numbers=["N", "loss", "PPL"], may_lack=["loss", "PPL"])
    assert rows.index.tolist() == [9]
    assert notes == ["2 of 3 rows without a value in 'loss', 'PPL' are excluded"]
    assert check_columns(TABLE, numbers=["loss"], may_lack=["loss"])[1] == []


@pytest.mark.parametrize(
    "values",
    [
        [1, 2, 3],
        np.array([1, 2, 3], np.float32),
        pd.array([1, 2, 3], "Int64"),
        [1, np.int8(2), Fraction(3)],
        [True + 0, 2.0, 3],
    ],
)
def test_every_kind_of_number_becomes_float64(values: Any) -> None:
    column = check_columns(TABLE.assign(x=values), numbers=["x"])[0]["x"]
    assert column.dtype == np.float64
    assert column.tolist() == [1.0, 2.0, 3.0]


@pytest.mark.parametrize(
    ("change", "options", "words"),
    [
        ({}, {"numbers": ["PPL"]}, "the table has no column 'PPL'; it has 'model', 'seed', 'N', 'loss', 'note'"),
        ({}, {"numbers": [], "labels": ["family"]}, "the table has no column 'family'"),
        ({"N": ["1", 2, 3]}, {"numbers": ["N"]}, "column 'N' holds '1' in row 7, where a number belongs"),
        ({"N": [1, True, 3]}, {"numbers": ["N"]}, "column 'N' holds True in row 8, where a number belongs"),
        (
            {"N": [1, 2, Decimal(3)]},
            {"numbers": ["N"]},
            "column 'N' holds Decimal('3') in row 9, where a number belongs",
        ),
        ({"N": [1, np.nan, 3]}, {"numbers": ["N"]}, "column 'N' is empty in row 8; fill it in or drop the row"),
        ({"N": [None, None, 3]}, {"numbers": ["N"]}, "column 'N' is empty in rows 7, 8; fill it in or drop the row"),
        ({"N": [1, np.inf, 3]}, {"numbers": ["N"]}, "column 'N' is inf in row 8; numbers must be finite"),
        ({"N": [1, 10**400, 3]}, {"numbers": ["N"]}, "column 'N' holds a whole number above 1.8e308"),
        (
            {"N": [1, 0, -2]},
            {"numbers": ["N"], "positive": ["N"]},
            "column 'N' is 0 in rows 8, 9; it must be above zero",
        ),
        (
            {"note": ["x", None, "y"]},
            {"numbers": ["N"], "labels": ["note"]},
            "column 'note' is empty in row 8; fill it in or drop the row",
        ),
        ({"N": np.nan}, {"numbers": ["N"], "may_lack": ["N"]}, "no row of the table has a value in 'N'"),
    ],
)
def test_tables_that_cannot_be_used(change: dict[str, Any], options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        check_columns(TABLE.assign(**change), **options)


def test_no_rows_and_no_columns() -> None:
    with pytest.raises(ValueError, match="the table has no rows"):
        check_columns(TABLE.iloc[:0], numbers=["N"])
    with pytest.raises(ValueError, match="the table has no column 'N'; it has none"):
        check_columns(pd.DataFrame(), numbers=["N"])


def test_two_columns_of_one_name() -> None:
    table = pd.DataFrame([[1, 2]], columns=["N", "N"])
    with pytest.raises(ValueError, match="the table has 2 columns 'N'; it has 'N', 'N'"):
        check_columns(table, numbers=["N"])


@pytest.mark.parametrize("thing", [[1, 2], {"N": [1]}, TABLE["N"]])
def test_no_frame(thing: Any) -> None:
    words = f"`frame` is a {type(thing).__name__}; give a pandas DataFrame, one row per cell"
    with pytest.raises(TypeError, match=words):
        check_columns(thing, numbers=["N"])


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=9))
def test_finite_numbers_come_back_as_they_are(values: list[float]) -> None:
    assert check_columns(pd.DataFrame({"x": values}), numbers=["x"])[0]["x"].tolist() == values


def test_group_labels() -> None:
    assert group_labels(TABLE, ["model", "seed"]).tolist() == ["a/1", "a/2", "b/1"]
    assert group_labels(TABLE, ["model"]).tolist() == ["a", "a", "b"]
    assert group_labels(TABLE, []).tolist() == ["", "", ""]
    with pytest.raises(ValueError, match="would both be called 'a/b/c'; write one of them without a slash"):
        group_labels(pd.DataFrame({"x": ["a", "a/b"], "y": ["b/c", "c"]}), ["x", "y"])


def read(frame: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame, list[str]]:
    rows, notes, table = read_cells(frame, "ACC", ["ln MIUB", "CE"], ["group"], "setting")
    cells, lone = comparable_cells(table, "all")
    return cells, rows, [*notes, *lone]


def test_columns_become_cells() -> None:
    frame = make_study()
    cells, rows, notes = read(frame.assign(index=7).set_index("index"))  # row labels needn't differ
    expected = frame.set_index(["group", "setting"])
    pd.testing.assert_series_equal(cells["ACC"], expected["ACC"], check_names=False)
    pd.testing.assert_series_equal(cells["ln MIUB"], np.log(expected["MIUB"]), check_names=False)
    pd.testing.assert_series_equal(cells["CE"], expected["CE"], check_names=False)
    assert notes == []
    assert rows.columns.tolist() == ["ACC", "MIUB", "CE", "group", "setting"]


def test_rows_without_a_value_are_left_out() -> None:
    frame = make_study()
    frame.loc[3, "CE"] = np.nan
    cells, rows, notes = read(frame)
    assert len(cells) == len(rows) == 19
    assert ("g0", "s3") not in cells.index
    assert notes == ["1 of 20 rows without a value in 'ACC', 'MIUB', 'CE' are excluded"]


def test_a_group_of_one_cell_is_left_out() -> None:
    frame = make_study()
    cells, rows, notes = read(frame[(frame["group"] != "g1") | (frame["setting"] == "s2")])
    assert cells.index.get_level_values(0).unique().tolist() == ["g0", "g2", "g3"]
    assert (len(cells), len(rows)) == (15, 16)
    assert notes == ["of the cells 'all', 'g1' has a single one: excluded"]
    two = frame[~frame["group"].isin(["g1", "g2"]) | (frame["setting"] == "s2")]
    assert read(two)[2] == ["of the cells 'all', 'g1', 'g2' have a single one: excluded"]


def test_collapsed_cells_are_left_out() -> None:
    frame = make_study()
    frame.loc[frame["group"] == "g2", "ACC"] = [0.1, 0.2, 0.05, 0.15, 0.5]
    options: dict[str, Any] = {"metrics": ["ln MIUB", "CE"], "groups": ["group"], "n_draws": 100}
    comparison = compare_metrics(frame, collapsed_below=0.2, **options)
    sizes = comparison.metrics.drop_duplicates("cells")[["cells", "n_cells", "n_effective"]]
    assert sizes.values.tolist() == [["all", 20, 17], ["ACC >= 0.2", 17, 14]]
    assert (
        "3 of 20 cells are excluded from the cells 'ACC >= 0.2', chosen by what is to be predicted, which bends "
        "correlations"
    ) in comparison.notes
    comparison = compare_metrics(frame, collapsed_below=0.3, **options)
    assert "of the cells 'ACC >= 0.3', 'g2' has a single one: excluded" in comparison.notes
    for above, words in (
        (0.99, "0 groups of the cells 'ACC >= 0.99' with two cells or"),
        (2, "`collapsed_below` is 2; accuracy is a share above 0, at most 1"),
        (np.nan, "`collapsed_below` is nan"),
    ):
        with pytest.raises(ValueError, match=re.escape(words)):
            compare_metrics(frame, collapsed_below=above, **options)


def changed(frame: pd.DataFrame, column: str, value: Any, rows: Any = 2) -> pd.DataFrame:
    frame = frame.astype({column: object})
    frame.loc[rows, column] = value
    return frame


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda f: f.drop(columns="CE"), "the table has no column 'CE'; it has 'group', 'setting', 'ACC', 'MIUB'"),
        (lambda f: changed(f, "MIUB", 0.0), "column 'MIUB' is 0 in row 2; it must be above zero"),
        (lambda f: changed(f, "ACC", 85.1), "accuracy 'ACC' is 85.1 in row 2; it is a share from 0 to 1: divide"),
        (lambda f: changed(f, "setting", "s3"), "group 'g0' has setting 's3' twice; average repeated runs, or let"),
        (lambda f: f.iloc[:5], "1 group with two cells or more; metrics are compared within groups, and how sure"),
        (lambda f: f[f["setting"] == "s1"], "0 groups with two cells or more"),
        (lambda f: f.iloc[[0, 1, 5, 6]], "4 cells in 2 groups count as 3, cells - groups + 1; the tests need 4"),
        (lambda f: changed(f, "CE", 0.5, slice(None)), "'CE' is the same in all cells of each group; there is nothing"),
        (lambda f: f.assign(ACC=f["group"].map({f"g{k}": k / 10 for k in range(4)})), "'ACC' is the same in all"),
    ],
)
def test_tables_that_cannot_be_compared(change: Callable[[pd.DataFrame], pd.DataFrame], words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        read(change(make_study()))


@pytest.mark.parametrize(
    ("metrics", "groups", "words"),
    [
        (["CE"], [], "`groups` is empty; name at least one column"),
        ([], ["group"], "`metrics` is empty; name at least one column"),
        (["ln ACC"], ["group"], "metric 'ln ACC' is accuracy itself; name what is to predict it"),
        (["ACC"], ["group"], "metric 'ACC' is accuracy itself"),
    ],
)
def test_columns_that_cannot_be_compared(metrics: list[str], groups: list[str], words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        read_cells(make_study(), "ACC", metrics, groups, "setting")
