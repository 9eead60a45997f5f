import itertools
import math
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from scipy import stats

from lorascope.analyze.comparison.compare_metrics import compare_metrics
from lorascope.analyze.comparison.comparison import MetricComparison
from lorascope.study.paper_tables import CellSet, paper_study

VALUES = {"ln MIUB": lambda f: np.log(f["MIUB"]), "CE": lambda f: f["CE"], "ln CE": lambda f: np.log(f["CE"])}
CELLS: list[tuple[CellSet, bool]] = [
    ("as printed", True),
    ("as printed", False),
    ("repaired", True),
    ("without collapsed", True),
]


@pytest.fixture(params=CELLS, ids=lambda cells: f"{cells[0]}{', once' if cells[1] else ''}", scope="module")
def both(request: pytest.FixtureRequest) -> tuple[pd.DataFrame, MetricComparison]:
    """Cells of the paper, and what is found in them."""
    frame = paper_study(request.param[0], once=request.param[1])
    return frame, compare_metrics(frame)


def by_regression(frame: pd.DataFrame, x: pd.Series, groups: list[str]) -> tuple[float, float, float]:
    """Partial r, its p and degrees of freedom, from a least-squares fit with an effect for each group."""
    dummies = [pd.get_dummies(frame[name], drop_first=k > 0).to_numpy(float) for k, name in enumerate(groups)]
    fit = sm.OLS(frame["ACC"].to_numpy(), np.column_stack([x, *dummies])).fit()
    t = fit.tvalues[0]
    return t / math.sqrt(t * t + fit.df_resid), fit.pvalues[0], fit.df_resid


def by_all_signs(values: np.ndarray) -> float:
    signs = np.array(list(itertools.product([1, -1], repeat=len(values))))
    return float((np.abs(signs @ values) >= abs(values.sum()) - 1e-12).mean())


@pytest.mark.parametrize("name", VALUES)
def test_paper_correlations(both: tuple[pd.DataFrame, MetricComparison], name: str) -> None:
    frame, found = both
    row = found.metrics.set_index("metric").loc[name]
    x = VALUES[name](frame)
    r, p, df = by_regression(frame, x, ["block"])
    assert row["pearson"] == pytest.approx(r)
    assert row["p_effective"] == pytest.approx(p)
    assert row["n_cells"] == len(frame)
    assert row["n_effective"] == df + 2 == len(frame) - 10 + 1
    assert row["p"] == pytest.approx(2 * stats.t.sf(abs(r) * math.sqrt((len(frame) - 2) / (1 - r * r)), len(frame) - 2))
    sides = [(part["ACC"], x[part.index]) for _, part in frame.groupby("block")]
    for column, function in (
        ("mean_pearson", stats.pearsonr),
        ("mean_spearman", stats.spearmanr),
        ("mean_kendall", stats.kendalltau),
    ):
        assert row[column] == pytest.approx(np.mean([function(*side).statistic for side in sides]))
    assert row["flip_p"] == by_all_signs(np.array([stats.spearmanr(*side).statistic for side in sides]))
    assert row["n_blocks"] == 10


@pytest.mark.parametrize("name", VALUES)
def test_paper_concordance(both: tuple[pd.DataFrame, MetricComparison], name: str) -> None:
    frame, found = both
    wide = frame.assign(x=VALUES[name](frame)).pivot(index="block", columns="setting", values="x").dropna(axis=1)
    row = found.metrics.set_index("metric").loc[name]
    chi2 = stats.friedmanchisquare(*wide.to_numpy().T).statistic
    assert row["n_settings"] == wide.shape[1]
    assert row["concordance"] == pytest.approx(chi2 / (10 * (wide.shape[1] - 1)))


@pytest.mark.parametrize("name", VALUES)
def test_paper_decisions(both: tuple[pd.DataFrame, MetricComparison], name: str) -> None:
    frame, found = both
    x, won, n = VALUES[name](frame), 0.0, 0
    for _, part in frame.groupby("block"):
        for i, j in itertools.combinations(part.index, 2):
            if part["ACC"][i] != part["ACC"][j]:
                n += 1
                won += 0.5 if x[i] == x[j] else float((part["ACC"][i] > part["ACC"][j]) == (x[i] < x[j]))
    row = found.decisions.set_index("metric").loc[name]
    assert (row["pairs"], row["n_pairs"], row["right"]) == ("all", n, won)
    assert row["share"] == pytest.approx(won / n)
    assert row["low"] <= row["share"] <= row["high"]
    blocks = found.blocks[found.blocks["metric"] == name]
    assert (blocks["n_pairs"].sum(), blocks["right"].sum()) == (n, won)


