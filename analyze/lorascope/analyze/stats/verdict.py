"""What the numbers say of a claim, in one of three words, and the one rule that gives the word."""

from typing import Literal, NamedTuple, get_args

__all__ = ["WORDS", "Verdict", "Word", "is_small", "word_of"]

Word = Literal["supported", "not identified", "contradicted"]
WORDS: tuple[str, ...] = get_args(Word)
ROUNDING = 1e-12
"""How far a p-value may lie above 1 - level and still count, since 1/20 as a sum isn't 0.05 to the last bit."""


class Verdict(NamedTuple):
    """A claim and what the data say of it."""

    claim: str
    """A sentence that could be wrong."""
    word: Word
    """`supported`: the data speak for it; `contradicted`: against it; `not identified`: they can't tell."""
    because: str
    """The number behind the word, with what it is and how many values it comes from."""

    def __str__(self) -> str:
        return f"{self.word}: {self.claim} ({self.because})"


def is_small(p_value: float, level: float) -> bool:
    """Whether a p-value is at most 1 - level; NaN isn't."""
    return p_value <= 1 - level + ROUNDING


def word_of(p_value: float, low: float, high: float, level: float) -> Word:
    """The word for a claim that a number is above 0: a small p-value, and an interval on one side of 0."""
    if is_small(p_value, level) and low > 0:
        return "supported"
    return "contradicted" if is_small(p_value, level) and high < 0 else "not identified"
