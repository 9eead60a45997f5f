"""What one check of a table hands back, and how its rows and sentences are put together."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import pandas as pd  # type: ignore[import-untyped]

from ..stats.verdict import Verdict

__all__ = ["Part", "joined", "rows_table", "spoken"]


class Part(NamedTuple):
    """One check: its rows, and what they say."""

    table: pd.DataFrame
    findings: tuple[str, ...] = ()
    """A sentence on each thing that is wrong; none where nothing is."""
    verdicts: tuple[Verdict, ...] = ()
    notes: tuple[str, ...] = ()
    """What couldn't be checked."""


def rows_table(kind: Any, rows: Iterable[tuple[Any, ...]]) -> pd.DataFrame:
    """A table of named tuples of this kind, with its columns even where there are no rows."""
    return pd.DataFrame(list(rows), columns=list(kind._fields))


def joined(texts: Sequence[str], *, most: int | None = None, mark: str = ", ") -> str:
    """Texts in a row, those beyond `most` as their number.

    Examples
    --------
    >>> joined(["a", "b", "c", "d"], most=2)
    'a, b and 2 more'
    """
    named = mark.join(texts[:most])
    return f"{named} and {len(texts) - most} more" if most is not None and len(texts) > most else named


def spoken(*names: str) -> str:
    """Names side by side, without empty ones: a table without groups has a group without a name.

    Examples
    --------
    >>> spoken("", "ARCE", "r32")
    'ARCE r32'
    """
    return " ".join(filter(None, names))
