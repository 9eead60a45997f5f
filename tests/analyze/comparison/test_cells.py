import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

from lorascope.analyze.comparison.cells import StudyCells, named, read_cells, without_collapsed
from lorascope.analyze.comparison.roles import parse_metrics

METRICS = parse_metrics(["ln MIUB", "CE"], None, [], "ACC")


def read(frame: pd.DataFrame, n_items: Any = None) -> tuple[StudyCells, pd.DataFrame, tuple[str, ...]]:
    return read_cells(frame, "ACC", METRICS, ["block"], "setting", n_items)


def test_columns_become_arrays(make_study: Callable[..., pd.DataFrame]) -> None:
    frame = make_study()
    cells, rows, notes = read(frame.assign(index=7).set_index("index"), n_items=50)  # row labels needn't differ
    np.testing.assert_array_equal(cells.accuracy, frame["ACC"])
    np.testing.assert_array_equal(cells.metrics["ln MIUB"], np.log(frame["MIUB"]))
    np.testing.assert_array_equal(cells.metrics["CE"], frame["CE"])
    assert [cells.blocks[k] for k in cells.block] == frame["block"].tolist()
    assert [cells.settings[k] for k in cells.setting] == frame["setting"].tolist()
    assert cells.n_items is not None
    assert cells.n_items.tolist() == [50] * 20
    assert (cells.name, cells.n_effective, notes) == ("all", 17, ())
    assert rows.columns.tolist() == ["ACC", "MIUB", "CE", "block", "setting"]


def test_codes_do_not_depend_on_the_order_of_rows(make_study: Callable[..., pd.DataFrame]) -> None:
    frame = make_study()
    cells, _, _ = read(frame.sample(frac=1, random_state=1))
    assert cells.blocks == ("b0", "b1", "b2", "b3")
    assert cells.settings == ("s0", "s1", "s2", "s3", "s4")


def test_rows_without_a_value_are_left_out(make_study: Callable[..., pd.DataFrame]) -> None:
    frame = make_study()
    frame.loc[3, "CE"] = np.nan
    cells, rows, notes = read(frame)
    assert len(cells.accuracy) == len(rows) == 19
    assert notes == ("1 of 20 rows without a value in 'ACC', 'MIUB', 'CE' are left out",)


def test_a_block_of_one_cell_is_left_out(make_study: Callable[..., pd.DataFrame]) -> None:
    frame = make_study()
    cells, rows, notes = read(frame[(frame["block"] != "b1") | (frame["setting"] == "s2")], n_items=9)
    assert cells.blocks == ("b0", "b2", "b3")
    assert set(cells.block) == {0, 1, 2}
    assert (len(cells.accuracy), len(rows)) == (15, 16)
    assert cells.n_items is not None
    assert len(cells.n_items) == 15
    assert notes == ("of the cells 'all', 'b1' has a single one: left out",)
    two = frame[~frame["block"].isin(["b1", "b2"]) | (frame["setting"] == "s2")]
    assert read(two)[2] == ("of the cells 'all', 'b1', 'b2' have a single one: left out",)


def test_collapsed_cells_are_left_out(make_study: Callable[..., pd.DataFrame]) -> None:
    frame = make_study()
    frame.loc[frame["block"] == "b2", "ACC"] = [0.1, 0.2, 0.05, 0.15, 0.5]
    cells, notes = without_collapsed(read(frame)[0], "ACC", 0.2)
    assert cells.name == "ACC >= 0.2"
    np.testing.assert_array_equal(cells.accuracy, frame.loc[frame["ACC"] >= 0.2, "ACC"])
    assert notes == (
        "3 of 20 cells are left out of the cells 'ACC >= 0.2'; cells are chosen by what is to be predicted, which "
        "bends correlations",
    )
    cells, notes = without_collapsed(read(frame)[0], "ACC", 0.3)
    assert notes[1] == "of the cells 'ACC >= 0.3', 'b2' has a single one: left out"
    assert cells.blocks == ("b0", "b1", "b3")
    assert without_collapsed(cells, "ACC", 0.01)[1] == ("0 of 15 cells are left out of the cells 'ACC >= 0.01'",)


