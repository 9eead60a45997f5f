import math
from typing import Any

import pytest

from lorascope.analyze.comparison.judge import judge, word_of
from lorascope.analyze.comparison.roles import Metric
from lorascope.analyze.stats.verdict import Verdict

A, B = Metric("A", "A", False, -1), Metric("B", "B", False, 1)
OF_METRIC = {
    "cells": "all", "pearson": -0.5, "low": -0.7, "high": -0.2, "p_effective": 0.01, "n_effective": 20,
    "setting_p": 0.03,
}  # fmt: skip
OF_PAIR = {
    "cells": "all", "first": "A", "second": "B", "agreement_first": 0.5, "agreement_second": 0.2, "difference": 0.3,
    "low": 0.1, "high": 0.4, "williams_p_effective": 0.01, "n_effective": 20, "spearman_difference": 0.2, "flip_p": 0.5,
    "concordance_difference": 0.4, "swap_p": 0.02, "setting_p": 0.04,
}  # fmt: skip
BEYOND = {"cells": "all", "partial_r": -0.4, "df": 10, "p": 0.03, "flip_p": 0.04, "why": ""}


def verdicts(**changes: list[dict[str, Any]]) -> list[Verdict]:
    """Of A alone and of A against B: A follows, B follows, A closer, A adds, B adds, A more alike."""

    def rows(name: str, first: dict[str, Any]) -> list[dict[str, Any]]:
        return [{**first, **change} for change in changes.get(name, [{}])]

    of_metric = [{**row, "metric": name} for name in "AB" for row in rows("metric", OF_METRIC)]
    beyond = [{**row, "metric": name} for name in "AB" for row in rows("beyond", BEYOND)]
    return list(judge([A, B], of_metric, rows("pair", OF_PAIR), beyond, 0.05))


@pytest.mark.parametrize(
    ("is_sure", "low", "high", "word"),
    [
        (True, 0.1, 0.2, "supported"),
        (True, -0.2, -0.1, "contradicted"),
        (True, -0.1, 0.1, "not identified"),
        (True, 0.0, 0.1, "not identified"),
        (False, 0.1, 0.2, "not identified"),
        (False, -0.2, -0.1, "not identified"),
        (True, math.nan, math.nan, "not identified"),
    ],
)
def test_words(is_sure: bool, low: float, high: float, word: str) -> None:
    assert word_of(is_sure, low, high) == word


def test_claims_and_reasons() -> None:
    assert [str(one) for one in verdicts()] == [
        "supported: A follows accuracy within blocks (r = -0.500 [-0.700, -0.200], p = 0.0100 for 20 effective cells, "
        "0.0300 by labels of settings)",
        "contradicted: B follows accuracy within blocks (r = -0.500 [-0.700, -0.200], p = 0.0100 for 20 effective "
        "cells, 0.0300 by labels of settings)",
        "supported: A follows accuracy more closely than B (agreement 0.500 against 0.200, difference 0.300 [0.100, "
        "0.400], Williams' p = 0.0100 for 20 effective cells, 0.0400 by labels of settings; mean Spearman differs by "
        "0.200, p = 0.500 by sign flips)",
        "supported: A adds to knowing the setting, with the sign it promises (partial r = -0.400 given block and "
        "setting, df = 10, p = 0.0300, by sign flips 0.0400)",
        "contradicted: B adds to knowing the setting, with the sign it promises (partial r = -0.400 given block "
        "and setting, df = 10, p = 0.0300, by sign flips 0.0400)",
        "supported: A orders settings more alike from block to block than B (Kendall's W differs by 0.400, p = 0.0200 "
        "by swaps)",
    ]


@pytest.mark.parametrize(
    ("table", "change", "place", "word"),
    [
        ("metric", {"p_effective": 0.06}, 0, "not identified"),
        ("metric", {"setting_p": 0.051}, 0, "not identified"),
        ("metric", {"setting_p": 0.05}, 0, "supported"),
        ("metric", {"high": 0.01}, 0, "not identified"),
        ("metric", {"low": 0.1, "high": 0.2}, 0, "contradicted"),
        ("pair", {"williams_p_effective": 0.051}, 2, "not identified"),
        ("pair", {"williams_p_effective": 0.05}, 2, "supported"),
        ("pair", {"williams_p_effective": math.nan}, 2, "not identified"),
        ("pair", {"setting_p": 0.051}, 2, "not identified"),
        ("pair", {"setting_p": 0.05}, 2, "supported"),
        ("pair", {"setting_p": 0.9}, 5, "supported"),
        ("pair", {"low": -0.01}, 2, "not identified"),
        ("pair", {"low": -0.4, "high": -0.1, "difference": -0.3}, 2, "contradicted"),
        ("beyond", {"p": 0.06}, 3, "not identified"),
        ("beyond", {"flip_p": 0.06}, 3, "not identified"),
        ("beyond", {"partial_r": 0.4}, 3, "contradicted"),
        ("pair", {"swap_p": 0.06}, 5, "not identified"),
        ("pair", {"concordance_difference": -0.4}, 5, "contradicted"),
        ("pair", {"concordance_difference": math.nan, "swap_p": math.nan}, 5, "not identified"),
    ],
)
def test_rules(table: str, change: dict[str, float], place: int, word: str) -> None:
    assert verdicts(**{table: [change]})[place].word == word


@pytest.mark.parametrize("name", ["p", "flip_p"])
def test_p_values_that_are_missing_support_nothing(name: str) -> None:
    missing = {"partial_r": math.nan, "p": 0.01, "flip_p": 0.01, name: math.nan, "why": "too few cells"}
    found = verdicts(beyond=[missing])[3]
    assert found.word == "not identified"
    assert found.because == "too few cells"


def test_a_word_must_hold_in_every_set_of_cells() -> None:
    both = [{}, {"cells": "some", "williams_p_effective": 0.2}]
    found = verdicts(pair=both)[2]
    assert found.word == "not identified"
    assert found.because.startswith("all: agreement 0.500 against 0.200")
    assert "; some: agreement" in found.because
    assert verdicts(pair=[{}, {"cells": "some"}])[2].word == "supported"
