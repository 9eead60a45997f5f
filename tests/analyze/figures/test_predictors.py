import numpy as np
import pandas as pd
import pytest

from lorascope.analyze.figures.predictors import metrics_figure
from lorascope.analyze.fits.metrics import MetricComparison, compare_metrics

from .conftest import HOSTILE, legend_of, points_of, title_of


def test_cells_less_their_groups_mean(comparison: MetricComparison, study: pd.DataFrame) -> None:
    figure = metrics_figure(comparison)
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


def test_titles_have_both_correlations(comparison: MetricComparison) -> None:
    figure = metrics_figure(comparison)
    titles = [note.text for note in figure.layout.annotations]
    assert titles[0].split("<br>") == [
        "<b>ln MIUB</b>: lower should go with higher ACC",
        "r = -0.29 [-0.47, -0.19]",
        "r = -0.19 [-0.34, -0.03]",
    ]
    for title, (_, rows) in zip(titles, comparison.metrics.groupby("metric", sort=False), strict=True):
        for row in rows.itertuples():
            assert f"r = {row.pearson:.2f} [{row.low:.2f}, {row.high:.2f}]" in title
    for words in (
        "ACC over metrics, within groups",
        "65 cells in 10 groups. r: pooled correlation, with 95 % of the bootstrap over groups.",
        "The bootstrap rests on 10 groups: with fewer than 20, its intervals can be too narrow.",
        "Second r: of the 62 cells of ACC >= 0.25. Hollow: the others.",
    ):
        assert words in title_of(figure)


def test_collapsed_cells_are_hollow(comparison: MetricComparison, study: pd.DataFrame) -> None:
    figure = metrics_figure(comparison)
    symbols = [
        (symbol, y) for trace in points_of(figure) for symbol, y in zip(trace.marker.symbol, trace.y, strict=True)
    ]
    hollow = [y for symbol, y in symbols if symbol.endswith("-open")]
    assert len(hollow) == 3 * 3
    assert max(hollow) < -0.3
    plain = metrics_figure(compare_metrics(study, metrics=["MIUB"]))
    assert not any("-open" in symbol for trace in points_of(plain) for symbol in trace.marker.symbol)
    assert "Hollow" not in title_of(plain)
    assert len(plain.layout.annotations) == 1


def test_names_are_escaped(study: pd.DataFrame) -> None:
    odd = study.replace({"dataset": {"PIQA": HOSTILE}, "setting": {"r32": "<i>"}}).rename(
        columns={"MIUB": "<m>", "ACC": "<acc>"}
    )
    figure = metrics_figure(compare_metrics(odd, "<acc>", ["<m>"]))
    assert "&lt;b&gt;%{x}&lt;/b&gt;/Phi3" in legend_of(figure)
    shown = [text for trace in points_of(figure) for text in trace.text]
    shown += [figure.layout.annotations[0].text, figure.layout.xaxis.title.text, figure.layout.yaxis.title.text]
    assert not any(bad in text for text in shown for bad in ("<m>", "<acc>", "<i>", HOSTILE))
