import doctest
import re
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorascope.analyze.audit import monotone
from lorascope.analyze.audit.grid import Grid
from lorascope.analyze.audit.monotone import Direction, monotone_part, step_outcomes
from lorascope.analyze.audit.part import Part
from lorascope.study.paper_tables import paper_table

ORDER = {"rank": ("r32", "r128", "r512"), "size": ("share8", "share4", "share2", "share1")}
DIRECTIONS: dict[str, Direction] = {"ACC": "rises", "MIUB": "falls"}


@pytest.fixture(scope="module")
def part(paper: Grid) -> Part:
    return monotone_part(paper, ORDER, DIRECTIONS)


@pytest.mark.parametrize(
    ("order", "metric", "n_steps", "n_wrong", "n_level", "n_wrong_averages", "n_level_averages"),
    [
        ("rank", "MIUB", 20, 4, 0, 0, 0),
        ("size", "MIUB", 30, 0, 0, 0, 0),
        ("rank", "ACC", 20, 7, 2, 1, 1),
        ("size", "ACC", 30, 9, 1, 1, 0),
    ],
)
def test_steps_of_the_paper(
    part: Part,
    order: str,
    metric: str,
    n_steps: int,
    n_wrong: int,
    n_level: int,
    n_wrong_averages: int,
    n_level_averages: int,
) -> None:
    some = part.table[(part.table["order"] == order) & (part.table["metric"] == metric)]
    members, averages = some[~some["is_average"]], some[some["is_average"]]
    assert len(members) == n_steps
    assert (members["outcome"] == "against").sum() == n_wrong
    assert (members["outcome"] == "level").sum() == n_level
    assert (averages["outcome"] == "against").sum() == n_wrong_averages
    assert (averages["outcome"] == "level").sum() == n_level_averages


def test_steps_of_the_paper_against_pandas(part: Part) -> None:
    wide = paper_table(1).pivot(index=["metric", "model", "dataset"], columns="setting", values="value")
    for order, settings in ORDER.items():
        for metric, direction in DIRECTIONS.items():
            steps = wide.loc[metric][list(settings)].diff(axis=1).drop(columns=settings[0])
            fails = (steps <= 0) if direction == "rises" else (steps >= 0)
            some = part.table[(part.table["order"] == order) & (part.table["metric"] == metric)]
            assert (some["outcome"] != "as claimed").sum() == fails.to_numpy().sum()


def test_where_miub_goes_up_with_rank(part: Part) -> None:
    wrong = part.table[(part.table["metric"] == "MIUB") & (part.table["outcome"] == "against")]
    assert [tuple(row) for row in wrong[["group", "member", "step", "before", "after"]].to_numpy()] == [
        ("Phi3", "ARCE", "r128 to r512", 1566.6, 1567.7),
        ("Phi3", "Win", "r128 to r512", 1530.5, 1531.4),
        ("LLaMA3", "ARCE", "r128 to r512", 3397.5, 3398.8),
        ("LLaMA3", "ARCC", "r128 to r512", 3435.1, 3439.3),
    ]
    assert wrong["printed"].tolist()[0] == "1566.6 to 1567.7"


def test_what_is_said_of_the_paper(part: Part) -> None:
    assert [(one.claim, one.word) for one in part.verdicts] == [
        ("ACC rises at every step of rank", "contradicted"),
        ("MIUB falls at every step of rank", "contradicted"),
        ("ACC rises at every step of size", "contradicted"),
        ("MIUB falls at every step of size", "supported"),
    ]
    assert part.verdicts[1].because == "4 of 20 steps rise; of averages 0 of 4 steps rise"
    assert len(part.findings) == 3
    assert part.findings[0] == (
        "ACC along rank: 7 of 20 steps fall, 2 level; of averages 1 of 4 steps falls, 1 level: Phi3 Hel r32 to r128 "
        "(0.809 to 0.796), Phi3 PIQA r128 to r512 (0.849 to 0.836), Phi3 Win r128 to r512 (0.822 to 0.814), LLaMA3 "
        "ARCE r32 to r128 (0.912 to 0.809) and 3 more"
    )


