import math

import pytest

from lorascope.analyze.stats.verdict import WORDS, Verdict, is_small, word_of


def test_verdicts_are_sentences() -> None:
    assert str(Verdict("it falls", "supported", "5 of 5")) == "supported: it falls (5 of 5)"
    assert WORDS == ("supported", "not identified", "contradicted")


@pytest.mark.parametrize(
    ("p_value", "low", "high", "word"),
    [
        (0.05, 0.1, 0.2, "supported"),
        (0.05, -0.2, -0.1, "contradicted"),
        (0.05, -0.1, 0.1, "not identified"),
        (0.05, 0.0, 0.1, "not identified"),
        (0.051, 0.1, 0.2, "not identified"),
        (0.0, math.nan, math.nan, "not identified"),
        (math.nan, 0.1, 0.2, "not identified"),
    ],
)
def test_words(p_value: float, low: float, high: float, word: str) -> None:
    assert word_of(p_value, low, high, 0.95) == word


def test_a_p_of_exactly_one_less_the_level_counts() -> None:
    assert is_small(0.1, 0.9)  # 1 - 0.9 is less than 0.1 in floating-point numbers
    assert not is_small(0.1000001, 0.9)
