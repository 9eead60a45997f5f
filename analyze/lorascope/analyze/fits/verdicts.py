"""Claims with the word that the data give them, and the parts of a result that are printed and stored."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import pandas as pd  # type: ignore[import-untyped]

from lorascope.analyze.results.format import format_number
from lorascope.analyze.results.save import plain

Word = Literal["supported", "not identified", "contradicted"]
WORDS: tuple[str, ...] = get_args(Word)
ROUNDING = 1e-12
"""Largest excess of a p-value over 1 - level that still counts, since 1 - 0.95 isn't 0.05 to the last bit."""


class Verdict(NamedTuple):
    """A claim and what the data say of it."""

    claim: str
    """A sentence that could be wrong."""
    word: Word
    """`supported`: the data speak for it; `contradicted`: against it; `not identified`: they can't tell."""
    because: str
    """The number behind the word, its interval or test, and how many values it comes from."""

    def __str__(self) -> str:
        return f"{self.word}: {self.claim} ({self.because})"


def is_small(p_value: float, level: float) -> bool:
    """Whether a p-value is at most 1 - level; NaN isn't."""
    return p_value <= 1 - level + ROUNDING


@dataclass(frozen=True, repr=False)
class Summary:
    """The parts of a result in the order in which they are printed; its text has verdicts and the first table."""

    title: str
    verdicts: Sequence[Verdict]
    tables: Mapping[str, pd.DataFrame]
    """Title -> rows, with numbers at full precision."""
    notes: Sequence[str]
    """Sentences on what was done, assumed or left out."""
    provenance: Mapping[str, Any]
    """Settings, versions, and a hash of the rows in use."""

    def __repr__(self) -> str:
        title, rows = next(iter(self.tables.items()))
        text = rows.to_string(index=False, float_format=lambda value: format_number(value, digits=4))
        return "\n".join([self.title, *map(str, self.verdicts), "", title, text])

    def to_dict(self) -> dict[str, Any]:
        """All parts as JSON has them, at full precision; NaN is null."""
        parts: dict[str, Any] = plain(self)
        return parts
