"""Errors of runs on disk, and the problems that checks return."""

from collections.abc import Iterable
from dataclasses import dataclass

N_PLACES_SHOWN = 2
"""Number of places that a message names; further ones are counted."""


class StoreError(ValueError):
    """Error about a run on disk that is wrong or would become wrong; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem that a check of a run or an adapter found: its place, its kind and a sentence about it."""

    place: str
    """Place of the problem: a chunk's key, row or array; a module's path, a key of an adapter's file, the adapter."""
    kind: str
    """Kind of problem, in one word: missing, empty, digest, decode, nan, zero, repeated; merged, disabled, shape ..."""
    message: str
    """The finding as a sentence."""


def join_problems(problems: Iterable[Problem], *, unnamed: str = "") -> str:
    """Return all problems as one line of text: each message once, followed by the places that have it.

    The place `unnamed` isn't named.
    """
    grouped: dict[str, list[str]] = {}
    for problem in problems:
        grouped.setdefault(problem.message, []).extend([problem.place] if problem.place != unnamed else [])
    reasons = []
    for message, places in grouped.items():
        more = f" and {len(places) - N_PLACES_SHOWN} more" if len(places) > N_PLACES_SHOWN else ""
        reasons.append(f"{message} ({', '.join(places[:N_PLACES_SHOWN])}{more})" if places else message)
    return "; ".join(reasons)