@given(st.lists(st.integers(-3, 3), min_size=2, max_size=6))
def test_outcomes_turn_with_the_direction(values: list[int]) -> None:
    rises, falls = (step_outcomes(np.array(values, float), one) for one in ("rises", "falls"))
    turn = {"as claimed": "against", "against": "as claimed", "level": "level"}
    assert [turn[one] for one in rises.tolist()] == falls.tolist()
    assert (rises == "level").sum() == sum(a == b for a, b in pairwise(values))


def test_a_missing_end_makes_no_step(make: Callable[..., pd.DataFrame], lay: Callable[..., Grid]) -> None:
    assert step_outcomes(np.array([1.0, np.nan, 2.0, 3.0]), "rises").tolist() == ["", "", "as claimed"]
    table = make(np.arange(4.0)[None, None, :, None])
    part = monotone_part(lay(table[table["setting"] != "s1"]), {"x": ["s0", "s2", "s3"]}, {"m0": "rises"})
    assert part.table["step"].tolist() == ["s0 to s2", "s2 to s3"] * 2
    assert part.findings == ()
    assert part.verdicts[0].word == "supported"


def test_level_steps_cannot_tell(make: Callable[..., pd.DataFrame], lay: Callable[..., Grid]) -> None:
    table = make(np.array([1.0, 2.0, 2.0])[None, None, :, None]).assign(model="")
    part = monotone_part(
        lay(table[table["dataset"] != "AVG"], average=None), {"x": ["s0", "s1", "s2"]}, {"m0": "rises"}
    )
    assert part.verdicts[0].word == "not identified"
    assert part.findings == ("m0 along x: 0 of 2 steps fall, 1 level",)


def test_averages_count_where_there_is_nothing_else(
    make: Callable[..., pd.DataFrame], lay: Callable[..., Grid]
) -> None:
    table = make(np.arange(3.0)[None, None, :, None])
    part = monotone_part(lay(table[table["dataset"] == "AVG"]), {"x": ["s0", "s1", "s2"]}, {"m0": "falls"})
    assert part.verdicts[0].because == "2 of 2 steps rise"


def test_settings_may_be_numbers(make: Callable[..., pd.DataFrame], lay: Callable[..., Grid]) -> None:
    table = make(np.arange(3.0)[None, None, :, None]).replace({"s0": "8", "s1": "16", "s2": "32"})
    assert len(monotone_part(lay(table), {"rank": [8, 16, 32]}, {"m0": "rises"}).table) == 4


def test_a_metric_without_values_along_an_order(make: Callable[..., pd.DataFrame], lay: Callable[..., Grid]) -> None:
    table = make(np.ones((1, 2, 2, 1)))
    only = table[(table["metric"] == "m0") | (table["setting"] == "s0")]
    part = monotone_part(lay(only), {"x": ["s0", "s1"]}, {"m1": "rises"})
    assert len(part.table) == 0
    assert part[1:] == ((), (), ())


@pytest.mark.parametrize(
    ("order", "directions", "words"),
    [
        (ORDER, {}, "`order` is given without `directions`; steps need both"),
        ({}, DIRECTIONS, "`directions` is given without `order`; steps need both"),
        ({"rank": ["r32", "r64"]}, DIRECTIONS, "`order['rank']` names 'r64'; the table has 'r32', 'r128'"),
        ({"rank": ["r32"]}, DIRECTIONS, "`order['rank']` is ['r32']; give two settings or more, each once"),
        (
            {"rank": ["r32", "r32"]},
            DIRECTIONS,
            "`order['rank']` is ['r32', 'r32']; give two settings or more, each once",
        ),
        (ORDER, {"PPL": "falls"}, "`directions` names 'PPL'; the table has 'ACC', 'CE', 'MIUB' as its metrics"),
        (ORDER, {"CE": "sinks"}, "`directions['CE']` is 'sinks'; it is one of ['rises', 'falls']"),
    ],
)
def test_orders_that_cannot_be_checked(
    paper: Grid, order: dict[str, list[str]], directions: dict[str, Direction], words: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        monotone_part(paper, order, directions)


def test_examples_run() -> None:
    assert doctest.testmod(monotone) == (0, 2)
