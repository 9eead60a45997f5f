"""What a result prints: its conclusion and one table, or everything, as text or Markdown."""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral, Real

import numpy as np
import pandas as pd  # type: ignore[import-untyped]

from ..format import format_number
from .verdict import Verdict

__all__ = ["Summary", "Table", "cell_text", "markdown_text"]

GAP = 2
"""Blanks between two columns of text."""


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
        parts = [_wrapped("", self.title, width)]
        indent = max((len(one.word) for one in self.verdicts), default=0) + GAP
        parts += [_wrapped(f"{one.word:<{indent}}", f"{one.claim}: {one.because}", width) for one in self.verdicts]
        for place, table in enumerate(self.tables if full else self.tables[:1]):
            parts += ["", _wrapped("", table.title, width), *_aligned(_texts(table), width)]
            parts += [_wrapped("", table.note, width)] if table.note and (full or place) else []
        if full:
            names = max((len(name) for name in self.facts), default=0) + GAP
            parts += ["", *(_wrapped(f"{name:<{names}}", value, width) for name, value in self.facts.items())]
            parts += [_wrapped("* ", note, width) for note in self.notes]
        return "\n".join(parts).rstrip("\n")

    def as_markdown(self) -> str:
        """Everything, with tables of pipes under headings of the third level; no name in it is markup."""
        parts = [f"## {markdown_text(self.title)}"]
        if self.verdicts:
            lines = [f"- **{one.word}**: {markdown_text(f'{one.claim} ({one.because})')}" for one in self.verdicts]
            parts += ["### Verdicts", "\n".join(lines)]
        for table in self.tables:
            cells = [[markdown_text(text).replace("|", "\\|") for text in row] for row in _texts(table)]
            lines = [f"| {' | '.join(row)} |" for row in cells]
            lines.insert(1, "|" + " --- |" * len(table.rows.columns))
            parts += [f"### {markdown_text(table.title)}", "\n".join(lines)]
            parts += [markdown_text(table.note)] if table.note else []
        remarks = [*(f"{name}: {value}" for name, value in self.facts.items()), *self.notes]
        parts += ["### Remarks", "\n".join(f"- {markdown_text(one)}" for one in remarks)] if remarks else []
        return "\n\n".join(parts) + "\n"


def cell_text(value: object, digits: int = 4) -> str:
    """A value as tables print it; nothing for what is missing, `n/a` for a number that is none."""
    if value is None or value is pd.NA or value is pd.NaT:
        return ""
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, str):
        return value
    if isinstance(value, Integral):
        return str(int(value))
    return format_number(float(value), digits=digits) if isinstance(value, Real) else str(value)


def markdown_text(text: str) -> str:
    r"""Text in a line of Markdown: tags, entities and links in it are shown, not obeyed.

    Examples
    --------
    >>> print(markdown_text("<b>&amp;\n[a](b)"))
    &lt;b>&amp;amp; [a]\(b)
    """
    return " ".join(text.splitlines()).replace("&", "&amp;").replace("<", "&lt;").replace("](", "]\\(")


def _texts(table: Table) -> list[list[str]]:
    """A table's cells as text, the header first."""
    header = [str(name) for name in table.rows.columns]
    columns = [[cell_text(value, table.digits) for value in table.rows[name]] for name in table.rows.columns]
    return [header, *map(list, zip(*columns, strict=True))]


def _wrapped(first: str, text: str, width: int) -> str:
    """One paragraph behind `first`, its other lines indented alike; line breaks of the text are spelt out."""
    spelt = f"{first}{text}".replace("\n", "\\n")
    return "\n".join(textwrap.wrap(spelt, max(width, 20), subsequent_indent=" " * len(first)))


def _aligned(rows: Sequence[Sequence[str]], width: int) -> list[str]:
    """Lines of text: columns of numbers to the right, others to the left; too many for a line go on below it."""
    cells = [[text.replace("\n", "\\n") for text in row] for row in rows]
    widths = [max(len(row[k]) for row in cells) for k in range(len(cells[0]))]
    right = [all(_is_number(row[k]) for row in cells[1:]) for k in range(len(widths))]
    lines = []
    for n, part in enumerate(_parts(widths, right, width)):
        lines += [""] if n else []
        for row in cells:
            aligned = (row[k].rjust(widths[k]) if right[k] else row[k].ljust(widths[k]) for k in part)
            lines.append((" " * GAP).join(aligned).rstrip())
    return lines


def _parts(widths: Sequence[int], right: Sequence[bool], width: int) -> list[list[int]]:
    """Places of columns for each stretch of a table that fits a line; each begins with those that name the rows."""
    if sum(widths) + GAP * (len(widths) - 1) <= width:
        return [list(range(len(widths)))]
    names = list(range(right.index(True))) if True in right else [0]
    if sum(widths[k] + GAP for k in names) > width / 2:
        names = names[:1]
    taken = sum(widths[k] + GAP for k in names)
    parts, used = [[*names]], taken
    for k in range(len(names), len(widths)):
        if used + widths[k] > width and len(parts[-1]) > len(names):
            parts.append([*names])
            used = taken
        parts[-1].append(k)
        used += widths[k] + GAP
    return parts


def _is_number(text: str) -> bool:
    return not text or text[0] in "-0123456789∞" or text == "n/a"
