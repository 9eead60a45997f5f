import re

import numpy as np
import pandas as pd
import pytest

from lorascope.analyze.trends.series import blocks_of, count_steps
from lorascope.analyze.trends.words import Steps

ROWS = pd.DataFrame(
    {
        "model": ["b", "b", "b", "b", "a", "a", "c"],
        "size": [4.0, 1.0, 2.0, 2.0, 1.0, 2.5, 3.0],
        "loss": [5.0, 3.0, 1.0, 2.0, 7.0, 7.0, 0.0],
    }
)


def test_blocks_in_the_order_of_their_first_rows() -> None:
    (first, second), short = blocks_of(ROWS, "loss", "size", ["model"])
    assert (first.block, second.block, short) == ("b", "a", ["c"])
    np.testing.assert_array_equal(first.x, [4, 1, 2, 2])
    np.testing.assert_array_equal(first.y, [5, 3, 1, 2])
    np.testing.assert_array_equal(first.levels, [1, 2, 4])
    np.testing.assert_array_equal(first.means, [3, 1.5, 5])


def test_equal_sums_stay_ties_whatever_the_order_of_cells() -> None:
    rows = pd.DataFrame({"size": [1.0] * 3 + [2.0] * 3, "loss": [0.1, 0.2, 0.3, 0.3, 0.2, 0.1]})
    (one,), _ = blocks_of(rows, "loss", "size", [])
    assert one.means[0] == one.means[1]


def test_steps_that_do_not_go_as_claimed() -> None:
    series, _ = blocks_of(ROWS, "loss", "size", ["model"])
    counts, table = count_steps(series, increasing=False)
    assert counts == Steps(n=3, n_against=1, n_equal=1, n_blocks=2, n_blocks_against=1)
    assert table.to_dict(orient="list") == {
        "block": ["b", "a"],
        "lower": [2, 1],
        "upper": [4, 2.5],
        "at_lower": [1.5, 7.0],
        "at_upper": [5.0, 7.0],
        "step": ["rises", "equal"],
    }
    counts, table = count_steps(series, increasing=True)
    assert counts == Steps(n=3, n_against=1, n_equal=1, n_blocks=2, n_blocks_against=1)
    assert list(table["step"]) == ["falls", "equal"]


def test_no_step_goes_against() -> None:
    series, _ = blocks_of(ROWS[1:3], "loss", "size", ["model"])
    counts, table = count_steps(series, increasing=False)
    assert counts == Steps(n=1, n_against=0, n_equal=0, n_blocks=1, n_blocks_against=0)
    assert list(table.columns) == ["block", "lower", "upper", "at_lower", "at_upper", "step"]
    assert table.empty


def test_one_level() -> None:
    with pytest.raises(ValueError, match="column 'size' is 32 in every row; a trend needs two levels"):
        blocks_of(ROWS.assign(size=32.0), "loss", "size", ["model"])


def test_no_block_has_two_levels() -> None:
    words = (
        "none of the 6 blocks of ['model', 'size'] has two levels of 'loss'; a trend needs two in one block: name "
        "fewer columns in `blocks`, or add rows"
    )
    with pytest.raises(ValueError, match=re.escape(words)):
        blocks_of(ROWS.drop(index=3), "size", "loss", ["model", "size"])
