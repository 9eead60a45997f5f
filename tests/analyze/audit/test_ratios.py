import doctest
import math
import re
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorascope.analyze.audit import ratios
from lorascope.analyze.audit.grid import Grid
from lorascope.analyze.audit.part import Part
from lorascope.analyze.audit.ratios import PLAIN_MEAN, RatioClaim, ratio_range, ratios_part
from lorascope.study.paper_tables import paper_table

TIMES = RatioClaim(words="571 times", value=571, metric="CE", of="share8", over="share1", member="AVG", group="Phi3")
LESS = RatioClaim(
    words="decreasing by 17 %",
    value=0.17,
    metric="MIUB",
    of="share1",
    over="share8",
    member="AVG",
    group="Phi3",
    kind="decrease",
)


@pytest.fixture(scope="module")
def part(paper: Grid) -> Part:
    return ratios_part(paper, [TIMES, LESS])


@pytest.mark.parametrize(
    ("claim", "group", "member", "value", "low", "high", "possible"),
    [
        ("571 times", "Phi3", "AVG", 574.6, 566.5, 582.9, True),
        ("571 times", "Phi3", "PIQA", 263.3, 261.3, 265.4, False),
        ("571 times", "Phi3", "Win", 5867.5, 5215.4, 6705.9, False),
        ("571 times", "Phi3", PLAIN_MEAN, 481.8, 476.4, 487.3, False),
        ("571 times", "LLaMA3", "AVG", 2.992, 2.992, 2.992, False),
        ("decreasing by 17 %", "Phi3", "AVG", 0.16648, 0.16643, 0.16653, True),
        ("decreasing by 17 %", "Phi3", PLAIN_MEAN, 0.16491, 0.16486, 0.16496, False),
        ("decreasing by 17 %", "LLaMA3", "AVG", 0.10716, 0.10714, 0.10719, False),
    ],
)
def test_ratios_of_the_paper(
    part: Part, claim: str, group: str, member: str, value: float, low: float, high: float, possible: bool
) -> None:
    table = part.table.set_index(["claim", "group", "member"])
    row = table.loc[(claim, group, member)]
    tolerance = 0.051 if value > 100 else 5.1e-4 if value > 1 else 5.1e-6
    np.testing.assert_allclose([row["value"], row["low"], row["high"]], [value, low, high], atol=tolerance)
    assert row["possible"] == possible
    assert row["stated"] == ((group, member) == ("Phi3", "AVG"))


def test_ratios_of_the_paper_against_pandas(part: Part) -> None:
    wide = paper_table(1).pivot(index=["model", "dataset"], columns=["metric", "setting"], values="value")
    found = part.table[part.table["member"] != PLAIN_MEAN].set_index(["claim", "group", "member"])["value"]
    times = wide["CE", "share8"] / wide["CE", "share1"]
    less = 1 - wide["MIUB", "share1"] / wide["MIUB", "share8"]
    for claim, expected in (("571 times", times), ("decreasing by 17 %", less)):
        np.testing.assert_allclose(found[claim].loc[expected.index.tolist()], expected, rtol=1e-12)
    single = times["Phi3"].drop("AVG")
    assert (single.idxmin(), single.idxmax(), round(single.min()), round(single.max())) == ("PIQA", "Win", 263, 5868)


def test_what_is_said_of_the_paper(part: Part) -> None:
    assert [(one.word, one.claim) for one in part.verdicts] == [
        ("supported", "CE of share8 over share1, AVG of Phi3, can be 571 within rounding"),
        ("supported", "MIUB of share1, AVG of Phi3, can be 17 % below that of share8 within rounding"),
    ]
    assert [one.because.split("; ")[1] for one in part.verdicts] == [
        "570.5 to 571.5 counts as 571",
        "0.165 to 0.175 counts as 17 %",
    ]
    assert part.findings == (
        "'571 times' holds of AVG as printed, not of the plain mean: Phi3 AVG CE gives 20.110/0.035 = 574.6, 566.5 to "
        "582.9 by rounding; elsewhere 263.3 (PIQA) to 5868 (Win), plain mean 481.8, LLaMA3 AVG 2.992",
        "'decreasing by 17 %' holds of AVG as printed, not of the plain mean: Phi3 AVG MIUB gives 1 - 1579.1/1894.5 = "
        "0.1665, 0.1664 to 0.1665 by rounding; elsewhere 0.1498 (PIQA) to 0.1819 (Hel), plain mean 0.1649, LLaMA3 AVG "
        "0.1072",
    )


