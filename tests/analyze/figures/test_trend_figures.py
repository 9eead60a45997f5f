import numpy as np
import pandas as pd
import pytest

from lorascope.analyze.figures.trend_figures import trend_figure
from lorascope.analyze.stats.trends import TrendResult, trend_tests

from .conftest import HOSTILE, legend_of, points_of, title_of

GROUPS = ["dataset", "model"]


@pytest.fixture(scope="module")
def ranks(study: pd.DataFrame) -> pd.DataFrame:
    return study[study["sweep"] == "rank"]


@pytest.fixture(scope="module")
def result(ranks: pd.DataFrame) -> TrendResult:
    return trend_tests(ranks, "MIUB", "R", groups=GROUPS)


def test_lines_begin_at_zero_and_are_in_percent(result: TrendResult, ranks: pd.DataFrame) -> None:
    figure = trend_figure(result)
    assert len(points_of(figure)) == 10
    for trace in points_of(figure):
        group = ranks[ranks["dataset"] + "/" + ranks["model"] == trace.legendgroup].sort_values("R")
        np.testing.assert_array_equal(trace.x, group["R"])
        np.testing.assert_allclose(trace.y, 100 * (group["MIUB"] / group["MIUB"].iloc[0] - 1), atol=1e-12)
    assert figure.layout.yaxis.title.text == "change of MIUB (%)"
    assert (figure.layout.xaxis.type, list(figure.layout.xaxis.ticktext)) == ("log", ["32", "128", "512"])
    assert legend_of(figure) == list(dict.fromkeys(ranks["dataset"] + "/" + ranks["model"]))


def test_steps_against_the_claim_are_marked(result: TrendResult) -> None:
    figure = trend_figure(result)
    marked = [trace for trace in figure.data if trace.line.width == 6]
    assert [trace.legendgroup for trace in marked] == result.violations["group"].tolist()
    for trace in marked:
        assert list(trace.x) == [128, 512, None]
        assert trace.y[1] > trace.y[0]
    for words in (
        "Claim: MIUB falls along R",
        "n = 30 cells in 10 groups, each against its lowest level.",
        "Red: 4 of 20 steps between neighbouring levels, not as claimed.",
        "Page's L, one-sided: p = 8.1·10⁻⁵.",
    ):
        assert words in title_of(figure)


def test_responses_below_zero_are_differences(ranks: pd.DataFrame) -> None:
    shifted = ranks.assign(MIUB=ranks["MIUB"] - 2000, R=ranks["R"] - 32)
    figure = trend_figure(trend_tests(shifted, "MIUB", "R", groups=GROUPS))
    first = points_of(figure)[0]
    np.testing.assert_allclose(first.y, shifted["MIUB"].iloc[:3] - shifted["MIUB"].iloc[0])
    assert figure.layout.yaxis.title.text == "change of MIUB"
    assert figure.layout.xaxis.type is None


def test_a_single_group_has_no_legend(ranks: pd.DataFrame) -> None:
    one = ranks[ranks["block"] == "PIQA/Phi3"]
    figure = trend_figure(trend_tests(one, "MIUB", "R", groups=[]))
    assert figure.layout.showlegend is False
    assert "n = 3 cells in 1 group" in title_of(figure)


def test_names_are_escaped(ranks: pd.DataFrame) -> None:
    odd = ranks.replace({"dataset": {"PIQA": HOSTILE}}).rename(columns={"MIUB": "<m>", "R": "<r>"})
    figure = trend_figure(trend_tests(odd, "<m>", "<r>", groups=GROUPS))
    shown = [text for trace in points_of(figure) for text in trace.text]
    shown += [*legend_of(figure), figure.layout.xaxis.title.text, figure.layout.yaxis.title.text]
    assert not any(bad in text for text in shown for bad in ("<m>", "<r>", HOSTILE))
