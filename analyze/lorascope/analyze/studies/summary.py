"""What a result prints: facts, tables, verdicts and remarks, as text, Markdown or HTML."""

import html
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral, Real

import pandas as pd  # type: ignore[import-untyped]

from ..format import format_number
from .verdict import Verdict

__all__ = ["Summary", "Table", "cell_text"]

WIDTH = 100
"""Characters of a rule of the text form."""


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


@dataclass(frozen=True)
class Summary:
    """What `summary()` of a result returns; `print` shows its text, a notebook its HTML."""

    title: str
    facts: Mapping[str, str] = field(default_factory=dict)
    tables: Sequence[Table] = ()
    verdicts: Sequence[Verdict] = ()
    notes: Sequence[str] = ()
    """Sentences on what was done or left out."""

    def __str__(self) -> str:
        return self.as_text()

    def as_text(self) -> str:
        """Aligned columns, for a terminal."""
        parts = ["=" * WIDTH, self.title, "=" * WIDTH]
        width = max((len(name) for name in self.facts), default=0)
        parts += [f"{name:<{width}}  {value}" for name, value in self.facts.items()]
        for table in self.tables:
            parts += ["-" * WIDTH, table.title, *_aligned(_texts(table)), *([table.note] if table.note else [])]
        if self.verdicts:
            parts += ["-" * WIDTH, "verdicts", *(f"  {verdict}" for verdict in self.verdicts)]
        parts += ["-" * WIDTH, *(f"* {note}" for note in self.notes)] if self.notes else []
        return "\n".join([*parts, "=" * WIDTH])

    def as_markdown(self) -> str:
        """Tables of pipes, under headings of the third level."""
        parts = [f"## {self.title}"]
        parts += ["\n".join(f"- {name}: {value}" for name, value in self.facts.items())] if self.facts else []
        for table in self.tables:
            lines = [f"| {' | '.join(map(_markdown_cell, row))} |" for row in _texts(table)]
            lines.insert(1, "|" + " --- |" * len(table.rows.columns))
            parts += [f"### {table.title}", "\n".join(lines)]
            parts += [table.note] if table.note else []
        if self.verdicts:
            lines = [f"- **{one.word}**: {one.claim} ({one.because})" for one in self.verdicts]
            parts += ["### Verdicts", "\n".join(lines)]
        parts += ["### Remarks", "\n".join(f"- {note}" for note in self.notes)] if self.notes else []
        return "\n\n".join(parts) + "\n"

    def _repr_html_(self) -> str:
        parts = [_tag("h3", self.title)]
        parts += [_list(f"{name}: {value}" for name, value in self.facts.items())] if self.facts else []
        for table in self.tables:
            header, *rows = _texts(table)
            head = "".join(_tag("th", text) for text in header)
            body = "".join(f"<tr>{''.join(_tag('td', text) for text in row)}</tr>" for row in rows)
            parts += [_tag("h4", table.title), f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"]
            parts += [_tag("p", table.note)] if table.note else []
        parts += [_tag("h4", "Verdicts"), _list(map(str, self.verdicts))] if self.verdicts else []
        parts += [_tag("h4", "Remarks"), _list(self.notes)] if self.notes else []
        return "\n".join(parts)


def cell_text(value: object, digits: int = 4) -> str:
    """A value as tables print it; nothing for None."""
    if value is None or value is pd.NA:
        return ""
    if isinstance(value, str | bool):
        return {True: "yes", False: "no"}.get(value, str(value)) if isinstance(value, bool) else value
    if isinstance(value, Integral):
        return str(int(value))
    return format_number(float(value), digits=digits) if isinstance(value, Real) else str(value)


def _texts(table: Table) -> list[list[str]]:
    """A table's cells as text, the header first."""
    header = [str(name) for name in table.rows.columns]
    columns = [[cell_text(value, table.digits) for value in table.rows[name]] for name in table.rows.columns]
    return [header, *map(list, zip(*columns, strict=True))]


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of text: columns of numbers to the right, others to the left."""
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    right = [all(_is_number(row[k]) for row in rows[1:]) for k in range(len(rows[0]))]
    sides: list[Callable[[str, int], str]] = [str.rjust if one else str.ljust for one in right]
    return [
        "  ".join(side(text, width) for text, width, side in zip(row, widths, sides, strict=True)).rstrip()
        for row in rows
    ]


def _is_number(text: str) -> bool:
    return not text or text[0] in "-0123456789∞" or text == "n/a"


def _markdown_cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _tag(name: str, text: str) -> str:
    return f"<{name}>{html.escape(text)}</{name}>"


def _list(lines: object) -> str:
    return "<ul>" + "".join(_tag("li", str(line)) for line in lines) + "</ul>"  # type: ignore[attr-defined]
