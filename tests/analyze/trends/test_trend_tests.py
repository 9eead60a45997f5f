import doctest
import itertools
import json
import math
import re
from collections import Counter
from fractions import Fraction
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import page_trend_test

from lorascope.analyze.trends import trend_tests as module
from lorascope.analyze.trends.result import TrendResult
from lorascope.analyze.trends.trend_tests import trend_tests
from lorascope.study.paper_tables import paper_study, paper_table

SWEEPS = {"N": ("share8", "share4", "share2", "share1"), "R": ("r32", "r128", "r512")}


def of_paper(along: str, **options: Any) -> TrendResult:
    study = paper_study()
    rows = study[study["sweep"] == {"N": "size", "R": "rank"}[along]]
    return trend_tests(rows, "MIUB", along, blocks=["dataset", "model"], **options)


def printed(along: str) -> np.ndarray:
    """The paper's MIUB (block, level), taken from its table 1 and not from the study."""
    table = paper_table(1)
    wide = table[(table["metric"] == "MIUB") & (table["dataset"] != "AVG")].pivot(
        index=["dataset", "model"], columns="setting", values="value"
    )
    return wide[list(SWEEPS[along])].to_numpy()


def fall_counts(n_blocks: int, k: int, score: Any) -> Counter[int]:
    """How many of all orders of k different values in each block have which summed score, in whole numbers."""
    block = Counter(score(order) for order in itertools.permutations(range(1, k + 1)))
    total = Counter({0: 1})
    for _ in range(n_blocks):
        added: Counter[int] = Counter()
        for (a, n), (b, m) in itertools.product(total.items(), block.items()):
            added[a + b] += n * m
        total = added
    return total


def page_score(order: Any) -> int:
    """Sum of level times rank, ranks counted from the largest."""
    return sum((j + 1) * sum(other >= value for other in order) for j, value in enumerate(order))


def falls(order: Any) -> int:
    """Pairs that fall less pairs that rise."""
    return sum((a > b) - (a < b) for a, b in itertools.combinations(order, 2))


@pytest.mark.parametrize(("along", "k"), [("N", 4), ("R", 3)])
def test_paper_against_counting_in_whole_numbers(along: str, k: int) -> None:
    values, found = printed(along), of_paper(along)
    assert values.shape == (10, k)
    n_orders = math.factorial(k) ** 10
    for score, statistic, test in (
        (page_score, found.page.L, found.page),
        (falls, -found.mann_kendall.S, found.mann_kendall),
    ):
        total = sum(score(row.tolist()) for row in values)
        assert statistic == total
        counts = fall_counts(10, k, score)
        p_value = Fraction(sum(n for value, n in counts.items() if value >= total), n_orders)
        p_opposite = Fraction(sum(n for value, n in counts.items() if value <= total), n_orders)
        assert test.p_value == pytest.approx(float(p_value), rel=1e-12)
        assert test.p_opposite == pytest.approx(float(p_opposite), rel=1e-12)
        assert test.p_floor == pytest.approx(float(Fraction(1, n_orders)), rel=1e-12)
        assert (test.n_blocks, test.n_tied_pairs, test.method) == (10, 0, "exact")


@pytest.mark.parametrize("along", ["N", "R"])
def test_paper_against_scipy(along: str) -> None:
    values = printed(along)
    reference = page_trend_test(-values, method="exact")
    found = of_paper(along).page
    assert reference.statistic == found.L
    assert found.p_value == pytest.approx(reference.pvalue, rel=1e-9)
    assert found.p_normal == pytest.approx(page_trend_test(-values, method="asymptotic").pvalue, rel=1e-9)


def test_paper_falls_with_size_at_every_step() -> None:
    found = of_paper("N")
    assert (found.page.L, found.page.expected, found.mann_kendall.S, found.mann_kendall.tau) == (300, 250, -60, -1)
    assert (found.n_steps, len(found.violations)) == (30, 0)
    assert [one.word for one in found.verdicts] == ["supported", "supported"]
    assert [one.claim for one in found.verdicts] == ["MIUB falls along N in every block", "MIUB falls along N overall"]
    assert set(found.by_block["verdict"]) == {"supported"}
    assert any("blocks differ in their levels of N" in note for note in found.notes)


