import json

import pandas as pd

from lorascope.analyze.trends.trend_tests import trend_tests

CELLS = pd.DataFrame({"model": list("aaabbb"), "R": [8, 16, 32] * 2, "loss": [3.0, 2.0, 1.0, 9.0, 7.0, 7.0]})


def test_summary_prints_floors_tests_blocks_steps_and_verdicts() -> None:
    text = str(trend_tests(CELLS, "loss", "R", blocks=["model"]).summary())
    for line in (
        "trend of loss along R",
        "claim         loss falls along R, within blocks of model",
        "data          6 cells, 2 blocks; Page: 2 blocks of 3 levels",
        "steps         1 of 4 don't go as claimed",
        "significance  0.05, one-sided",
        "floors of p   Page 0.0556, Mann-Kendall 0.0556, a sign a block 0.250",
        "Page's L         27.5        24   1.871  0.05556       1.000   0.03068  0.05556           1  exact",
        "Mann-Kendall S     -5         0",
        "a          3       3  -3   -1.000   0.1667   0.1667  not identified",
        "b          3       3  -2  -0.6667   0.3333   0.3333  not identified",
        "steps that don't go as claimed (1 of 4)",
        "b         16     32   7.00000   7.00000  equal",
        "not identified: loss falls along R in every block (none of 4 steps",
        "not identified: loss falls along R overall (larger of both tests: p can't go below 0.0556: no data of",
        "* p is over all orders of a block's values",
    ):
        assert line in text


def test_steps_without_fault_make_no_table() -> None:
    found = trend_tests(CELLS[:3], "loss", "R", blocks=[])
    assert [table.title for table in found.summary().tables] == ["tests over all blocks", "blocks, each alone"]
    assert found.summary().facts["claim"] == "loss falls along R, within blocks of all rows"


def test_a_result_as_json_holds_every_field() -> None:
    found = trend_tests(CELLS, "loss", "R", blocks=["model"])
    record = found.to_dict()
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert record["page"]["p_value"] == found.page.p_value
    assert record["mann_kendall"] == {name: getattr(found.mann_kendall, name) for name in found.mann_kendall._fields}
    assert [row["block"] for row in record["by_block"]] == ["a", "b"]
    assert record["violations"] == [
        {"block": "b", "lower": 16, "upper": 32, "at_lower": 7.0, "at_upper": 7.0, "step": "equal"}
    ]
    assert record["verdicts"][1]["word"] == "not identified"
    assert (record["response"], record["along"], record["blocks"], record["increasing"]) == (
        "loss",
        "R",
        ["model"],
        False,
    )
    assert {"significance", "n_steps", "notes", "provenance"} < set(record)
    assert found.sign_floor == 0.25