@pytest.mark.parametrize(
    ("claim", "word"),
    [
        (replace(TIMES, value=566), "supported"),
        (replace(TIMES, value=565), "contradicted"),
        (replace(TIMES, value=600), "contradicted"),
        (replace(TIMES, value=600, decimals=-2), "supported"),  # 550 to 650
        (replace(TIMES, value=574.571, decimals=3), "supported"),
        (replace(LESS, value=0.16), "contradicted"),
        (replace(LESS, value=-0.17, kind="increase"), "supported"),
        (replace(LESS, value=0.83, kind="ratio"), "supported"),
    ],
)
def test_other_claims_of_the_paper(paper: Grid, claim: RatioClaim, word: str) -> None:
    assert ratios_part(paper, [claim]).verdicts[0].word == word


def test_claims_are_written_as_they_are_stated() -> None:
    more = replace(LESS, value=0.2, kind="increase", group="")
    assert more.sentence() == "MIUB of share1, AVG, can be 20 % above that of share8 within rounding"
    assert more.counted() == "0.15 to 0.25 counts as 20 %"
    assert replace(LESS, value=0.165).counted() == "0.1645 to 0.1655 counts as 16.5 %"
    assert replace(TIMES, value=600, decimals=-2).counted() == "550 to 650 counts as 600"
    assert replace(TIMES, value=2.5).counted() == "2.45 to 2.55 counts as 2.5"


def test_a_wrong_claim_is_a_finding(paper: Grid) -> None:
    (sentence,) = ratios_part(paper, [replace(TIMES, value=5, member="Win", words="five times")]).findings
    assert sentence.startswith(
        "'five times' isn't what the table has: Phi3 Win CE gives 23.470/0.004 = 5868, 5215 to 6706"
    )


@given(st.integers(1, 10**6), st.integers(1, 10**6), st.integers(0, 4))
def test_ranges_hold_what_may_stand_behind(top: int, bottom: int, decimals: int) -> None:
    unit = Fraction(1, 10**decimals)
    low, high = ratio_range(float(top * unit), float(unit / 2), float(bottom * unit), float(unit / 2))
    ends = [(top + Fraction(a, 2)) / (bottom + Fraction(b, 2)) for a in (-1, 1) for b in (-1, 1)]
    assert (low, high) == pytest.approx((float(min(ends)), float(max(ends))), rel=1e-9)


@pytest.mark.parametrize(
    ("numbers", "ends"),
    [
        ((1.0, 0.5, 0.0, 0.5), (-math.inf, math.inf)),
        ((1.0, 0.5, 0.4, 0.5), (-math.inf, math.inf)),
        ((1.0, 0.5, 0.5, 0.5), (-math.inf, math.inf)),
        ((-6.0, 0.5, 2.0, 0.5), (-6.5 / 1.5, -5.5 / 2.5)),
        ((6.0, 0.5, -2.0, 0.5), (-6.5 / 1.5, -5.5 / 2.5)),
        ((0.0, 0.5, 2.0, 0.5), (-0.5 / 1.5, 0.5 / 1.5)),
    ],
)
def test_ranges_at_zero_and_below(numbers: tuple[float, float, float, float], ends: tuple[float, float]) -> None:
    assert ratio_range(*numbers) == pytest.approx(ends)


