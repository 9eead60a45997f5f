from typing import get_args

from lorascope.analyze.stats.verdict import WORDS, Verdict, Word


def test_three_words() -> None:
    assert get_args(Word) == WORDS == ("supported", "not identified", "contradicted")


def test_a_verdict_as_text() -> None:
    verdict = Verdict("It falls", "not identified", "3 values")
    assert str(verdict) == "not identified: It falls (3 values)"
    assert verdict == ("It falls", "not identified", "3 values")
