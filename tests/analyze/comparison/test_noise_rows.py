import itertools
import math

import numpy as np
import pandas as pd
import pytest

from lorascope.analyze.comparison.compare_metrics import compare_metrics
from lorascope.study.paper_tables import paper_study

ITEMS = dict(zip(paper_study()["dataset"].unique(), (2376, 1172, 10042, 1838, 1267), strict=True))
"""Test or validation questions of the public data sets; the paper doesn't say how many it used."""


def pairs_of(frame: pd.DataFrame) -> list[tuple[int, int]]:
    return [pair for _, part in frame.groupby("block") for pair in itertools.combinations(part.index, 2)]


def test_paper_noise(paper: pd.DataFrame) -> None:
    row = compare_metrics(paper, n_items=ITEMS).noise.iloc[0]
    p, n = paper["ACC"], paper["dataset"].map(ITEMS)
    error = np.sqrt(p * (1 - p) / n)
    z = [abs(p[i] - p[j]) / math.hypot(error[i], error[j]) for i, j in pairs_of(paper)]
    assert row["median_error"] == pytest.approx(error.median())
    assert row["within_2_se"] == pytest.approx(np.mean(np.array(z) < 2))
    assert row["median_z"] == pytest.approx(np.median(z))
    within = sum((part["ACC"] - part["ACC"].mean()).pow(2).sum() for _, part in paper.groupby("block")) / 55
    noise = sum((error[part.index] ** 2).mean() * (len(part) - 1) for _, part in paper.groupby("block")) / 55
    assert row["noise_share"] == pytest.approx(noise / within)
    assert row["reliability"] == pytest.approx(1 - noise / within)
    assert row["attainable_r"] == pytest.approx(math.sqrt(1 - noise / within))


def test_paper_items_needed(paper: pd.DataFrame) -> None:
    found = compare_metrics(paper)
    row = found.noise.iloc[0]
    p = paper["ACC"]
    needed = [
        math.inf if p[i] == p[j] else 4 * (p[i] * (1 - p[i]) + p[j] * (1 - p[j])) / (p[i] - p[j]) ** 2
        for i, j in pairs_of(paper)
    ]
    assert row["items_needed"] == pytest.approx(np.median(needed))
    assert row["n_pairs"] == len(needed) == len(found.differences) == 5 * 21 + 5 * 15
    assert row["median_difference"] == pytest.approx(np.median([abs(p[i] - p[j]) for i, j in pairs_of(paper)]))
    assert "noise_share" not in found.noise
    assert "z" not in found.differences


def test_differences_name_their_settings(paper: pd.DataFrame) -> None:
    found = compare_metrics(paper, n_items=1000).differences
    accuracy = paper.set_index(["block", "setting"])["ACC"]
    for row in found.itertuples():
        p, q = accuracy[row.block, row.first], accuracy[row.block, row.second]
        assert row.difference == pytest.approx(p - q)
        assert row.z == pytest.approx((p - q) / math.sqrt((p * (1 - p) + q * (1 - q)) / 1000))


def test_more_noise_than_variance(paper: pd.DataFrame) -> None:
    row = compare_metrics(paper, n_items=3).noise.iloc[0]
    assert row["noise_share"] > 1
    assert row["reliability"] < 0
    assert math.isnan(row["attainable_r"])
