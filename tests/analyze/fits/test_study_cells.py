"""A study's table by group and setting, and what it refuses."""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

from lorascope.analyze.fits.metrics import compare_metrics
from lorascope.analyze.fits.study_cells import comparable, read_cells

from .conftest import make_study


def read(frame: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame, list[str]]:
    rows, notes, table = read_cells(frame, "ACC", ["ln MIUB", "CE"], ["group"], "setting")
    cells, lone = comparable(table, "all")
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
    assert notes == ["1 of 20 rows without a value in 'ACC', 'MIUB', 'CE' are left out"]


def test_a_group_of_one_cell_is_left_out() -> None:
    frame = make_study()
    cells, rows, notes = read(frame[(frame["group"] != "g1") | (frame["setting"] == "s2")])
    assert cells.index.get_level_values(0).unique().tolist() == ["g0", "g2", "g3"]
    assert (len(cells), len(rows)) == (15, 16)
    assert notes == ["of the cells 'all', 'g1' has a single one: left out"]
    two = frame[~frame["group"].isin(["g1", "g2"]) | (frame["setting"] == "s2")]
    assert read(two)[2] == ["of the cells 'all', 'g1', 'g2' have a single one: left out"]


def test_collapsed_cells_are_left_out() -> None:
    frame = make_study()
    frame.loc[frame["group"] == "g2", "ACC"] = [0.1, 0.2, 0.05, 0.15, 0.5]
    options: dict[str, Any] = {"metrics": ["ln MIUB", "CE"], "groups": ["group"], "n_draws": 100}
    comparison = compare_metrics(frame, collapsed_below=0.2, **options)
    sizes = comparison.metrics.drop_duplicates("cells")[["cells", "n_cells", "n_effective"]]
    assert sizes.values.tolist() == [["all", 20, 17], ["ACC >= 0.2", 17, 14]]
    assert (
        "3 of 20 cells are left out of the cells 'ACC >= 0.2', chosen by what is to be predicted, which bends "
        "correlations"
    ) in comparison.notes
    comparison = compare_metrics(frame, collapsed_below=0.3, **options)
    assert "of the cells 'ACC >= 0.3', 'g2' has a single one: left out" in comparison.notes
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
        (lambda f: f.iloc[[0, 1, 5, 6]], "4 cells in 2 groups count as 3, cells less groups plus 1; the tests need 4"),
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
