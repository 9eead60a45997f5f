import re
from collections.abc import Mapping

import numpy as np
import pandas as pd
import pytest

from lorascope.analyze.audit.decimals import decimals_of

CELLS = pd.DataFrame(
    [
        ("ACC", "a", 0.86),
        ("ACC", "b", 0.861),
        ("ACC", "AVG", 0.9),
        ("CE", "a", 3.0),
        ("CE", "b", 2.5),
        ("CE", "AVG", 2.75),
    ],
    columns=["metric", "member", "value"],
    index=list("pqrstu"),
)
PRINTED = CELLS.assign(printed=["0.860", "0.861", "0.90", "3.00", "2.5", "2.75"])


@pytest.mark.parametrize(
    ("cells", "average", "decimals", "expected"),
    [
        (CELLS, "AVG", None, [3, 3, 1, 1, 1, 2]),
        (CELLS, None, None, [3, 3, 3, 2, 2, 2]),
        (CELLS, "AVG", 4, [4] * 6),
        (CELLS, "AVG", {"CE": 3}, [3, 3, 1, 3, 3, 3]),
        (PRINTED, "AVG", None, [3, 3, 2, 2, 1, 2]),
        (PRINTED, "AVG", {"ACC": np.int64(5)}, [5, 5, 5, 2, 1, 2]),
    ],
)
def test_decimals(
    cells: pd.DataFrame, average: str | None, decimals: int | Mapping[str, int] | None, expected: list[int]
) -> None:
    found = decimals_of(cells, average, decimals)
    assert found.tolist() == expected
    assert found.dtype == np.int64


@pytest.mark.parametrize("decimals", [1.5, "3", True, {"ACC": 2.0}])
def test_decimals_are_whole(decimals: object) -> None:
    number = decimals["ACC"] if isinstance(decimals, dict) else decimals
    words = f"`decimals` is {number!r}; give a whole number, or one for each metric"
    with pytest.raises(TypeError, match=re.escape(words)):
        decimals_of(CELLS, "AVG", decimals)  # type: ignore[arg-type]


def test_decimals_of_an_unknown_metric() -> None:
    with pytest.raises(ValueError, match="`decimals` names 'PPL'; the table has 'ACC', 'CE' as its metrics"):
        decimals_of(CELLS, "AVG", {"PPL": 2})


def test_printed_text_and_value_must_agree() -> None:
    words = "row q is printed as '0.816', but its value is 0.861; correct one of them"
    with pytest.raises(ValueError, match=re.escape(words)):
        decimals_of(PRINTED.replace("0.861", "0.816"), "AVG", None)
    with pytest.raises(ValueError, match="'3779.9.2' isn't a printed number"):
        decimals_of(PRINTED.replace("0.861", "3779.9.2"), "AVG", None)
