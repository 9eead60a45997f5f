"""A study's table as groups by settings, and what it refuses."""

import doctest
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

from lorascope.analyze.stats import study_cells as module
from lorascope.analyze.stats.metrics import compare_metrics
from lorascope.analyze.stats.study_cells import StudyCells, lay_out, parse_metrics, read_rows

from .conftest import make_study

COLUMNS = ["group", "setting", "ACC", "MIUB", "CE"]
METRICS = parse_metrics(["ln MIUB", "CE"], None, [], "ACC", COLUMNS)


def read(frame: pd.DataFrame, n_items: Any = None) -> tuple[StudyCells, pd.DataFrame, tuple[str, ...]]:
    rows, notes = read_rows(frame, "ACC", METRICS, ["group"], "setting", n_items)
    cells, said = lay_out(rows, "all", "ACC", METRICS, ["group"], "setting", n_items)
    return cells, rows, (*notes, *said)


def test_columns_become_tables() -> None:
    frame = make_study()
    cells, rows, notes = read(frame.assign(index=7).set_index("index"), n_items=50)  # row labels needn't differ
    wide = frame.pivot(index="group", columns="setting")
    np.testing.assert_array_equal(cells.accuracy, wide["ACC"])
    np.testing.assert_array_equal(cells.metrics["ln MIUB"], np.log(wide["MIUB"]))
    np.testing.assert_array_equal(cells.metrics["CE"], wide["CE"])
    assert (cells.groups, cells.settings) == (tuple(wide.index), tuple(wide["ACC"].columns))
    assert cells.n_items is not None
    assert (cells.n_items == 50).all()
    assert (cells.name, cells.n_cells, cells.n_effective, notes) == ("all", 20, 17, ())
    assert rows.columns.tolist() == ["ACC", "MIUB", "CE", "group", "setting"]


def test_the_order_of_rows_changes_nothing() -> None:
    frame = make_study(n_dropped=3)
    first, again = read(frame)[0], read(frame.sample(frac=1, random_state=1))[0]
    np.testing.assert_array_equal(first.accuracy, again.accuracy)
    assert (first.groups, first.settings, first.n_cells) == (again.groups, again.settings, 17)


def test_rows_without_a_value_are_left_out() -> None:
    frame = make_study()
    frame.loc[3, "CE"] = np.nan
    cells, rows, notes = read(frame)
    assert cells.n_cells == len(rows) == 19
    assert all(np.isnan(one[0, 3]) for one in (cells.accuracy, *cells.metrics.values()))
    assert notes == ("1 of 20 rows without a value in 'ACC', 'MIUB', 'CE' are left out",)


def test_a_group_of_one_cell_is_left_out() -> None:
    frame = make_study()
    cells, rows, notes = read(frame[(frame["group"] != "g1") | (frame["setting"] == "s2")], n_items=9)
    assert cells.groups == ("g0", "g2", "g3")
    assert (cells.n_cells, len(rows)) == (15, 16)
    assert cells.n_items is not None
    assert cells.n_items.shape == (3, 5)
    assert notes == ("of the cells 'all', 'g1' has a single one: left out",)
    two = frame[~frame["group"].isin(["g1", "g2"]) | (frame["setting"] == "s2")]
    assert read(two)[2] == ("of the cells 'all', 'g1', 'g2' have a single one: left out",)


def test_collapsed_cells_are_left_out() -> None:
    frame = make_study()
    frame.loc[frame["group"] == "g2", "ACC"] = [0.1, 0.2, 0.05, 0.15, 0.5]
    options: dict[str, Any] = {"metrics": ["ln MIUB", "CE"], "groups": ["group"], "n_draws": 100}
    found = compare_metrics(frame, collapsed_below=0.2, **options)
    assert found.noise[["cells", "n_cells"]].values.tolist() == [["all", 20], ["ACC >= 0.2", 17]]
    assert (
        "3 of 20 cells are left out of the cells 'ACC >= 0.2'; cells are chosen by what is to be predicted, which "
        "bends correlations"
    ) in found.notes
    found = compare_metrics(frame, collapsed_below=0.3, **options)
    assert "of the cells 'ACC >= 0.3', 'g2' has a single one: left out" in found.notes
    assert found.noise["n_groups"].tolist() == [4, 3]
    notes = compare_metrics(frame, collapsed_below=0.01, **options).notes
    assert "0 of 20 cells are left out of the cells 'ACC >= 0.01'" in notes
    with pytest.raises(ValueError, match=re.escape("0 groups of the cells 'ACC >= 0.99' with two cells or more")):
        compare_metrics(frame, collapsed_below=0.99, **options)


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
        (lambda f: f.iloc[[0, 1, 5, 6]], "4 cells in 2 groups count as 3, cells less groups plus 1; the tests need 4"),
        (lambda f: changed(f, "CE", 0.5, slice(None)), "'CE' is the same in all cells of each group; there is nothing"),
        (lambda f: f.assign(ACC=f["group"].map({f"g{k}": k / 10 for k in range(4)})), "'accuracy' is the same in all"),
    ],
)
def test_tables_that_cannot_be_compared(change: Callable[[pd.DataFrame], pd.DataFrame], words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        read(change(make_study()))


def test_too_little_to_compare() -> None:
    with pytest.raises(ValueError, match="`groups` is empty; name the columns whose values say which cells may be"):
        read_rows(make_study(), "ACC", METRICS, [], "setting", None)


@pytest.mark.parametrize("given", [10, np.int64(10), "n", 2**53], ids=repr)
def test_items_however_they_are_given(given: Any) -> None:
    found = read(make_study().assign(n=10.0), given)[0].n_items
    assert found is not None
    assert (found == (10 if isinstance(given, str) else given)).all()


@pytest.mark.parametrize("given", [0, 2.5, np.nan, np.inf, True, [5], 2**53 + 1, 10**400, {"a": 5}])
def test_numbers_of_items_that_are_none(given: Any) -> None:
    words = f"`n_items` gives {given!r}; test items are a whole number between 1 and 2^53"
    with pytest.raises(ValueError, match=re.escape(words)):
        read(make_study(), given)
    with pytest.raises(ValueError, match="`n_items` gives 2.5; test items are a whole number"):
        read(make_study().assign(n=2.5), "n")


def test_metrics_by_name() -> None:
    found = parse_metrics(["MIUB", "ln CE", "up"], "ln CE", ["up"], "ACC", [*COLUMNS, "up"])
    assert [tuple(one) for one in found] == [("ln CE", "CE", -1), ("MIUB", "MIUB", -1), ("up", "up", 1)]
    assert [one.is_log for one in found] == [True, False, False]
    (own,) = parse_metrics(["ln CE"], None, [], "ACC", ["ACC", "CE", "ln CE"])
    assert (own.column, own.is_log) == ("ln CE", False)


@pytest.mark.parametrize(
    ("names", "reference", "higher", "words"),
    [
        ([], None, [], "`metrics` is empty; name at least one column"),
        (["CE", "CE"], None, [], "`metrics` names 'CE' twice; once is enough"),
        (["CE"], "MI", [], "`reference` names 'MI', which isn't among the metrics ['CE']"),
        (["CE"], None, ["MI"], "`higher_is_better` names 'MI', which isn't among the metrics ['CE']"),
        (["ln ACC"], None, [], "metric 'ln ACC' is accuracy itself; name what is to predict it"),
    ],
)
def test_metrics_that_are_none(names: list[str], reference: str | None, higher: list[str], words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        parse_metrics(names, reference, higher, "ACC", ["ACC", "CE", "ln CE"])


def test_examples() -> None:
    assert doctest.testmod(module).failed == 0
