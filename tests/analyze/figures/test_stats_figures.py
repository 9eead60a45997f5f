import numpy as np
import pandas as pd
import pytest

from lorascope.analyze.figures.stats_figures import metrics_figure, trend_figure
from lorascope.analyze.stats.metrics import MetricComparison, compare_metrics
from lorascope.analyze.stats.trends import TrendResult, trend_tests

from .conftest import HOSTILE, legend_of, points_of, title_of


def test_cells_less_their_groups_mean(comparison: MetricComparison, study: pd.DataFrame) -> None:
    figure = metrics_figure(comparison, study)
    first = [trace for trace in points_of(figure) if trace.xaxis == "x"]
    assert len(first) == 10
    values = study.assign(metric=np.log(study["MIUB"]))
    for trace in first:
        cells = values[values["block"] == trace.legendgroup].sort_values("setting")
        np.testing.assert_allclose(trace.x, cells["metric"] - cells["metric"].mean())
        np.testing.assert_allclose(trace.y, cells["ACC"] - cells["ACC"].mean(), atol=1e-12)
    x, y = (np.concatenate([trace[name] for trace in first]) for name in "xy")
    row = comparison.metrics.iloc[0]
    assert np.corrcoef(x, y)[0, 1] == pytest.approx(row["pearson"])
    line = next(trace for trace in figure.data if trace.mode == "lines")
    assert line.y[1] / line.x[1] == pytest.approx(x @ y / (x @ x))
    assert len(legend_of(figure)) == 10


def test_titles_have_both_correlations(comparison: MetricComparison, study: pd.DataFrame) -> None:
    figure = metrics_figure(comparison, study)
    titles = [note.text for note in figure.layout.annotations]
    assert titles[0] == ("<b>ln MIUB</b>, lower is better<br>r = -0.29 [-0.47, -0.19]<br>r = -0.19 [-0.34, -0.03]")
    for title, (_, rows) in zip(titles, comparison.metrics.groupby("metric", sort=False), strict=True):
        for row in rows.itertuples():
            assert f"r = {row.pearson:.2f} [{row.low:.2f}, {row.high:.2f}]" in title
    for words in (
        "ACC over metrics, within groups",
        "65 cells in 10 groups. r: pooled correlation, with 95 % of the bootstrap over groups.",
        "Second r: of the 62 cells of ACC >= 0.25. Hollow: the others.",
    ):
        assert words in title_of(figure)


def test_collapsed_cells_are_hollow(comparison: MetricComparison, study: pd.DataFrame) -> None:
    figure = metrics_figure(comparison, study)
    symbols = [
        (symbol, y) for trace in points_of(figure) for symbol, y in zip(trace.marker.symbol, trace.y, strict=True)
    ]
    hollow = [y for symbol, y in symbols if symbol.endswith("-open")]
    assert len(hollow) == 3 * 3
    assert max(hollow) < -0.3
    plain = metrics_figure(compare_metrics(study, metrics=["MIUB"]), study)
    assert not any("-open" in symbol for trace in points_of(plain) for symbol in trace.marker.symbol)
    assert "Hollow" not in title_of(plain)
    assert len(plain.layout.annotations) == 1


def test_another_table_is_refused(comparison: MetricComparison, study: pd.DataFrame) -> None:
    with pytest.raises(ValueError, match="`frame` isn't the table of this comparison: the columns in use, of 65.rows"):
        metrics_figure(comparison, study.assign(ACC=study["ACC"] / 2))
    with pytest.raises(TypeError, match="give a pandas DataFrame"):
        metrics_figure(comparison, study.to_dict())  # type: ignore[arg-type]


def test_names_are_escaped(study: pd.DataFrame) -> None:
    odd = study.replace({"dataset": {"PIQA": HOSTILE}, "setting": {"r32": "<i>"}}).rename(
        columns={"MIUB": "<m>", "ACC": "<acc>"}
    )
    figure = metrics_figure(compare_metrics(odd, "<acc>", ["<m>"]), odd)
    assert "&lt;b&gt;%{x}&lt;/b&gt;/Phi3" in legend_of(figure)
    shown = [text for trace in points_of(figure) for text in trace.text]
    shown += [figure.layout.annotations[0].text, figure.layout.xaxis.title.text, figure.layout.yaxis.title.text]
    assert not any(bad in text for text in shown for bad in ("<m>", "<acc>", "<i>", HOSTILE))


GROUPS = ["dataset", "model"]


@pytest.fixture(scope="module")
def ranks(study: pd.DataFrame) -> pd.DataFrame:
    return study[study["sweep"] == "rank"]


@pytest.fixture(scope="module")
def result(ranks: pd.DataFrame) -> TrendResult:
    return trend_tests(ranks, "MIUB", "R", groups=GROUPS)


def test_lines_begin_at_zero_and_are_in_percent(result: TrendResult, ranks: pd.DataFrame) -> None:
    figure = trend_figure(result, ranks)
    assert len(points_of(figure)) == 10
    for trace in points_of(figure):
        group = ranks[ranks["dataset"] + "/" + ranks["model"] == trace.legendgroup].sort_values("R")
        np.testing.assert_array_equal(trace.x, group["R"])
        np.testing.assert_allclose(trace.y, 100 * (group["MIUB"] / group["MIUB"].iloc[0] - 1), atol=1e-12)
    assert figure.layout.yaxis.title.text == "change of MIUB (%)"
    assert (figure.layout.xaxis.type, list(figure.layout.xaxis.ticktext)) == ("log", ["32", "128", "512"])
    assert legend_of(figure) == list(dict.fromkeys(ranks["dataset"] + "/" + ranks["model"]))


def test_steps_against_the_claim_are_marked(result: TrendResult, ranks: pd.DataFrame) -> None:
    figure = trend_figure(result, ranks)
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


def test_another_table_of_a_trend_is_refused(result: TrendResult, ranks: pd.DataFrame) -> None:
    with pytest.raises(ValueError, match="`frame` isn't the table of this result: the columns in use, of 29.rows"):
        trend_figure(result, ranks.iloc[1:])
    with pytest.raises(TypeError, match="give a pandas DataFrame"):
        trend_figure(result, [])  # type: ignore[arg-type]


def test_names_of_a_trend_are_escaped(ranks: pd.DataFrame) -> None:
    odd = ranks.replace({"dataset": {"PIQA": HOSTILE}}).rename(columns={"MIUB": "<m>", "R": "<r>"})
    figure = trend_figure(trend_tests(odd, "<m>", "<r>", groups=GROUPS), odd)
    shown = [text for trace in points_of(figure) for text in trace.text]
    shown += [*legend_of(figure), figure.layout.xaxis.title.text, figure.layout.yaxis.title.text]
    assert not any(bad in text for text in shown for bad in ("<m>", "<r>", HOSTILE))
