"""What functions say in the words of Python, in those of the command line."""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import pandas as pd  # type: ignore[import-untyped]

from lorascope.analyze.stats.summary import Summary, Table

__all__ = ["command_words", "short_numbers", "translated", "translated_summary"]

WORDS = (
    ("give None if it has no averages", "give none if it has no averages"),
    (r"\bor None\b", "or leave it out"),
    (r"`directions`", "`direction`"),
    (r"`ceilings`", "`ceiling`"),
    (r"`(order|direction|ceiling)s?\[('[^']*')\]`", r"`\1` of \2"),
    (r" \(`frame\.drop_duplicates\(\)`\)", ""),
    (r"see conf_int\('cluster'\)", "without --quick a fit has those of bootstraps"),
    (r"fit with huber=None and residuals='relative', or look at `conf_int\('cluster'\)`",
     "fit without --huber and with --residuals relative, or see the bootstraps"),
    (r"^`path` is", "`study` is"),
)  # fmt: skip
"""Pattern -> what to say instead."""
LEVELS = re.compile(r"(?:E\[[^\]]*\], ){5,}")
"""Names of the levels of many groups."""
MOST_NAMED = 3
LONG = re.compile(r"(?<![\w.])\d{7,}(?:\.0)?(?![\w.])")
"""A whole number that nobody reads digit by digit."""


def translated(text: str) -> str:
    """A message with the options of the command line in it.

    Examples
    --------
    >>> translated("`ceilings['CE']` names 'x'; it is a share, or None")
    "`ceiling` of 'CE' names 'x'; it is a share, or leave it out"
    """
    for pattern, instead in WORDS:
        text = re.sub(pattern, instead, text)
    return LEVELS.sub(_some, text)


def _some(levels: re.Match[str]) -> str:
    names = levels[0].split(", ")[:-1]
    return f"{', '.join(names[:MOST_NAMED])}, {len(names) - MOST_NAMED} more levels, "


@contextmanager
def command_words() -> Iterator[None]:
    """A ValueError that comes through says the same in the words of the command line."""
    try:
        yield
    except ValueError as error:
        error.args = tuple(translated(one) if isinstance(one, str) else one for one in error.args)
        raise


def translated_summary(summary: Summary) -> Summary:
    """A summary whose notes don't speak of Python."""
    tables = [replace(table, note=translated(table.note)) for table in summary.tables]
    return replace(summary, tables=tables, notes=[translated(note) for note in summary.notes])


def short_numbers(summary: Summary) -> Summary:
    """A summary whose texts, such as names of blocks, have 3.82e9 for 3821079552, with digits enough to tell apart."""
    texts = [str(value) for table in summary.tables for _, column in table.rows.items() for value in column
             if isinstance(value, str)]  # fmt: skip
    texts += [text for one in summary.verdicts for text in (one.claim, one.because)] + list(summary.notes)
    short = _shortened([found for text in texts for found in LONG.findall(text)])

    def said(text: str) -> str:
        return LONG.sub(lambda found: short[found[0]], text)

    return replace(
        summary,
        tables=[_retold(table, said) for table in summary.tables],
        verdicts=[one._replace(claim=said(one.claim), because=said(one.because)) for one in summary.verdicts],
        notes=[said(note) for note in summary.notes],
    )


def _retold(table: Table, said: Callable[[str], str]) -> Table:
    def cell(value: object) -> object:
        return said(value) if isinstance(value, str) else value

    columns = {
        name: column if pd.api.types.is_numeric_dtype(column.dtype) else column.map(cell)
        for name, column in table.rows.items()
    }
    return replace(table, rows=table.rows.assign(**columns))


def _shortened(numbers: Sequence[str]) -> dict[str, str]:
    """Each number in as few digits, three or more, as keep all of them apart."""
    found: dict[str, str] = {}
    for digits in range(3, 18):
        found = {one: re.sub(r"e\+0*", "e", f"{float(one):.{digits}g}") for one in numbers}
        if len(set(found.values())) == len(set(map(float, numbers))):
            break
    return found
