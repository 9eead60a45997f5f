"""What the numbers say of a claim, in one of three words."""

from typing import Literal, NamedTuple, get_args

__all__ = ["WORDS", "Verdict", "Word"]

Word = Literal["supported", "not identified", "contradicted"]
WORDS: tuple[str, ...] = get_args(Word)


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
