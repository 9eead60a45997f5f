"""What a result prints: facts, tables, verdicts and remarks, as text, Markdown or HTML."""

import html
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral, Real

import numpy as np
import pandas as pd  # type: ignore[import-untyped]

from ..format import format_number
from .verdict import Verdict

__all__ = ["Summary", "Table", "cell_text", "markdown_text"]

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


@dataclass(frozen=True, repr=False)
class Summary:
    """What `summary()` of a result returns; `print` shows its text, a notebook its HTML."""

    title: str
    facts: Mapping[str, str] = field(default_factory=dict)
    tables: Sequence[Table] = ()
    verdicts: Sequence[Verdict] = ()
    notes: Sequence[str] = ()
    """Sentences on what was done or left out."""
    findings: Sequence[str] = ()
    """Sentences on what is wrong, said before the tables."""

    def __repr__(self) -> str:
        return self.as_text()

    def as_text(self) -> str:
        """Aligned columns, for a terminal."""
        parts = ["=" * WIDTH, _spelt(self.title), "=" * WIDTH]
        width = max((len(name) for name in self.facts), default=0)
        parts += [_spelt(f"{name:<{width}}  {value}") for name, value in self.facts.items()]
        if self.verdicts:
            parts += ["-" * WIDTH, "verdicts", *(_spelt(f"  {verdict}") for verdict in self.verdicts)]
        if self.findings:
            parts += ["-" * WIDTH, "findings", *(_spelt(f"  {finding}") for finding in self.findings)]
        for table in self.tables:
            cells = [[_spelt(text) for text in row] for row in _texts(table)]
            parts += ["-" * WIDTH, _spelt(table.title), *_aligned(cells), *([_spelt(table.note)] if table.note else [])]
        parts += ["-" * WIDTH, *(_spelt(f"* {note}") for note in self.notes)] if self.notes else []
        return "\n".join([*parts, "=" * WIDTH])

    def as_markdown(self) -> str:
        """Tables of pipes, under headings of the third level; no name in it is markup."""
        parts = [f"## {markdown_text(self.title)}"]
        parts += [_points(f"{name}: {value}" for name, value in self.facts.items())] if self.facts else []
        if self.verdicts:
            lines = [f"- **{one.word}**: {markdown_text(f'{one.claim} ({one.because})')}" for one in self.verdicts]
            parts += ["### Verdicts", "\n".join(lines)]
        parts += ["### Findings", _points(self.findings)] if self.findings else []
        for table in self.tables:
            lines = [f"| {' | '.join(map(_markdown_cell, row))} |" for row in _texts(table)]
            lines.insert(1, "|" + " --- |" * len(table.rows.columns))
            parts += [f"### {markdown_text(table.title)}", "\n".join(lines)]
            parts += [markdown_text(table.note)] if table.note else []
        parts += ["### Remarks", _points(self.notes)] if self.notes else []
        return "\n\n".join(parts) + "\n"

    def _repr_html_(self) -> str:
        parts = [_tag("h3", self.title)]
        parts += [_list(f"{name}: {value}" for name, value in self.facts.items())] if self.facts else []
        parts += [_tag("h4", "Verdicts"), _list(map(str, self.verdicts))] if self.verdicts else []
        parts += [_tag("h4", "Findings"), _list(self.findings)] if self.findings else []
        for table in self.tables:
            header, *rows = _texts(table)
            head = "".join(_tag("th", text) for text in header)
            body = "".join(f"<tr>{''.join(_tag('td', text) for text in row)}</tr>" for row in rows)
            parts += [_tag("h4", table.title), f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"]
            parts += [_tag("p", table.note)] if table.note else []
        parts += [_tag("h4", "Remarks"), _list(self.notes)] if self.notes else []
        return "\n".join(parts)


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


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of text: columns of numbers to the right, others to the left; too many for a line go on below it."""
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    right = [all(_is_number(row[k]) for row in rows[1:]) for k in range(len(rows[0]))]
    lines = []
    for n, part in enumerate(_parts(widths, right)):
        lines += [""] if n else []
        lines += [
            "  ".join(row[k].rjust(widths[k]) if right[k] else row[k].ljust(widths[k]) for k in part).rstrip()
            for row in rows
        ]
    return lines


def _parts(widths: Sequence[int], right: Sequence[bool]) -> list[list[int]]:
    """Places of columns for each stretch of a table that fits a line; each begins with those that name the rows."""
    names = list(range(next((k for k, one in enumerate(right) if one), len(right))))
    taken = sum(widths[k] + 2 for k in names)
    if sum(widths) + 2 * len(widths) - 2 <= WIDTH or taken > WIDTH / 2:
        names, taken = names[:1], sum(widths[:1]) + 2
    parts, used = [[*names]], taken
    for k in range(len(names), len(widths)):
        if used + widths[k] > WIDTH and len(parts[-1]) > len(names):
            parts.append([*names])
            used = taken
        parts[-1].append(k)
        used += widths[k] + 2
    return parts


def _is_number(text: str) -> bool:
    return not text or text[0] in "-0123456789∞" or text == "n/a"


def _spelt(text: str) -> str:
    """The same text in one line."""
    return text.replace("\n", "\\n")


def _points(lines: Iterable[str]) -> str:
    return "\n".join(f"- {markdown_text(line)}" for line in lines)


def _markdown_cell(text: str) -> str:
    return markdown_text(text).replace("|", "\\|")


def _tag(name: str, text: str) -> str:
    return f"<{name}>{html.escape(text)}</{name}>"


def _list(lines: object) -> str:
    return "<ul>" + "".join(_tag("li", str(line)) for line in lines) + "</ul>"  # type: ignore[attr-defined]