def test_paper_falls_with_rank_but_for_four_steps() -> None:
    found = of_paper("R")
    assert (found.page.L, found.page.expected, found.mann_kendall.S) == (136, 120, -22)
    assert found.n_steps == 20
    assert found.violations.to_dict(orient="list") == {
        "block": ["ARCE/Phi3", "ARCE/LLaMA3", "ARCC/LLaMA3", "Win/Phi3"],
        "lower": [128] * 4,
        "upper": [512] * 4,
        "at_lower": [1566.6, 3397.5, 3435.1, 1530.5],
        "at_upper": [1567.7, 3398.8, 3439.3, 1531.4],
        "step": ["rises"] * 4,
    }
    every, overall = found.verdicts
    assert (every.word, overall.word) == ("contradicted", "supported")
    assert every.because == "4 of 20 steps between neighbouring levels rise, in 4 of 10 blocks"
    assert set(found.by_block["verdict"]) == {"not identified"}
    assert (found.by_block["p_floor"] == 1 / 6).all()
    assert sorted(set(found.by_block["p_value"].round(12))) == [round(1 / 6, 12), 0.5]
    assert len(found.notes) == 1  # what p assumes, and nothing was left out


def test_the_opposite_claim_is_contradicted() -> None:
    found = of_paper("N", increasing=True)
    assert [one.word for one in found.verdicts] == ["contradicted", "contradicted"]
    assert found.verdicts[0].because == "30 of 30 steps between neighbouring levels fall, in 10 of 10 blocks"
    assert found.page.p_opposite == pytest.approx(24.0**-10, rel=1e-12)
    assert set(found.violations["step"]) == {"falls"}
    assert found.direction == "rises"


def test_one_series_of_three_points_tells_nothing() -> None:
    cells = pd.DataFrame({"R": [32, 128, 512], "loss": [3.0, 2.0, 1.0]})
    found = trend_tests(cells, "loss", "R", blocks=[])
    assert [one.word for one in found.verdicts] == ["supported", "not identified"]
    words = "p can't go below 0.167: no data of this shape, ties included, could tell at 0.05"
    assert words in found.verdicts[1].because
    assert found.by_block["because"].tolist() == [words]
    assert trend_tests(cells, "loss", "R", blocks=[], significance=0.2).verdicts[1].word == "supported"


def study(values: dict[str, dict[int, list[float]]]) -> pd.DataFrame:
    """Rows of blocks: response by level, several a level where there are seeds."""
    rows = [(b, x, y) for b, levels in values.items() for x, some in levels.items() for y in some]
    return pd.DataFrame(rows, columns=["block", "x", "y"])


def test_seeds_are_averaged_for_page_and_kept_for_kendall() -> None:
    cells = study({"a": {1: [3, 5], 2: [2, 3], 3: [1]}, "b": {1: [9], 2: [8], 3: [7, 7, 7]}})
    found = trend_tests(cells, "y", "x", blocks=["block"])
    assert (found.page.L, found.page.n_blocks, found.page.n_levels) == (28, 2, 3)
    assert found.page.p_value == pytest.approx(1 / 36)
    assert (found.mann_kendall.n_cells, found.mann_kendall.n_pairs) == (10, 4 + 4 + 1 + 3 + 3)
    assert (found.mann_kendall.S, found.mann_kendall.n_tied_pairs) == (-14, 1)
    assert found.by_block["cells"].tolist() == [5, 5]
    assert found.by_block["levels"].tolist() == [3, 3]
    assert any(note.startswith("4 cells share block and level with another") for note in found.notes)


def test_blocks_that_lack_levels() -> None:
    cells = study({"a": {1: [3], 2: [2], 3: [1]}, "b": {1: [3], 3: [4]}, "c": {2: [5]}, "d": {1: [9], 2: [8], 3: [7]}})
    found = trend_tests(cells, "y", "x", blocks=["block"])
    assert (found.page.n_blocks, found.page.n_levels) == (2, 3)
    assert (found.mann_kendall.n_blocks, found.mann_kendall.S) == (3, -5)
    assert found.by_block["block"].tolist() == ["a", "b", "d"]
    assert found.notes[:2] == (
        "block 'c': one level of x only, left out",
        "block 'b': fewer than 3 levels, left out of Page's test, which needs complete blocks; Mann-Kendall takes them",
    )
    assert found.violations["block"].tolist() == ["b"]


def test_notes_name_three_blocks() -> None:
    cells = study({"a": {1: [3], 2: [2]}} | {name: {1: [1]} for name in "pqrstu"})
    notes = trend_tests(cells, "y", "x", blocks=["block"]).notes
    assert notes[0] == "blocks 'p', 'q', 'r' and 3 more: one level of x only, left out"


def test_rows_without_a_response_are_left_out_and_counted() -> None:
    cells = study({"a": {1: [3], 2: [2], 3: [math.nan]}, "b": {1: [3], 2: [2], 3: [1]}})
    found = trend_tests(cells, "y", "x", blocks=["block"])
    assert found.notes[0] == "1 of 6 rows without a value in 'y' are left out"
    assert (found.page.n_blocks, found.mann_kendall.n_cells, found.provenance["n_rows"]) == (1, 5, 5)


