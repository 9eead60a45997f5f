import itertools
import math
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from lorascope.analyze.comparison.compare_metrics import compare_metrics
from lorascope.analyze.comparison.comparison import MetricComparison
from lorascope.analyze.comparison.dependent import meng, steiger
from lorascope.study.paper_tables import CellSet, paper_study

CELLS: list[tuple[CellSet, bool]] = [("as printed", True), ("as printed", False), ("without collapsed", True)]
NAMES = ["ln MIUB", "CE", "ln CE"]


@pytest.fixture(params=CELLS, ids=lambda cells: f"{cells[0]}{', once' if cells[1] else ''}", scope="module")
def both(request: pytest.FixtureRequest) -> tuple[pd.DataFrame, MetricComparison]:
    """Cells of the paper with the metrics as columns, better where higher, and what is found in them."""
    frame = paper_study(request.param[0], once=request.param[1])
    scores = {"ln MIUB": -np.log(frame["MIUB"]), "CE": -frame["CE"], "ln CE": -np.log(frame["CE"])}
    return frame.assign(**scores), compare_metrics(frame)


def williams_by_determinant(r: np.ndarray, n: int) -> tuple[float, float]:
    mean = (r[0, 1] + r[0, 2]) / 2
    below = 2 * (n - 1) / (n - 3) * np.linalg.det(r) + mean**2 * (1 - r[1, 2]) ** 3
    t = (r[0, 1] - r[0, 2]) * math.sqrt((n - 1) * (1 + r[1, 2]) / below)
    return t, float(2 * stats.t.cdf(-abs(t), n - 3))


@pytest.mark.parametrize(("first", "second"), list(itertools.combinations(NAMES, 2)))
def test_paper_tests(both: tuple[pd.DataFrame, MetricComparison], first: str, second: str) -> None:
    frame, found = both
    row = found.pairs.set_index(["first", "second"]).loc[(first, second)]
    columns = frame[["ACC", first, second]]
    r = (columns - columns.groupby(frame["block"]).transform("mean")).corr().to_numpy()
    assert (row["agreement_first"], row["agreement_second"]) == pytest.approx((r[0, 1], r[0, 2]))
    assert (row["correlation"], row["difference"]) == pytest.approx((r[1, 2], r[0, 1] - r[0, 2]))
    for suffix, n in (("", len(frame)), ("_effective", len(frame) - 9)):
        t, p = williams_by_determinant(r, n)
        assert (row[f"williams_t{suffix}"], row[f"williams_p{suffix}"]) == pytest.approx((t, p))
        for name, test in (("meng", meng), ("steiger", steiger)):
            z, p, _ = test(r[0, 1], r[0, 2], r[1, 2], n)
            assert (row[f"{name}_z{suffix}"], row[f"{name}_p{suffix}"]) == pytest.approx((z, p))


@pytest.mark.parametrize(("first", "second"), list(itertools.combinations(NAMES, 2)))
def test_paper_differences_by_block(both: tuple[pd.DataFrame, MetricComparison], first: str, second: str) -> None:
    frame, found = both
    row = found.pairs.set_index(["first", "second"]).loc[(first, second)]
    parts = [part for _, part in frame.groupby("block")]
    rho = [[stats.spearmanr(part["ACC"], part[name]).statistic for part in parts] for name in (first, second)]
    gaps = np.subtract(*rho)
    assert row["spearman_difference"] == pytest.approx(gaps.mean(), abs=1e-12)
    signs = np.array(list(itertools.product([1, -1], repeat=len(gaps))))
    assert row["flip_p"] == pytest.approx((np.abs(signs @ gaps) >= abs(gaps.sum()) - 1e-12).mean())
    assert row["flip_floor"] == 0.5 ** max((np.abs(gaps) > 1e-12).sum() - 1, 0)
    shares = found.decisions.set_index("metric")["share"]
    assert row["decision_difference"] == pytest.approx(shares[first] - shares[second])
    steady = found.metrics.set_index("metric")["concordance"]
    assert row["concordance_difference"] == pytest.approx(steady[first] - steady[second])


def test_paper_interval_is_that_of_random_draws(paper: pd.DataFrame) -> None:
    row = compare_metrics(paper, metrics=["ln MIUB", "CE"]).pairs.iloc[0]
    columns = pd.DataFrame({"acc": paper["ACC"], "a": -np.log(paper["MIUB"]), "b": -paper["CE"]})
    x = columns - columns.groupby(paper["block"]).transform("mean")
    parts = [part.to_numpy() for _, part in x.groupby(paper["block"])]
    rng = np.random.default_rng(0)
    gaps = []
    for _ in range(4000):
        drawn = np.concatenate([parts[k] for k in rng.integers(0, 10, 10)])
        r = drawn.T @ drawn
        gaps.append((r[0, 1] / math.sqrt(r[1, 1]) - r[0, 2] / math.sqrt(r[2, 2])) / math.sqrt(r[0, 0]))
    low, high = np.quantile(gaps, [0.025, 0.975])
    assert row["low"] == pytest.approx(low, abs=0.02)
    assert row["high"] == pytest.approx(high, abs=0.02)


def test_metrics_point_the_same_way(make_study: Callable[..., pd.DataFrame]) -> None:
    frame = make_study(follows=3).assign(gain=lambda f: -f["MIUB"])
    found = compare_metrics(frame, metrics=["CE", "MIUB", "gain"], blocks="block", higher_is_better=["gain"])
    rows = found.pairs.set_index(["first", "second"])
    assert rows.loc[("CE", "MIUB"), "difference"] == pytest.approx(rows.loc[("CE", "gain"), "difference"])
    assert rows.loc[("CE", "MIUB"), "williams_p"] == pytest.approx(rows.loc[("CE", "gain"), "williams_p"])
    signs = found.metrics.set_index("metric")["pearson"]
    assert signs["gain"] == pytest.approx(-signs["MIUB"])
    assert (found.metrics["better"] == ["lower", "lower", "higher"]).all()
    shares = found.decisions.set_index("metric")["share"]
    assert shares["gain"] == shares["MIUB"]


def test_one_metric_twice_has_no_test(make_study: Callable[..., pd.DataFrame]) -> None:
    frame = make_study().assign(again=lambda f: 3 * f["CE"] + 1)
    row = compare_metrics(frame, metrics=["CE", "again"], blocks="block").pairs.iloc[0]
    assert row["difference"] == pytest.approx(0)
    assert row["correlation"] == pytest.approx(1)
    assert row[[name for name in row.index if name.startswith(("williams", "meng", "steiger"))]].isna().all()
    assert (row["flip_p"], row["swap_p"]) == (1, 1)


def test_blocks_without_both_are_left_out(make_study: Callable[..., pd.DataFrame]) -> None:
    frame = make_study(n_settings=2, n_blocks=6)
    frame.loc[frame["block"] == "b1", "CE"] = 0.1
    row = compare_metrics(frame, metrics=["MIUB", "CE"], blocks="block").pairs.iloc[0]
    assert row["n_blocks"] == 5
    assert row[["concordance_difference", "swap_p", "swap_floor"]].isna().all()
    frame.loc[frame["block"].isin(["b0", "b2"]), "MIUB"] = 5.0
    frame.loc[~frame["block"].isin(["b0", "b2"]), "CE"] = 5.0
    row = compare_metrics(frame, metrics=["MIUB", "CE"], blocks="block").pairs.iloc[0]
    assert row["n_blocks"] == 0
    assert row[["spearman_difference", "flip_p", "flip_floor"]].isna().all()
