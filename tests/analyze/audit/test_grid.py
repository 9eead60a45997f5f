import re
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from lorascope.analyze.audit.grid import Grid, known

ROWS = [
    ("X", "ACC", "r8", "a", 0.1),
    ("X", "ACC", "r8", "AVG", 0.2),
    ("X", "ACC", "r8", "b", 0.3),
    ("X", "ACC", "r2", "a", 0.4),
    ("Y", "CE", "r2", "c", 5.0),
]
TABLE = pd.DataFrame(ROWS, columns=["model", "metric", "setting", "dataset", "value"])


def test_labels_keep_their_order_and_cells_their_place(lay: Callable[..., Grid]) -> None:
    grid = lay(TABLE)
    assert (grid.groups, grid.metrics, grid.settings, grid.members) == (
        ("X", "Y"),
        ("ACC", "CE"),
        ("r8", "r2"),
        ("a", "b", "c"),
    )
    assert grid.everyone() == ("a", "b", "c", "AVG")
    whole = grid.everything()
    assert whole.shape == (2, 2, 2, 4)
    assert np.isfinite(whole).sum() == len(ROWS)
    for model, metric, setting, dataset, value in ROWS:
        place = (
            grid.groups.index(model),
            grid.metrics.index(metric),
            grid.settings.index(setting),
            grid.everyone().index(dataset),
        )
        assert whole[place] == value
        assert grid.everything_half()[place] == (0.5 if metric == "CE" else 0.05)
    assert grid.averages[0, 0].tolist()[0] == 0.2


def test_members_expected_of_an_average_are_those_with_values(lay: Callable[..., Grid]) -> None:
    assert lay(TABLE).expected().tolist() == [[[True, True, False], [False] * 3], [[False] * 3, [False, False, True]]]
    assert lay(TABLE, members=["a"]).expected()[0, 0].tolist() == [True, False, False]


def test_a_table_without_averages(lay: Callable[..., Grid]) -> None:
    grid = lay(TABLE, average=None)
    assert grid.average == ""
    assert grid.members == ("a", "AVG", "b", "c")
    assert np.isnan(grid.averages).all()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"average": "mean"},
            "`average` names 'mean'; the table has 'a', 'AVG', 'b', 'c' as its rows; give None if it has no averages",
        ),
        ({"members": ["a", "z"]}, "`members` names 'z'; the table has 'a', 'b', 'c' as its members"),
        ({"members": ["AVG"]}, "`members` names 'AVG'; the table has 'a', 'b', 'c' as its members"),
    ],
)
def test_names_that_the_table_has_not(lay: Callable[..., Grid], options: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        lay(TABLE, **options)


def test_known_names_the_first_unknown() -> None:
    known("option", ["a"], ["a", "b"], "things")
    with pytest.raises(ValueError, match=re.escape("`option` names 'x'; the table has 'a', 'b' as its things")):
        known("option", ["a", "x", "y"], ["a", "b"], "things")
