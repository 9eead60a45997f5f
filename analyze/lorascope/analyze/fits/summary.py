"""What a result says: claims with their verdicts, its conclusion and one table, or everything."""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, get_args

import numpy as np
import pandas as pd  # type: ignore[import-untyped]

from lorascope.analyze.results.format import format_number

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


@dataclass(frozen=True)
class Table:
    """Rows under a title."""

    title: str
    rows: pd.DataFrame
    """Numbers as they are, at full precision; its index isn't shown."""
    note: str = ""
    """What the columns are, where their names don't say it."""
    digits: int = 4
    """Significant digits that are printed."""


@dataclass(frozen=True, repr=False)
class Summary:
    """What `summary()` of a result returns; `print` and notebooks show its short form."""

    title: str
    facts: Mapping[str, str] = field(default_factory=dict)
    tables: Sequence[Table] = ()
    """The first one is that of the short form."""
    verdicts: Sequence[Verdict] = ()
    """The conclusion, which stands first."""
    notes: Sequence[str] = ()
    """Sentences on what was done, assumed or left out."""

    def __repr__(self) -> str:
        return self.text()

    def text(self, *, full: bool = False, width: int = 100) -> str:
        """Lines of at most `width` characters: verdicts and the first table, or with `full` everything.

        A table that is wider goes on below itself, its names of rows repeated.
        """
        indent = max((len(one.word) for one in self.verdicts), default=0) + 2
        parts = [_wrapped("", self.title, width)]
        parts += [_wrapped(f"{one.word:<{indent}}", f"{one.claim}: {one.because}", width) for one in self.verdicts]
        for place, table in enumerate(self.tables if full else self.tables[:1]):
            parts += ["", _wrapped("", table.title, width), *_aligned(table, width)]
            parts += [_wrapped("", table.note, width)] if table.note and (full or place) else []
        if full:
            indent = max(map(len, self.facts), default=0) + 2
            parts += ["", *(_wrapped(f"{name:<{indent}}", value, width) for name, value in self.facts.items())]
            parts += [_wrapped("* ", note, width) for note in self.notes]
        return "\n".join(parts).rstrip("\n")


def _texts(table: Table) -> list[list[str]]:
    """A table's cells as text, the header first: nothing for what is missing, `n/a` for a number that is none."""
    columns = [[name, *(_text(value, table.digits) for value in column)] for name, column in table.rows.items()]
    return [list(map(str, row)) for row in zip(*columns, strict=True)] or [[]]


def _text(value: object, digits: int) -> str:
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    return format_number(value, digits=digits) if isinstance(value, float) else "" if value is None else str(value)


def _wrapped(first: str, text: str, width: int) -> str:
    """One paragraph behind `first`, its other lines indented alike; line breaks of the text are spelt out."""
    spelt = f"{first}{text}".replace("\n", "\\n")
    return "\n".join(textwrap.wrap(spelt, max(width, 20), subsequent_indent=" " * len(first)))


def _aligned(table: Table, width: int) -> list[str]:
    """Lines of text, as pandas breaks them: columns before the first one of numbers name the rows of every stretch."""
    header, *rows = [[text.replace("\n", "\\n") for text in row] for row in _texts(table)]
    if not rows:
        return ["  ".join(header)]
    is_name = [not pd.api.types.is_numeric_dtype(dtype) for dtype in table.rows.dtypes]
    n_names = min([*is_name, False].index(False), len(is_name) - 1)
    sizes = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    header, *rows = [
        [text.ljust(size) if left else text for text, size, left in zip(row, sizes, is_name, strict=True)]
        for row in (header, *rows)
    ]
    names, *labels = ["  ".join(row[:n_names]) for row in (header, *rows)]
    index, columns = pd.Index(labels, dtype=object), pd.Index(header[n_names:], dtype=object, name=names)
    frame = pd.DataFrame([row[n_names:] for row in rows], index, columns, dtype=object)
    return [
        line.rstrip().removesuffix("\\").rstrip()
        for line in frame.to_string(line_width=width, index=n_names > 0).split("\n")
    ]
