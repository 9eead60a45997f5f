import dataclasses

import numpy as np
import pandas as pd
import pytest

from lorascope.analyze.comparison.compare_metrics import compare_metrics
from lorascope.analyze.comparison.comparison import MetricComparison
from lorascope.analyze.figures.decision_figures import decisions_figure

from .conftest import HOSTILE, legend_of, points_of, title_of


def test_shares_of_right_decisions(comparison: MetricComparison) -> None:
    figure = decisions_figure(comparison)
    shares = [trace for trace in points_of(figure) if (trace.xaxis or "x") == "x"]
    assert legend_of(figure) == [trace.legendgroup for trace in shares] == ["ln MIUB", "CE", "ln CE"]
    for trace in shares:
        table = comparison.decisions[comparison.decisions["metric"] == trace.legendgroup]
        np.testing.assert_allclose(trace.x, 100 * table["share"])
        np.testing.assert_allclose(trace.x - trace.error_x.arrayminus, 100 * table["low"])
        np.testing.assert_allclose(trace.x + trace.error_x.array, 100 * table["high"])
        assert [round(y) for y in trace.y] == [0, 1]
    assert (
        shares[0].text[0]
        == "<b>ln MIUB</b>, all / all<br>109.0 of 170\u00a0pairs right, 0\u00a0ties<br>64.1 % [52.4, 75.4]"
    )
    assert list(figure.layout.yaxis.ticktext) == ["all", "ACC &gt;= 0.25"]
    assert [shape.x0 for shape in figure.layout.shapes if shape.x0 == shape.x1] == [50, 0]
    assert "65 cells in 10 blocks; 170 pairs within blocks that differ." in title_of(figure)
    assert "Bars: 95 % of the bootstrap over blocks; dotted: chance." in title_of(figure)


def test_ranks_are_turned_to_agreement(comparison: MetricComparison) -> None:
    figure = decisions_figure(comparison)
    every, narrowed = [trace for trace in points_of(figure) if trace.xaxis == "x2"][:2]
    rows = comparison.blocks[(comparison.blocks["metric"] == "ln MIUB") & (comparison.blocks["cells"] == "all")]
    np.testing.assert_allclose(every.x[:-1], -rows["spearman"])
    assert every.x[-1] == -comparison.metrics["mean_spearman"].iloc[0]
    assert [figure.layout.yaxis2.ticktext[round(y)] for y in every.y] == [*rows["block"], "<b>mean</b>"]
    assert narrowed.marker.symbol == "circle-open"
    lost = [figure.layout.yaxis2.ticktext[round(y)] for y in narrowed.y]
    assert lost == ["ARCC/LLaMA3", "ARCE/LLaMA3", "<b>mean</b>"]
    assert "Hollow: of ACC >= 0.25, in blocks that lose cells by it." in title_of(figure)
    assert every.text[-1].startswith("<b>ln MIUB</b><br>mean of 10\u00a0blocks: 0.386")


def test_metrics_that_are_better_where_higher_arent_turned(study: pd.DataFrame) -> None:
    found = compare_metrics(study.assign(minus=-study["MIUB"]), metrics=["MIUB", "minus"], higher_is_better=["minus"])
    first, second = (trace for trace in points_of(decisions_figure(found)) if trace.xaxis == "x2")
    np.testing.assert_allclose(first.x, second.x)


def test_pairs_that_can_be_told_apart_are_a_kind_of_their_own(study: pd.DataFrame) -> None:
    figure = decisions_figure(compare_metrics(study, n_items=1000, collapsed_below=0.25))
    assert list(figure.layout.yaxis.ticktext) == [
        "all",
        "all<br>2 SE apart",
        "ACC &gt;= 0.25",
        "ACC &gt;= 0.25<br>2 SE apart",
    ]


def test_kinds_without_pairs_are_left_out(study: pd.DataFrame) -> None:
    figure = decisions_figure(compare_metrics(study, n_items=1))
    assert list(figure.layout.yaxis.ticktext) == ["all"]


def test_blocks_without_a_correlation_are_counted(comparison: MetricComparison) -> None:
    blocks = comparison.blocks.copy()
    blocks.loc[0, "spearman"] = np.nan
    figure = decisions_figure(dataclasses.replace(comparison, blocks=blocks))
    assert "1 correlation not defined: constant in the block." in title_of(figure)
    assert len(next(trace for trace in points_of(figure) if trace.xaxis == "x2").x) == 10


@pytest.mark.parametrize("metrics", [["MIUB"], ["MIUB", "CE", "ln MIUB", "ln CE"]])
def test_one_metric_and_several(study: pd.DataFrame, metrics: list[str]) -> None:
    figure = decisions_figure(compare_metrics(study, metrics=metrics))
    assert legend_of(figure) == (metrics if len(metrics) > 1 else [])
    lanes = sorted(trace.y[0] for trace in points_of(figure) if (trace.xaxis or "x") == "x")
    assert -0.5 < lanes[0] <= lanes[-1] < 0.5
    assert len(set(lanes)) == len(metrics)


def test_names_are_escaped(study: pd.DataFrame) -> None:
    odd = study.replace({"dataset": {"PIQA": HOSTILE}}).rename(columns={"MIUB": "<m>", "ACC": "<acc>"})
    figure = decisions_figure(compare_metrics(odd, "<acc>", ["<m>", "CE"], collapsed_below=0.25))
    shown = [*figure.layout.yaxis.ticktext, *figure.layout.yaxis2.ticktext, *legend_of(figure)]
    shown += [text for trace in points_of(figure) for text in trace.text] + [figure.layout.xaxis2.title.text]
    assert not any(bad in text for text in shown for bad in ("<m>", "<acc>", HOSTILE))