@pytest.mark.parametrize("name", VALUES)
def test_paper_beyond_the_setting(both: tuple[pd.DataFrame, MetricComparison], name: str) -> None:
    frame, found = both
    row = found.beyond_setting.set_index("metric").loc[name]
    r, p, df = by_regression(frame, VALUES[name](frame), ["block", "setting"])
    assert (row["partial_r"], row["p"]) == pytest.approx((r, p))
    assert row["df"] == df == len(frame) - (10 + 7 - 1) - 1
    assert row["why"] == ""


def test_paper_blocks(both: tuple[pd.DataFrame, MetricComparison]) -> None:
    frame, found = both
    rows = found.blocks[found.blocks["metric"] == "CE"].set_index("block")
    for name, part in frame.groupby("block"):
        assert rows.loc[name, "n_cells"] == len(part)
        assert rows.loc[name, "spearman"] == pytest.approx(stats.spearmanr(part["CE"], part["ACC"]).statistic)
        assert rows.loc[name, "kendall"] == pytest.approx(stats.kendalltau(part["CE"], part["ACC"]).statistic)
        assert rows.loc[name, "pearson"] == pytest.approx(stats.pearsonr(part["CE"], part["ACC"]).statistic)
    squares = frame.groupby("block")["ACC"].apply(lambda acc: ((acc - acc.mean()) ** 2).sum())
    assert rows["accuracy_share"].to_dict() == pytest.approx((squares / squares.sum()).to_dict())


def test_intervals_are_those_of_all_resampled_tables(make_study: Callable[..., pd.DataFrame]) -> None:
    frame = make_study(n_blocks=3, n_settings=4)
    found = compare_metrics(frame, metrics=["CE"], blocks="block", significance=0.1)
    parts = [part for _, part in frame.groupby("block")]
    r, share = [], []
    for drawn in itertools.product(parts, repeat=3):
        again = pd.concat([part.assign(block=str(k)) for k, part in enumerate(drawn)], ignore_index=True)
        one = compare_metrics(again, metrics=["CE"], blocks="block")
        r.append(one.metrics["pearson"][0])
        share.append(one.decisions["share"][0])
    for row, values in ((found.metrics.iloc[0], sorted(r)), (found.decisions.iloc[0], sorted(share))):
        assert row["low"] == pytest.approx(values[math.ceil(0.05 * 27) - 1])
        assert row["high"] == pytest.approx(values[math.ceil(0.95 * 27) - 1])


def test_decisions_among_pairs_that_are_apart(make_study: Callable[..., pd.DataFrame]) -> None:
    frame = make_study()
    found = compare_metrics(frame, metrics=["MIUB"], blocks="block", n_items=100)
    won, n = 0, 0
    for _, part in frame.groupby("block"):
        for i, j in itertools.combinations(part.index, 2):
            p, q = part["ACC"][i], part["ACC"][j]
            if abs(p - q) >= 2 * math.sqrt((p * (1 - p) + q * (1 - q)) / 100):
                n += 1
                won += (p > q) == (part["MIUB"][i] < part["MIUB"][j])
    row = found.decisions[found.decisions["pairs"] == "2 SE apart"].iloc[0]
    assert (row["n_pairs"], row["right"]) == (n, won)
    assert 0 < n < len(found.differences)


def test_ties_of_a_metric_count_half(make_study: Callable[..., pd.DataFrame]) -> None:
    frame = make_study().assign(CE=[1.0, 1.0, 2.0, 3.0, 3.0] * 4)
    row = compare_metrics(frame, metrics=["CE"], blocks="block").decisions.iloc[0]
    assert row["n_ties"] == 8
    assert row["right"] % 1 == 0


def test_constant_blocks_have_no_coefficient(make_study: Callable[..., pd.DataFrame]) -> None:
    frame = make_study()
    frame.loc[frame["block"] == "b1", "CE"] = 0.1
    found = compare_metrics(frame, metrics=["CE"], blocks="block")
    assert found.metrics["n_blocks"][0] == 3
    rows = found.blocks.set_index("block")
    assert rows.loc["b1", ["pearson", "spearman", "kendall"]].isna().all()
    assert found.metrics["mean_spearman"][0] == pytest.approx(rows["spearman"].dropna().mean())
    assert found.metrics["degenerate"][0] == pytest.approx(1 / 4**4)
    apart = make_study()
    apart.loc[apart["block"] != "b1", "CE"] = 0.1
    apart.loc[apart["block"] == "b1", "ACC"] = 0.5
    row = compare_metrics(apart, metrics=["CE"], blocks="block").metrics.iloc[0]
    assert row["pearson"] == row["n_blocks"] == 0
    assert row[["mean_pearson", "mean_spearman", "mean_kendall", "flip_p", "flip_floor"]].isna().all()


def test_a_flat_setting_table_has_no_concordance(make_study: Callable[..., pd.DataFrame]) -> None:
    frame = make_study(n_settings=2)
    row = compare_metrics(frame, metrics=["CE"], blocks="block").metrics.iloc[0]
    assert row["n_settings"] == 2
    assert math.isnan(row["concordance"])
