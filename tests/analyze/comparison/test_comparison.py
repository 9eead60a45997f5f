import json
from collections.abc import Callable
from dataclasses import FrozenInstanceError, fields

import pandas as pd
import pytest

from lorascope.analyze.comparison.compare_metrics import compare_metrics
from lorascope.analyze.comparison.comparison import MetricComparison
from lorascope.analyze.comparison.shown import SHOWN


@pytest.fixture
def found(paper: pd.DataFrame) -> MetricComparison:
    return compare_metrics(paper, collapsed_below=0.25, n_items=1000)


def test_summary_shows_every_part(found: MetricComparison) -> None:
    text = str(found.summary())
    assert "How well ln MIUB follows ACC within blocks" in text
    assert "cells          all: 65; ACC >= 0.25: 62" in text
    assert "compared with  CE, ln CE" in text
    assert "blocks         dataset x model" in text
    for one in SHOWN:
        assert one.title in text
        assert one.note in text
    for verdict in found.verdicts:
        assert verdict.claim in text
    for note in found.notes:
        assert note in text
    assert "nan" not in text
    assert found.summary().as_markdown().startswith("## How well ln MIUB follows ACC")
    assert "<table>" in found.summary()._repr_html_()


def test_shown_columns_exist(found: MetricComparison) -> None:
    for one in SHOWN:
        assert set(one.columns.split()) <= set(getattr(found, one.table).columns)


def test_one_metric_has_no_pairs(make_study: Callable[..., pd.DataFrame]) -> None:
    alone = compare_metrics(make_study(), metrics="CE", blocks="block")
    assert alone.pairs.empty
    assert [verdict.claim for verdict in alone.verdicts] == [
        "CE follows accuracy within blocks",
        "CE adds to knowing the setting, with the sign it promises",
    ]
    text = str(alone.summary())
    assert "compared with  nothing else" in text
    assert "Williams" not in text


def test_json_has_everything_at_full_precision(found: MetricComparison) -> None:
    again = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert again["result"] == "metric comparison"
    assert set(again) == {"result", *(one.name for one in fields(MetricComparison))}
    assert again["metrics"][0]["pearson"] == found.metrics["pearson"][0]
    assert len(again["differences"]) == len(found.differences)
    assert again["verdicts"][0] == {
        "claim": found.verdicts[0].claim,
        "word": found.verdicts[0].word,
        "because": found.verdicts[0].because,
    }
    assert again["provenance"]["settings"]["n_items"] == 1000
    assert again["provenance"]["settings"]["reference"] == "ln MIUB"
    assert again["provenance"]["n_rows"] == 65
    assert {"numpy", "scipy"} <= set(again["provenance"]["versions"])


def test_results_do_not_change(found: MetricComparison) -> None:
    with pytest.raises(FrozenInstanceError):
        found.reference = "CE"  # type: ignore[misc]