def test_what_is_approximate_is_said() -> None:
    cells = study({"a": {x: [float(x)] for x in range(13)}})
    found = trend_tests(cells, "y", "x", blocks=["block"], increasing=True)
    assert (found.page.method, found.mann_kendall.method) == ("normal approximation", "exact")
    assert found.notes[0] == (
        "p of Page's test is the normal approximation: an exact one would count more than 4096 states of a block, or "
        "40000 values over all blocks"
    )
    assert "normal approximation p = " in found.verdicts[1].because
    cells = study({"a": {x: [float(x)] for x in range(250)}})
    assert any("p of Mann-Kendall is" in note for note in trend_tests(cells, "y", "x", blocks=["block"]).notes)


@given(st.lists(st.lists(st.integers(0, 3), min_size=3, max_size=3), min_size=1, max_size=4), st.integers(0, 99))
def test_only_the_order_within_blocks_matters(values: list[list[int]], seed: int) -> None:
    names = [f"b{i}" for i in range(len(values))]
    cells = study(
        {b: {x: [float(y)] for x, y in enumerate(row, start=1)} for b, row in zip(names, values, strict=True)}
    )
    found = trend_tests(cells, "y", "x", blocks=["block"])
    moved = cells.assign(y=np.exp(cells["y"]) + 10.0 * cells["block"].str[1:].astype(int), x=10.0 ** cells["x"])
    again = trend_tests(moved.sample(frac=1, random_state=seed), "y", "x", blocks=["block"])
    assert again.page[:5] == pytest.approx(found.page[:5], rel=1e-12)
    assert again.mann_kendall[:7] == pytest.approx(found.mann_kendall[:7], rel=1e-12)
    assert [one.word for one in again.verdicts] == [one.word for one in found.verdicts]
    assert sorted(again.violations["block"]) == sorted(found.violations["block"])
    rising = trend_tests(cells.assign(y=-cells["y"]), "y", "x", blocks=["block"], increasing=True)
    assert rising.page == found.page
    assert [one.word for one in rising.verdicts] == [one.word for one in found.verdicts]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"blocks": "block"}, "`blocks` is 'block'; give a list of columns: ['block']"),
        (
            {"response": "x"},
            "column 'x' is named twice among `response`, `along` and `blocks`; each column has one part",
        ),
        ({"blocks": ["block", "y"]}, "column 'y' is named twice among `response`, `along` and `blocks`"),
        ({"significance": 0.0}, "`significance` is 0.0; allowed is what lies between 0 and 1: 0.05 is usual"),
        ({"significance": 1.0}, "`significance` is 1.0; allowed is what lies between 0 and 1"),
        ({"significance": math.nan}, "`significance` is nan; allowed is what lies between 0 and 1"),
        ({"along": "rank"}, "the table has no column 'rank'; it has 'block', 'x', 'y'"),
        ({"along": "block", "blocks": []}, "column 'block' holds 'a' in row 0, where a number belongs"),
        ({"frame": study({"a": {1: [1], 2: [math.inf]}})}, "column 'y' is inf in row 1; numbers must be finite"),
        ({"frame": study({"a": {1: [1, 2]}})}, "column 'x' is 1 in every row; a trend needs two levels"),
        ({"frame": study({"a": {1: [1]}, "b": {2: [1]}})}, "none of the 2 blocks of ['block'] has two levels of 'x'"),
        ({"frame": study({"a": {1: [math.nan]}})}, "no row of the table has a value in 'y'"),
    ],
)
def test_what_is_refused(options: dict[str, Any], words: str) -> None:
    usual: dict[str, Any] = {
        "frame": study({"a": {1: [2], 2: [1]}}),
        "response": "y",
        "along": "x",
        "blocks": ["block"],
    }
    with pytest.raises(ValueError, match=re.escape(words)):
        trend_tests(**(usual | options))


def test_a_table_must_be_one() -> None:
    with pytest.raises(TypeError, match="`frame` is a dict; give a pandas DataFrame, one row a cell"):
        trend_tests({"x": [1]}, "y", "x", blocks=[])


def test_what_is_recorded() -> None:
    record = of_paper("R").to_dict()
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert record["provenance"]["settings"] == {
        "response": "MIUB",
        "along": "R",
        "blocks": ["dataset", "model"],
        "increasing": False,
        "significance": 0.05,
        "source": paper_study().attrs["source"],
    }
    assert record["provenance"]["n_rows"] == 30


def test_examples_run() -> None:
    assert doctest.testmod(module) == (0, 5)
