"""Chance in accuracy, against its definitions and against accuracies that are nothing but chance."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest

from lorascope.analyze.stats.metrics import compare_metrics
from lorascope.analyze.stats.noise import noise_row
from lorascope.analyze.stats.study_cells import StudyCells
from lorascope.study.paper_tables import paper_study

ITEMS = dict(zip(paper_study()["dataset"].unique(), (2376, 1172, 10042, 1838, 1267), strict=True))
"""Test or validation questions of the public data sets; the paper doesn't say how many it used."""


def cells_of(accuracy: np.ndarray, n_items: float | None) -> StudyCells:
    names = tuple(map(str, range(max(accuracy.shape))))
    items = None if n_items is None else np.full(accuracy.shape, n_items)
    return StudyCells("all", accuracy, {}, names[: len(accuracy)], names[: accuracy.shape[1]], items)


def test_paper(paper: pd.DataFrame) -> None:
    row = compare_metrics(paper.assign(items=paper["dataset"].map(ITEMS)), n_items="items", n_draws=100).noise.iloc[0]
    p, n = paper["ACC"], paper["dataset"].map(ITEMS)
    parts = [part for _, part in paper.groupby("block")]
    squares = pd.Series({part["block"].iloc[0]: ((part["ACC"] - part["ACC"].mean()) ** 2).sum() for part in parts})
    noise = sum((p * (1 - p) / n)[part.index].mean() * (len(part) - 1) for part in parts)
    assert row["noise_share"] == pytest.approx(noise / squares.sum())
    assert row["attainable_r"] == pytest.approx(math.sqrt(1 - noise / squares.sum()))
    assert row["largest_group"] == squares.idxmax()
    assert row["largest_share"] == pytest.approx(squares.max() / squares.sum())
    assert row["like_groups"] == pytest.approx(squares.sum() ** 2 / (squares**2).sum())
    pairs = [pair for part in parts for pair in itertools.combinations(part.index, 2)]
    needed = [
        math.inf if p[i] == p[j] else 4 * (p[i] * (1 - p[i]) + p[j] * (1 - p[j])) / (p[i] - p[j]) ** 2 for i, j in pairs
    ]
    assert row["items_needed"] == pytest.approx(np.median(needed))
    assert row["n_pairs"] == len(pairs) == 5 * 21 + 5 * 15
    assert row["median_difference"] == pytest.approx(np.median([abs(p[i] - p[j]) for i, j in pairs]))


def test_needed_items_make_two_standard_errors() -> None:
    n = noise_row(cells_of(np.array([[0.5, 0.62]]), None))["items_needed"]
    assert 0.12 / math.sqrt((0.25 + 0.62 * 0.38) / n) == pytest.approx(2)
    row = noise_row(cells_of(np.array([[0.5, 0.5, 0.5, 0.6]]), None))
    assert math.isfinite(row["items_needed"]) is False  # half of the pairs are equal
    assert "noise_share" not in row


def test_accuracies_that_are_nothing_but_noise_have_a_share_of_1() -> None:
    rng = np.random.default_rng(1)
    p, n = rng.uniform(0.3, 0.9, (3000, 1)), 200
    row = noise_row(cells_of(rng.binomial(n, p, size=(3000, 4)) / n, n))
    assert row["noise_share"] == pytest.approx(1, abs=0.05)


def test_noise_attenuates_as_the_share_says() -> None:
    rng = np.random.default_rng(2)
    truth, n = rng.uniform(0.4, 0.6, (1000, 4)), 100
    accuracy = rng.binomial(n, truth) / n
    r = np.corrcoef(*((v - v.mean(axis=1, keepdims=True)).ravel() for v in (truth, accuracy)))[0, 1]
    assert noise_row(cells_of(accuracy, n))["attainable_r"] == pytest.approx(r, abs=0.03)


def test_more_noise_than_variance(paper: pd.DataFrame) -> None:
    found = compare_metrics(paper, n_items=3, n_draws=100)
    assert found.noise["noise_share"].iloc[0] > 1
    assert math.isnan(found.noise["attainable_r"].iloc[0])
