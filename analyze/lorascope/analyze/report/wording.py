"""Pieces of sentences: quoted tokens, joined names, numbers of samples, and the rows of tables that they name."""

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import xarray as xr

from lorascope.stores.visible import one_line

from .markup import NO_BREAK

LEVEL = 0.05
"""Largest p at which a sentence claims something; above it the sentence says that it can't tell."""
N_NAMED = 3
"""Most tokens, forms or words that a sentence names."""


def quoted(*texts: str) -> str:
    """Return tokens in quotes, with line breaks as escapes and no-break spaces.

    A browser neither joins nor breaks these.
    """
    return ", ".join(f"“{one_line(text).replace(' ', NO_BREAK)}”" for text in texts)


def join_names(names: Sequence[str]) -> str:
    """Return names separated by commas, with "and" before the last one."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def sample_count(n: int) -> str:
    """Return a number of samples in words, with a warning if there is one sample only."""
    return "one sample, which gives no error" if n == 1 else f"{n} samples"


def rows_of(part: xr.Dataset) -> list[Any]:
    """Return the rows of a dataset along its only or first dimension, as objects with an attribute per variable."""
    columns = {str(name): values.values.tolist() for name, values in part.variables.items()}
    return [SimpleNamespace(**dict(zip(columns, row, strict=True))) for row in zip(*columns.values(), strict=True)]


def significant(part: xr.Dataset) -> xr.Dataset:
    """Return the entries of a dataset with p up to 0.05, which are what the page names."""
    return part.isel({part["p"].dims[0]: (part["p"] <= LEVEL).values})


def rises_and_falls(
    rows: Sequence[Any], change: Callable[[Any], float], describe: Callable[[Any], str], verbs: tuple[str, str]
) -> str:
    """Return a claim on the first rows whose change is above 0, then on those below 0, after a verb each; or ''."""
    parts = list[str]()
    for verb, sign in zip(verbs, (1, -1), strict=True):
        names = [describe(row) for row in rows if sign * change(row) > 0][:N_NAMED]
        parts += [f"{verb} {', '.join(names)}"] if names else []
    text = "; ".join(parts)
    return f"{text[:1].upper()}{text[1:]}"
