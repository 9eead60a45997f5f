import math
import re
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from lorascope.analyze.audit.ceilings import Ceiling, ceilings_part
from lorascope.analyze.audit.grid import Grid
from lorascope.analyze.audit.paper import CEILINGS
from lorascope.study.paper_tables import paper_table


def test_cells_of_the_paper(paper: Grid) -> None:
    part = ceilings_part(paper, CEILINGS)
    counts = {(row.metric, row.group): (row.n_above, row.n_cells) for row in part.table.itertuples()}
    assert counts == {
        ("CE", "Phi3"): (8, 35),
        ("CE", "LLaMA3"): (19, 35),
        ("MIUB", "Phi3"): (35, 35),
        ("MIUB", "LLaMA3"): (35, 35),
    }
    limits = part.table.set_index(["metric", "group"])["ceiling"]
    expected = [10.38, 11.76, 88.7, 155.3]
    np.testing.assert_allclose(limits, expected, atol=0.051)
    table = paper_table(1)
    for (metric, group), limit in limits.items():
        cells = table[(table["metric"] == metric) & (table["model"] == group) & (table["dataset"] != "AVG")]["value"]
        assert (cells > limit).sum() == counts[metric, group][0]


def test_what_is_said_of_the_paper(paper: Grid) -> None:
    part = ceilings_part(paper, CEILINGS)
    assert [one.word for one in part.verdicts] == ["contradicted"] * 2
    assert part.verdicts[0].because == (
        "above it 8 of 35 cells of Phi3 (ceiling 10.38, largest 24.66), 19 of 35 cells of LLaMA3 (ceiling 11.76, "
        "largest 28.50)"
    )
    assert part.findings[1].startswith(
        "MIUB has a ceiling, and above it 35 of 35 cells of Phi3 (ceiling 88.72, largest 1913)"
    )
    assert part.findings[1].endswith(CEILINGS["MIUB"].because)


@pytest.mark.parametrize(("limit", "n_above"), [(0.994, 1), (0.9951, 0), (1.0, 0), (0.89, 2), (-1.0, 4)])
def test_only_what_is_above_however_it_was_rounded(
    make: Callable[..., pd.DataFrame], lay: Callable[..., Grid], limit: float, n_above: int
) -> None:
    grid = lay(make(np.array([[[[1.0, 0.9], [0.11, 0.12]]]])).assign(model=""))
    part = ceilings_part(grid, {"m0": Ceiling(value=limit, because="a share")})
    (row,) = part.table.itertuples()
    assert (row.n_above, row.n_cells, row.largest) == (n_above, 4, 1.0)
    assert len(part.findings) == (n_above > 0)
    assert part.verdicts[0].word == ("contradicted" if n_above else "supported")
    assert part.verdicts[0].because.startswith(f"above it {n_above} of 4 cells (ceiling ")


def test_the_reading_of_a_metric_stands_in_the_verdict(paper: Grid) -> None:
    taken = Ceiling(value=30, because="", reading="a mean loss a token")
    assert ceilings_part(paper, {"CE": taken}).verdicts[0].claim == (
        "CE, if it is a mean loss a token, stays within its ceiling"
    )
    plain = replace(taken, reading="")
    assert ceilings_part(paper, {"CE": plain}).verdicts[0].claim == "CE stays within its ceiling"


def test_groups_without_a_ceiling(paper: Grid) -> None:
    part = ceilings_part(paper, {"CE": Ceiling(value={"Phi3": 30}, because="")})
    assert part.table["group"].tolist() == ["Phi3"]
    nothing = ceilings_part(paper, {"CE": Ceiling(value={}, because="")})
    assert len(nothing.table) == 0
    assert nothing[1:] == ((), (), ())


def test_averages_count_where_there_is_nothing_else(
    make: Callable[..., pd.DataFrame], lay: Callable[..., Grid]
) -> None:
    table = make(np.full((1, 1, 2, 2), 3.0))
    only = table[table["dataset"] == "AVG"]
    (row,) = ceilings_part(lay(only), {"m0": Ceiling(value=1, because="")}).table.itertuples()
    assert (row.n_above, row.n_cells) == (2, 2)


@pytest.mark.parametrize(
    ("ceilings", "words"),
    [
        (
            {"PPL": Ceiling(value=1, because="")},
            "`ceilings` names 'PPL'; the table has 'ACC', 'CE', 'MIUB' as its metrics",
        ),
        (
            {"CE": Ceiling(value={"Phi4": 1}, because="")},
            "`ceilings['CE']` names 'Phi4'; the table has 'Phi3', 'LLaMA3' as its groups",
        ),
    ],
)
def test_ceilings_of_what_is_not_there(paper: Grid, ceilings: dict[str, Ceiling], words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        ceilings_part(paper, ceilings)


@pytest.mark.parametrize("value", [math.nan, math.inf, {"Phi3": math.inf}])
def test_ceilings_are_finite(value: float | dict[str, float]) -> None:
    with pytest.raises(
        ValueError, match="a ceiling is (nan|inf); give a finite number, and none to a group without ceiling"
    ):
        Ceiling(value=value, because="")
