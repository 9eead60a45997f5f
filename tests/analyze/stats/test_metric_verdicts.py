"""The rule of each verdict, on rows made up for it."""

import math
from typing import Any

import pytest

from lorascope.analyze.stats.metric_verdicts import judge
from lorascope.analyze.stats.verdict import Verdict

BETTER = {"A": "lower", "B": "higher"}
OF_METRIC: dict[str, Any] = {
    "cells": "all", "pearson": -0.5, "low": -0.7, "high": -0.2, "p": 0.01, "n_effective": 20, "permutation_p": 0.03,
    "partial_r": -0.4, "partial_low": -0.6, "partial_high": -0.1, "partial_p": 0.04,
}  # fmt: skip
OF_PAIR: dict[str, Any] = {
    "cells": "all", "first": "A", "second": "B", "n_effective": 20, "agreement_first": 0.5, "agreement_second": 0.2,
    "difference": 0.3, "low": 0.1, "high": 0.4, "williams_p": 0.01, "permutation_p": 0.04, "concordance_first": 0.9,
    "concordance_second": 0.5, "concordance_low": 0.1, "concordance_high": 0.6, "concordance_p": 0.02,
}  # fmt: skip


def verdicts(metric: list[dict[str, Any]] | None = None, pair: list[dict[str, Any]] | None = None) -> list[Verdict]:
    """Verdicts on rows with these changes, one row a set of cells; A and B alike."""
    names = {name: {"metric": name, "better": better} for name, better in BETTER.items()}
    of_metric = [{**OF_METRIC, **change, **name} for name in names.values() for change in metric or [{}]]
    return list(judge(of_metric, [{**OF_PAIR, **change} for change in pair or [{}]], 0.95))


def test_claims_and_reasons() -> None:
    assert [str(one) for one in verdicts()] == [
        "supported: A follows accuracy within groups (r = -0.500 [-0.700, -0.200], p = 0.0100 for 20 effective cells, "
        "0.0300 by labels of settings)",
        "contradicted: B follows accuracy within groups (r = -0.500 [-0.700, -0.200], p = 0.0100 for 20 effective "
        "cells, 0.0300 by labels of settings)",
        "supported: A follows accuracy more closely than B (agreement 0.500 against 0.200, difference 0.300 [0.100, "
        "0.400], Williams' p = 0.0100 for 20 effective cells, 0.0400 by labels of settings)",
        "supported: A adds to knowing the setting, with the sign it promises (partial r = -0.400 [-0.600, -0.100], "
        "p = 0.0400 by labels of settings)",
        "contradicted: B adds to knowing the setting, with the sign it promises (partial r = -0.400 [-0.600, -0.100], "
        "p = 0.0400 by labels of settings)",
        "supported: A orders settings more alike from group to group than B (Kendall's W 0.900 against 0.500, "
        "difference 0.400 [0.100, 0.600], p = 0.0200 by swaps within groups)",
    ]


@pytest.mark.parametrize(
    ("table", "change", "place", "word"),
    [
        ("metric", {"p": 0.06}, 0, "not identified"),
        ("metric", {"permutation_p": 0.051}, 0, "not identified"),
        ("metric", {"permutation_p": 0.05}, 0, "supported"),
        ("metric", {"high": 0.01}, 0, "not identified"),
        ("metric", {"low": 0.1, "high": 0.2}, 0, "contradicted"),
        ("pair", {"williams_p": 0.051}, 2, "not identified"),
        ("pair", {"williams_p": math.nan}, 2, "not identified"),
        ("pair", {"permutation_p": 0.051}, 2, "not identified"),
        ("pair", {"low": -0.01}, 2, "not identified"),
        ("pair", {"low": -0.4, "high": -0.1}, 2, "contradicted"),
        ("metric", {"partial_p": 0.06}, 3, "not identified"),
        ("metric", {"partial_high": 0.06}, 3, "not identified"),
        ("metric", {"partial_low": 0.2, "partial_high": 0.4}, 3, "contradicted"),
        ("pair", {"concordance_low": -0.1}, 5, "not identified"),
        ("pair", {"concordance_p": 0.2}, 5, "not identified"),
        ("pair", {"concordance_low": -0.4, "concordance_high": -0.1}, 5, "contradicted"),
    ],
)
def test_rules(table: str, change: dict[str, float], place: int, word: str) -> None:
    assert verdicts(**{table: [change]})[place].word == word


def test_what_is_missing_supports_nothing() -> None:
    partial = verdicts(metric=[{"partial_r": math.nan}])[3]
    assert (partial.word, partial.because) == ("not identified", "group and setting leave nothing to tell")
    alike = verdicts(pair=[{"concordance_low": math.nan, "concordance_high": math.nan}])[5]
    assert alike.word == "not identified"
    assert alike.because == "groups don't have three settings in common that some group tells apart"


def test_a_word_must_hold_in_every_set_of_cells() -> None:
    found = verdicts(pair=[{}, {"cells": "some", "williams_p": 0.2}])[2]
    assert found.word == "not identified"
    assert found.because.startswith("all: agreement 0.500 against 0.200")
    assert "; some: agreement" in found.because
    assert verdicts(pair=[{}, {"cells": "some"}])[2].word == "supported"
