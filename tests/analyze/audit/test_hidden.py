from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from lorascope.analyze.audit.families import families_of
from lorascope.analyze.audit.grid import Grid
from lorascope.analyze.audit.hidden import HiddenWeights, hidden_weights
from lorascope.analyze.audit.weights import worst_misfit

MOVED = "ARCE CE of share4 moved to share2"


@pytest.fixture(scope="module")
def found(paper: Grid) -> HiddenWeights:
    return hidden_weights(paper)


def test_which_vectors_fit_the_paper(found: HiddenWeights) -> None:
    units = {(row.group, row.metrics, row.weights): row.rounding_units for row in found.weights}
    assert units["Phi3", "CE, MIUB", "free"] == pytest.approx(0.597, abs=5e-4)
    assert units["LLaMA3", "CE, MIUB", "free"] == pytest.approx(36.80, abs=5e-3)
    assert units["LLaMA3", "MIUB", "free"] == pytest.approx(0.151, abs=5e-4)
    assert units["Phi3", "ACC", "equal"] == pytest.approx(0.4)
    assert units["LLaMA3", "ACC", "equal"] == pytest.approx(136.8)
    assert units["Phi3", "ACC, CE, MIUB", "free"] > 10  # accuracies aren't weighted like the rest
    for row in found.weights:
        assert row.fits == (row.rounding_units <= 1 + 1e-6)
        assert row.tells
        assert row.n_averages == 7 * len(row.metrics.split(", "))
        assert row.n_distinct == row.n_averages * (6 if row.group == "LLaMA3" else 7) / 7  # r32 is share1
        assert row.n_members == 5


def test_cases_with_ranges(found: HiddenWeights) -> None:
    assert list(dict.fromkeys((row.group, row.metrics, row.case) for row in found.ranges)) == [
        ("Phi3", "CE, MIUB", "as printed"),
        ("Phi3", "CE", "as printed"),
        ("Phi3", "MIUB", "as printed"),
        ("LLaMA3", "CE, MIUB", MOVED),
        ("LLaMA3", "MIUB", "as printed"),
    ]
    own = {row.member: (row.low, row.high) for row in found.ranges if row.case == MOVED}
    assert own["ARCE"] == pytest.approx((0.0911, 0.0957), abs=5.1e-5)
    assert own["PIQA"] == pytest.approx((0.2735, 0.2739), abs=5.1e-5)


def test_repairs_of_the_paper(found: HiddenWeights) -> None:
    accuracy, entropy = found.repairs
    assert accuracy[:9] == ("LLaMA3", "ACC", "move", "ARCE", "ACC", "share2", "share4", 0.894, 0.901)
    assert entropy[:9] == ("LLaMA3", "CE, MIUB", "move", "ARCE", "CE", "share2", "share4", 13.399, 11.594)
    assert (entropy.source_low, entropy.source_high) == pytest.approx((13.627, 13.661), abs=5.1e-4)


def test_implied_values_of_the_paper(found: HiddenWeights) -> None:
    assert {(row.metrics, row.left_out) for row in found.implied} == {
        ("ACC", "ACC share4, ACC share2"),
        ("CE, MIUB", "CE share4, CE share2"),
    }
    assert len(found.implied) == 2 * 2 * 5
    cells = {(row.metric, row.setting, row.member): row for row in found.implied}
    for metric, printed in (("ACC", 0.894), ("CE", 13.399)):
        row = cells[metric, "share2", "ARCE"]
        assert row.printed == printed
        assert row.printed_under == "share4"
    assert cells["ACC", "share4", "ARCC"].high < 0  # no accuracy of ARC-Challenge would do
    assert [key for key, row in cells.items() if key[0] == "CE" and row.printed_under] == [("CE", "share2", "ARCE")]


def test_a_swap_leaves_nothing_open(make: Callable[..., pd.DataFrame], lay: Callable[..., Grid]) -> None:
    values = np.random.default_rng(1).uniform(0, 100, (1, 1, 8, 3))
    table = make(values, [0.5, 0.3, 0.2])
    cells = table.set_index(["setting", "dataset"])["value"]
    cells["s2", "d0"], cells["s5", "d0"] = cells["s5", "d0"], cells["s2", "d0"]
    found = hidden_weights(lay(cells.reset_index().assign(model="g0", metric="m0")))
    (swap,) = found.repairs
    assert swap[:7] == ("g0", "m0", "swap", "d0", "m0", "s2", "s5")
    assert np.isnan([swap.source_low, swap.source_high]).all()
    assert {row.case for row in found.ranges} == {"d0 m0 of s2 and s5 swapped"}
    for row in found.ranges:
        assert row.low <= {"d0": 0.5, "d1": 0.3, "d2": 0.2}[row.member] <= row.high


def test_a_table_without_averages_has_no_weights(make: Callable[..., pd.DataFrame], lay: Callable[..., Grid]) -> None:
    assert hidden_weights(lay(make(np.ones((1, 1, 3, 2))), average=None)) == ([], [], [], [])


def test_what_cannot_be_implied_is_printed_nowhere(make: Callable[..., pd.DataFrame], lay: Callable[..., Grid]) -> None:
    table = make(np.random.default_rng(2).uniform(0, 100, (1, 1, 8, 3)), [0.7, 0.3, 0.0])
    table.loc[(table["setting"] == "s3") & (table["dataset"] == "AVG"), "value"] += 40
    rows = {row.member: row for row in hidden_weights(lay(table)).implied}
    assert (rows["d2"].low, rows["d2"].high, rows["d2"].printed_under) == (-np.inf, np.inf, "")
    assert rows["d0"].high - rows["d0"].low < 1


def test_a_miss_that_is_none_is_zero(make: Callable[..., pd.DataFrame], lay: Callable[..., Grid]) -> None:
    grid = lay(make(np.array([[[[0.7, 0.8, 0.9], [0.3, 0.3, 0.3]]]]), decimals=1))
    (family,) = families_of(grid, None)
    assert 0 < worst_misfit(family.rows.gaps(), family.weights).units < 1e-15  # what float64 makes of none
    assert [row.rounding_units for row in hidden_weights(grid).weights] == [0.0]
