from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorascope.analyze.audit.averages import averages_part, plain_means
from lorascope.analyze.audit.grid import Grid
from lorascope.study.paper_tables import paper_table

DIFFER = {
    ("Phi3", "CE", "r128"): (0.251, 0.2232),
    ("Phi3", "CE", "r512"): (0.602, 0.4984),
    ("Phi3", "CE", "share8"): (20.110, 21.4880),
    ("Phi3", "CE", "share4"): (12.695, 11.7350),
    ("Phi3", "CE", "share2"): (2.763, 2.9304),
    ("Phi3", "CE", "share1"): (0.035, 0.0446),
    ("Phi3", "MIUB", "r32"): (1564.6, 1571.54),
    ("Phi3", "MIUB", "share2"): (1642.2, 1643.62),
    ("LLaMA3", "ACC", "share4"): (0.550, 0.6868),
    ("LLaMA3", "ACC", "share2"): (0.867, 0.8656),
    ("LLaMA3", "CE", "r32"): (5.803, 8.5630),
    ("LLaMA3", "CE", "share8"): (17.363, 17.0176),
    ("LLaMA3", "MIUB", "r512"): (3334.0, 3360.00),
    ("LLaMA3", "MIUB", "share1"): (3350.2, 3372.86),
}
"""Group, metric, setting -> average printed and plain mean of five, of some of the averages that differ."""


def test_averages_of_the_paper(paper: Grid) -> None:
    part = averages_part(paper)
    table = part.table.set_index(["group", "metric", "setting"])
    wrong = table[~table["within_rounding"]]
    assert len(table) == 42
    assert len(wrong) == (~table["within_own_rounding"]).sum() == 29
    assert set(wrong.index.droplevel("setting").value_counts().items()) == {
        (("Phi3", "CE"), 6),
        (("Phi3", "MIUB"), 7),
        (("LLaMA3", "ACC"), 2),
        (("LLaMA3", "CE"), 7),
        (("LLaMA3", "MIUB"), 7),
    }
    for place, (printed, mean) in DIFFER.items():
        assert not table.loc[place, "within_rounding"]
        assert table.loc[place, "printed"] == printed
        assert table.loc[place, "plain_mean"] == pytest.approx(mean, abs=1e-9)
    assert table.loc[("Phi3", "CE", "r32"), "within_rounding"]
    assert part.verdicts[0].word == "contradicted"
    assert part.findings == (
        "AVG isn't the plain mean of its members: 29 of 42 differ by more than rounding of average and members allows "
        "(ACC 2 of 14, CE 13 of 14, MIUB 14 of 14), 29 by more than rounding of the average alone does",
    )


def test_averages_of_the_paper_against_pandas(paper: Grid) -> None:
    table = paper_table(1)
    members = table[table["dataset"] != "AVG"].groupby(["model", "metric", "setting"])["value"]
    printed = table[table["dataset"] == "AVG"].set_index(["model", "metric", "setting"])["value"]
    unit = printed.index.get_level_values("metric").map({"ACC": 0.001, "CE": 0.001, "MIUB": 0.1})
    units = (printed - members.mean().loc[printed.index]).abs() / unit
    found = averages_part(paper).table.set_index(["group", "metric", "setting"])
    np.testing.assert_allclose(found.loc[printed.index, "rounding_units"], units, atol=1e-9)
    assert (units > 1).sum() == (units > 0.5 + 1e-9).sum() == 29


@pytest.mark.parametrize(("printed", "units", "own_units"), [(0.30, 0, 0), (0.31, 1, 2), (0.29, 1, 2), (0.32, 2, 4)])
def test_one_unit_is_within_rounding(lay: Callable[..., Grid], printed: float, units: float, own_units: float) -> None:
    rows = [("a", 0.15), ("b", 0.45), ("AVG", printed)]
    table = pd.DataFrame(rows, columns=["dataset", "value"]).assign(model="", metric="ACC", setting="x")
    other = table.assign(setting="y", value=[0.11, 0.11, 0.11])  # shows that averages have two decimals
    found = plain_means(lay(pd.concat([table, other], ignore_index=True)))
    assert found.units[0, 0, 0] == pytest.approx(units, abs=1e-12)
    assert found.own_units[0, 0, 0] == pytest.approx(own_units, abs=1e-12)
    row = averages_part(lay(pd.concat([table, other], ignore_index=True))).table.iloc[0]
    assert (row.within_rounding, row.within_own_rounding) == (units <= 1, own_units <= 1)


@pytest.mark.parametrize(("printed", "units"), [(4.95, 0.90), (5.0, 1.0), (5.06, 1.12)])
def test_coarse_members_allow_more(lay: Callable[..., Grid], printed: float, units: float) -> None:
    table = pd.DataFrame([("a", 4.0), ("b", 5.0), ("AVG", printed)], columns=["dataset", "value"])
    both = pd.concat([table.assign(setting="x"), table.assign(setting="y", value=[1.0, 1.0, 1.25])], ignore_index=True)
    found = plain_means(lay(both.assign(model="", metric="ACC")))  # half a unit of members, 0.005 of averages
    assert found.units[0, 0, 0] == pytest.approx((printed - 4.5) / 0.505)
    assert found.units[0, 0, 0] == pytest.approx(units, abs=0.02)


@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(0, 4))
def test_rounded_means_are_never_wrong(
    make: Callable[..., pd.DataFrame], lay: Callable[..., Grid], seed: int, n_members: int, decimals: int
) -> None:
    values = np.random.default_rng(seed).normal(size=(2, 2, 3, n_members)) * 10
    part = averages_part(lay(make(values, decimals=decimals)))
    assert part.table["within_rounding"].all()
    assert part.verdicts[0].word == "supported"
    assert part.findings == part.notes == ()


def test_an_average_without_all_its_members_is_left_alone(
    make: Callable[..., pd.DataFrame], lay: Callable[..., Grid]
) -> None:
    table = make(np.random.default_rng(0).uniform(size=(1, 2, 3, 3)))
    gone = (table["dataset"] == "d1") & (table["setting"] == "s1") & (table["metric"] == "m0")
    part = averages_part(lay(table[~gone]))
    assert len(part.table) == 5
    assert part.notes == ("1 of 6 averages lack a member and aren't recomputed",)
    never = table[(table["dataset"] != "d1") | (table["metric"] != "m0")]  # m0 isn't measured on d1 at all
    assert averages_part(lay(never)).table["n_members"].tolist() == [2, 2, 2, 3, 3, 3]


def test_members_that_the_average_is_over(make: Callable[..., pd.DataFrame], lay: Callable[..., Grid]) -> None:
    table = make(np.random.default_rng(0).uniform(size=(1, 1, 4, 3)), [0.5, 0.5, 0])
    assert (~averages_part(lay(table)).table["within_rounding"]).any()
    part = averages_part(lay(table, members=["d0", "d1"]))
    assert part.table["within_rounding"].all()
    assert part.table["n_members"].tolist() == [2] * 4


def test_without_averages_nothing_is_said(make: Callable[..., pd.DataFrame], lay: Callable[..., Grid]) -> None:
    table = make(np.ones((1, 1, 2, 2)))
    part = averages_part(lay(table[table["dataset"] != "AVG"], average=None))
    assert len(part.table) == 0
    assert part[1:] == ((), (), ())
