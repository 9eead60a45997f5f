import re
from typing import Any

import numpy as np
import pandas as pd
import pytest

from lorascope.analyze.comparison.items import items_of

ROWS = pd.DataFrame({"dataset": ["a", "a", "b"], "model": ["x", "y", "x"], "n": [5.0, 6.0, 7.0]})
BLOCK = pd.Series(["a/x", "a/y", "b/x"])


@pytest.mark.parametrize(
    ("given", "found"),
    [
        (10, [10, 10, 10]),
        (np.int64(10), [10, 10, 10]),
        ("n", [5, 6, 7]),
        ({"a": 3, "b": 4}, [3, 3, 4]),
        ({"a": 3, "b": 4, "a/y": 5}, [3, 5, 4]),
        ({"x": 8, "y": 9}, [8, 9, 8]),
    ],
    ids=str,
)
def test_however_they_are_given(given: Any, found: list[int]) -> None:
    items = items_of(given, ROWS, BLOCK, ("dataset", "model"))
    assert items.dtype == np.float64
    assert items.tolist() == found


@pytest.mark.parametrize("given", [0, -1, 2.5, np.nan, np.inf, True, [5], {"a": 5, "b": "many"}], ids=str)
def test_numbers_of_items_that_are_none(given: Any) -> None:
    value = "many" if isinstance(given, dict) else given
    words = f"`n_items` gives {value!r}; the number of test items is a whole number from 1 on"
    with pytest.raises(ValueError, match=re.escape(words)):
        items_of(given, ROWS, BLOCK, ("dataset", "model"))


@pytest.mark.parametrize("given", [2**53 + 1, 10**400, 10**5000, {"a": 5, "b": 10**400}, 1e300], ids=range(5))
def test_more_items_than_can_be_counted(given: Any) -> None:
    words = "`n_items` gives a number above 2^53, 9,007,199,254,740,992; the number of test items ends there"
    with pytest.raises(ValueError, match=re.escape(words)):
        items_of(given, ROWS, BLOCK, ("dataset", "model"))
    assert items_of(2**53, ROWS, BLOCK, ("dataset", "model"))[0] == 2**53


def test_a_block_without_items() -> None:
    with pytest.raises(ValueError, match=re.escape("`n_items` has nothing for block 'b/x'; it has ['a']")):
        items_of({"a": 5}, ROWS, BLOCK, ("dataset", "model"))
