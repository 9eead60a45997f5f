import re
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from lorascope.analyze.audit.families import Family, families_of, left_out_sets, unplain
from lorascope.analyze.audit.grid import Grid

Plan = tuple[str, bool, bool]


def plans(grid: Grid, families: list[Family], group: int = 0) -> list[Plan]:
    return [(one.names(grid), one.equal, one.searched) for one in families if one.group == group]


def test_what_is_asked_of_the_paper(paper: Grid) -> None:
    assert unplain(paper) == ("CE", "MIUB")
    found = families_of(paper, None)
    for group in (0, 1):
        assert plans(paper, found, group) == [
            ("ACC", True, True),
            ("CE", True, False),
            ("MIUB", True, False),
            ("CE, MIUB", False, True),
            ("CE", False, False),
            ("MIUB", False, False),
            ("ACC, CE, MIUB", False, False),
        ]
    joint = found[3]
    assert joint.places == [(m, s) for m in (1, 2) for s in range(7)]
    assert joint.weights is None
    np.testing.assert_allclose(joint.rows.allowed, [0.001] * 7 + [0.1] * 7)
    np.testing.assert_array_equal(joint.rows.values[9], paper.values[0, 2, 2])
    np.testing.assert_array_equal(found[0].weights, [0.2] * 5)


@pytest.mark.parametrize(
    ("weighted", "expected"),
    [
        ([], [("m0", True, True), ("m1", True, True)]),
        ([["m1"]], [("m0", True, True), ("m1", True, False), ("m1", False, True), ("m0, m1", False, False)]),
        (
            [["m0"], ["m1"]],
            [
                ("m0", True, False),
                ("m1", True, False),
                ("m0", False, True),
                ("m1", False, True),
                ("m0, m1", False, False),
            ],
        ),
        (
            [["m0", "m1"]],
            [
                ("m0", True, False),
                ("m1", True, False),
                ("m0, m1", False, True),
                ("m0", False, False),
                ("m1", False, False),
            ],
        ),
    ],
)
def test_what_can_be_asked(
    make: Callable[..., pd.DataFrame], lay: Callable[..., Grid], weighted: list[list[str]], expected: list[Plan]
) -> None:
    grid = lay(make(np.random.default_rng(0).uniform(size=(1, 2, 4, 2))))
    assert plans(grid, families_of(grid, weighted)) == expected


def test_plain_means_are_not_asked_for_weights(make: Callable[..., pd.DataFrame], lay: Callable[..., Grid]) -> None:
    grid = lay(make(np.random.default_rng(0).uniform(size=(1, 2, 4, 2))))
    assert unplain(grid) == ()
    assert plans(grid, families_of(grid, None)) == [("m0", True, True), ("m1", True, True)]


def test_only_whole_averages_are_asked(make: Callable[..., pd.DataFrame], lay: Callable[..., Grid]) -> None:
    table = make(np.random.default_rng(0).uniform(size=(2, 2, 4, 3)))
    gone = (table["metric"] == "m0") & (table["dataset"] == "d2")
    gone |= (table["setting"] == "s1") & (table["dataset"] == "d0") & (table["model"] == "g0")
    gone |= (table["model"] == "g1") & (table["dataset"] == "AVG")
    found = families_of(lay(table[~gone]), [["m0", "m1"]])
    both = next(one for one in found if len(one.metrics) == 2)
    assert both.members == (0, 1, 2)
    assert both.places == [(1, 0), (1, 2), (1, 3)]  # m0 has no d2, s1 no d0
    assert next(one for one in found if one.equal).members == (0, 1)
    assert {one.group for one in found} == {0}


def test_averages_that_contradict_the_others(paper: Grid) -> None:
    found = families_of(paper, None)
    assert left_out_sets(found[0]) == left_out_sets(found[3]) == []
    assert left_out_sets(found[7]) == left_out_sets(found[10]) == [(4, 5)]
    assert left_out_sets(found[8]) == []  # no average of CE is a plain mean: then none is odd


@pytest.mark.parametrize(
    ("weighted", "words"),
    [
        (["CE", "MIUB"], "`weighted` holds 'CE'; give a sequence of metrics for each vector, such as [('CE',)]"),
        ([["CE", "PPL"]], "`weighted` names 'PPL'; the table has 'ACC', 'CE', 'MIUB' as its metrics"),
        ([[]], "`weighted` holds an empty sequence; give the metrics that share one vector of weights"),
    ],
)
def test_weights_that_cannot_be_asked_for(paper: Grid, weighted: list[list[str]], words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        families_of(paper, weighted)
