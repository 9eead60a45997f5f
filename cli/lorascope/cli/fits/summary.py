"""A result's summary on the terminal: tables that are wider than it are cut into several."""

from collections.abc import Iterator, Sequence

from pandas.api.types import is_numeric_dtype  # type: ignore[import-untyped]
from rich.box import SIMPLE_HEAD
from rich.table import Table as Grid
from rich.text import Text

from lorascope.analyze.stats.summary import Summary, Table, cell_text
from lorascope.analyze.stats.verdict import Verdict

from ..screen import console, one_line, say

__all__ = ["print_summary"]

WIDEST = 36
"""Characters of a column of text that are worth their width; longer cells are broken."""
MOST_LABELS = 4
"""Columns of names, with which a table begins, that are repeated in each part of it."""
STYLES = {"supported": "green", "not identified": "yellow", "contradicted": "red"}
LEAST = 20
"""Characters that a claim has for itself, however narrow the terminal."""
BETWEEN = 2
"""Blanks between columns."""
PADDING = (0, BETWEEN - 1, 0, 0)
"""Top, right, bottom, left of a cell; a box without lines adds one blank between two."""


def print_summary(summary: Summary) -> None:
    """Facts, verdicts, tables and remarks."""
    say(f"\n{one_line(summary.title)}")
    width = max((len(name) for name in summary.facts), default=0)
    for name, value in summary.facts.items():
        say(one_line(f"  {name:<{width}}  {value}"))
    if summary.verdicts:
        _print_verdicts(summary.verdicts)
    for table in summary.tables:
        _print(table)
    for note in summary.notes:
        say(one_line(f"* {note}"))


def _print_verdicts(verdicts: Sequence[Verdict]) -> None:
    """The word, the claim beside it, and below that the number behind it."""
    say("\nverdicts")
    taken = max(len(one.word) for one in verdicts) + BETWEEN
    room = max(console.width - taken, LEAST)
    for one in verdicts:
        claim = Text(one_line(one.claim)).wrap(console, room, overflow="fold")
        because = Text(one_line(one.because), style="dim").wrap(console, room, overflow="fold")
        for n, line in enumerate([*claim, *because]):
            line.rstrip()
            word = Text(f"{one.word if n == 0 else '':<{taken}}", style=STYLES[one.word] if n == 0 else "")
            console.print(word + line, soft_wrap=True)


def _print(table: Table) -> None:
    names = [one_line(str(name)) for name in table.rows.columns]
    rows = table.rows.itertuples(index=False, name=None)
    cells = [[one_line(cell_text(value, table.digits)) for value in row] for row in rows]
    is_text = [not is_numeric_dtype(dtype) for dtype in table.rows.dtypes]
    inner = [max((len(row[k]) for row in cells), default=0) for k in range(len(names))]
    headers = names
    if _taken(names, inner) > console.width:
        headers = [_broken(name, room) for name, room in zip(names, inner, strict=True)]
    widths = [_taken([header], [room]) for header, room in zip(headers, inner, strict=True)]
    parts = list(_parts(widths, is_text, console.width))
    for place, part in enumerate(parts):
        say(f"\n{one_line(table.title)}" + (f" ({place + 1} of {len(parts)})" if len(parts) > 1 else ""))
        grid = Grid(
            box=SIMPLE_HEAD, padding=(0, BETWEEN - 1, 0, 0), pad_edge=False, show_edge=False, header_style="bold"
        )
        for k in part:
            grid.add_column(Text(headers[k]), justify="left" if is_text[k] else "right", overflow="fold")
        for row in cells:
            grid.add_row(*(Text(row[k]) for k in part))
        console.print(grid)
    if table.note:
        say(one_line(table.note))


def _taken(headers: Sequence[str], inner: Sequence[int]) -> int:
    """Characters that columns take, those between them included."""
    lines = [max(map(len, header.split("\n"))) for header in headers]
    return sum(min(max(both), WIDEST) + BETWEEN for both in zip(lines, inner, strict=True))


def _broken(name: str, room: int) -> str:
    """A column's name on several lines, each no longer than its cells if its words aren't."""
    words = name.replace("_", "_\n").replace(" ", "\n").split("\n")
    lines = words[:1]
    for word in words[1:]:
        mark = "" if lines[-1].endswith("_") else " "
        if len(lines[-1] + mark + word) <= max(room, *map(len, words)):
            lines[-1] += mark + word
        else:
            lines.append(word)
    return "\n".join(lines)


def _parts(widths: Sequence[int], is_text: Sequence[bool], room: int) -> Iterator[list[int]]:
    """Places of the columns of each part of a table, none wider than the terminal if that can be."""
    n_labels = min(is_text.index(False) if False in is_text else 1, MOST_LABELS)
    while n_labels > 1 and sum(widths[:n_labels]) > room / 2:
        n_labels -= 1
    labels, part = list(range(n_labels)), list[int]()
    for k in range(n_labels, len(widths)):
        if part and sum(widths[one] for one in [*labels, *part, k]) > room:
            yield [*labels, *part]
            part = []
        part.append(k)
    yield [*labels, *part]