def test_a_run_printed_twice_is_said(make_study: Callable[..., pd.DataFrame]) -> None:
    frame = make_study()
    frame.loc[4, ["ACC", "MIUB", "CE"]] = frame.loc[1, ["ACC", "MIUB", "CE"]]
    frame.loc[9, ["ACC", "MIUB", "CE"]] = frame.loc[1, ["ACC", "MIUB", "CE"]]  # of another block: no repeat
    cells, _, notes = read(frame)
    assert len(cells.accuracy) == 20
    assert notes == (
        "all values used are equal in 'b0' at s1, s4: if that is one run given twice, drop one; here all count",
    )


def test_names_in_a_sentence() -> None:
    assert named(["a"]) == "'a'"
    assert named(["a", "b", "c", "d", "e"]) == "'a', 'b', 'c' and 2 more"
    assert named(["a", "b"], quote=False) == "a, b"


def changed(frame: pd.DataFrame, column: str, value: Any, rows: Any = 2) -> pd.DataFrame:
    frame = frame.astype({column: object})
    frame.loc[rows, column] = value
    return frame


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda f: f.drop(columns="CE"), "the table has no column 'CE'; it has 'block', 'setting', 'ACC', 'MIUB'"),
        (lambda f: f.drop(columns="block"), "the table has no column 'block'"),
        (lambda f: changed(f, "CE", "0.5"), "column 'CE' holds '0.5' in row 2, where a number belongs"),
        (lambda f: changed(f, "MIUB", 0.0), "column 'MIUB' is 0 in row 2; it must be above zero"),
        (lambda f: changed(f, "MIUB", np.inf), "column 'MIUB' is inf in row 2; numbers must be finite"),
        (
            lambda f: changed(f, "ACC", 85.1),
            "accuracy 'ACC' is 85.1 in row 2; it is a share from 0 to 1: divide percents",
        ),
        (lambda f: changed(f, "ACC", -0.1), "accuracy 'ACC' is -0.1 in row 2"),
        (
            lambda f: changed(f, "setting", "s3"),
            "block 'b0' has setting 's3' twice; average repeated runs, or let `setting`",
        ),
        (
            lambda f: f.iloc[:5],
            "1 block with two cells or more; metrics are compared within blocks, and how sure that is",
        ),
        (lambda f: f[f["setting"] == "s1"], "0 blocks with two cells or more"),
        (lambda f: f.iloc[[0, 1, 5, 6]], "4 cells in 2 blocks count as 3, cells less blocks plus 1; the tests need 4"),
        (
            lambda f: changed(f, "CE", 0.5, slice(None)),
            "'CE' is the same in all cells of each block; there is nothing to",
        ),
        (lambda f: f.assign(ACC=f["block"].map({f"b{k}": k / 10 for k in range(4)})), "'accuracy' is the same in all"),
        (lambda f: f.iloc[:0], "the table has no rows"),
    ],
)
def test_tables_that_cannot_be_compared(
    make_study: Callable[..., pd.DataFrame], change: Callable[[pd.DataFrame], pd.DataFrame], words: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        read(change(make_study()))


def test_too_little_is_left_without_collapsed_cells(make_study: Callable[..., pd.DataFrame]) -> None:
    cells = read(make_study())[0]
    with pytest.raises(ValueError, match=re.escape("0 blocks of the cells 'ACC >= 0.99' with two cells or more")):
        without_collapsed(cells, "ACC", 0.99)


def test_no_blocks_named(make_study: Callable[..., pd.DataFrame]) -> None:
    with pytest.raises(ValueError, match="`blocks` is empty; name the columns whose values say which cells may be"):
        read_cells(make_study(), "ACC", METRICS, [], "setting", None)


def test_no_table() -> None:
    with pytest.raises(TypeError, match="`frame` is a dict; give a pandas DataFrame"):
        read({})  # type: ignore[arg-type]
