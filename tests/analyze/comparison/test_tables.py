from collections.abc import Callable

import pandas as pd

from lorascope.analyze.comparison.cells import read_cells
from lorascope.analyze.comparison.drawn import Options
from lorascope.analyze.comparison.roles import parse_metrics
from lorascope.analyze.comparison.tables import set_tables


def test_every_metric_and_pair_has_its_rows(make_study: Callable[..., pd.DataFrame]) -> None:
    metrics = parse_metrics(["MIUB", "CE", "ln CE"], None, [], "ACC")
    cells, _, _ = read_cells(make_study(), "ACC", metrics, ["block"], "setting", None)
    steps: list[int] = []
    found = set_tables(cells, metrics, Options(100, 0, 0.05), lambda: steps.append(1))
    assert len(steps) == 6
    assert [(row["first"], row["second"]) for row in found.pairs] == [
        ("MIUB", "CE"),
        ("MIUB", "ln CE"),
        ("CE", "ln CE"),
    ]
    assert [row["metric"] for row in found.metrics] == ["MIUB", "CE", "ln CE"]
    lengths = {name: len(rows) for name, rows in found._asdict().items() if name != "is_exact"}
    assert lengths == {
        "metrics": 3, "pairs": 3, "decisions": 3, "beyond_setting": 3, "noise": 1, "blocks": 12, "differences": 40,
    }  # fmt: skip
    assert found.is_exact


def test_many_blocks_are_drawn(make_study: Callable[..., pd.DataFrame]) -> None:
    metrics = parse_metrics(["MIUB", "CE"], None, [], "ACC")
    cells, _, _ = read_cells(make_study(n_blocks=25, n_settings=3), "ACC", metrics, ["block"], "setting", None)
    found, again = (set_tables(cells, metrics, Options(200, seed, 0.05), lambda: None) for seed in (5, 5))
    assert not found.is_exact
    assert found == again
    other = set_tables(cells, metrics, Options(200, 6, 0.05), lambda: None)
    assert other.metrics[0]["low"] != found.metrics[0]["low"]