def test_what_rounds_to_zero_identifies_no_ratio(make: Callable[..., pd.DataFrame], lay: Callable[..., Grid]) -> None:
    table = make(np.array([[[[5.0], [0.01]]]])).assign(model="")
    claim = RatioClaim(words="500 times", value=500, metric="m0", of="s0", over="s1", member="d0")
    rounded = lay(table)
    assert ratios_part(rounded, [claim]).verdicts[0].word == "supported"
    coarse = replace(rounded, half=np.full_like(rounded.half, 0.05))
    part = ratios_part(coarse, [claim])
    assert part.verdicts[0].word == "not identified"
    assert part.findings == ()


def test_right_claims_of_plain_means_make_no_finding(
    make: Callable[..., pd.DataFrame], lay: Callable[..., Grid]
) -> None:
    grid = lay(make(np.array([[[[80.0, 40.0], [20.0, 10.0]]]])))
    claim = RatioClaim(words="fourfold", value=4, metric="m0", of="s0", over="s1", member="AVG", group="g0")
    part = ratios_part(grid, [claim])
    assert part.findings == ()
    assert part.table["value"].tolist() == [4.0] * 4
    assert part.table["member"].tolist() == ["d0", "d1", "AVG", PLAIN_MEAN]


def test_other_zeros_are_left_out(make: Callable[..., pd.DataFrame], lay: Callable[..., Grid]) -> None:
    grid = lay(make(np.array([[[[80.0, 40.0], [20.0, 0.0]]]])))
    claim = RatioClaim(words="fourfold", value=4, metric="m0", of="s0", over="s1", member="d0", group="g0")
    assert ratios_part(grid, [claim]).table["member"].tolist() == ["d0", "AVG", PLAIN_MEAN]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"metric": "PPL"}, "`claims` names 'PPL'; the table has 'ACC', 'CE', 'MIUB' as its metrics"),
        ({"of": "share3"}, "`claims` names 'share3'; the table has"),
        ({"over": "share3"}, "`claims` names 'share3'; the table has"),
        ({"group": ""}, "`claims` names ''; the table has 'Phi3', 'LLaMA3' as its groups"),
        (
            {"member": "BoolQ"},
            "`claims` names 'BoolQ'; the table has 'ARCE', 'ARCC', 'Hel', 'PIQA', 'Win', 'AVG' as its members",
        ),
    ],
)
def test_claims_about_what_is_not_there(paper: Grid, change: dict[str, str], words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        ratios_part(paper, [replace(TIMES, **change)])


def test_claims_about_cells_without_a_number(make: Callable[..., pd.DataFrame], lay: Callable[..., Grid]) -> None:
    claim = RatioClaim(words="twice", value=2, metric="m0", of="s0", over="s1", member="d0", group="g0")
    table = make(np.array([[[[2.0, 3.0], [1.0, 5.0]]]]))
    gone = table[(table["dataset"] != "d0") | (table["setting"] != "s0")]
    with pytest.raises(ValueError, match="the table has no g0 d0 m0 under s0, which the claim 'twice' is about"):
        ratios_part(lay(gone), [claim])
    words = "g0 d0 m0 under s1 is printed as 0; the claim 'twice', a ratio to it, can't be checked"
    with pytest.raises(ValueError, match=words):
        ratios_part(lay(make(np.array([[[[2.0, 3.0], [0.0, 5.0]]]]))), [claim])
    assert len(ratios_part(lay(make(np.array([[[[0.0, 3.0], [2.0, 5.0]]]]))), [claim]).table) == 4


def test_claims_that_are_none() -> None:
    with pytest.raises(
        ValueError, match=re.escape("`kind` is 'factor'; it is one of ['ratio', 'increase', 'decrease']")
    ):
        replace(TIMES, kind="factor")
    with pytest.raises(ValueError, match="`value` is nan; give the claimed number"):
        replace(TIMES, value=math.nan)


def test_no_claims_no_rows(paper: Grid) -> None:
    assert len(ratios_part(paper, []).table) == 0


def test_examples_run() -> None:
    assert doctest.testmod(ratios) == (0, 1)
