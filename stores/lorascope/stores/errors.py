"""The error that every reader and writer of a run raises, and the finding that every check returns."""

from collections.abc import Iterable
from dataclasses import dataclass

SHOWN = 2
"""Places named in an error before the rest is only counted."""


class StoreError(ValueError):
    """A store is wrong, or an operation would make it wrong; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem that a check found."""

    place: str
    """Place of the problem: a chunk's key, row or array; a module's path, a key of an adapter's file, the adapter."""
    kind: str
    """Kind of problem, in one word: missing, empty, digest, decode, nan, zero, repeated; merged, disabled, shape ..."""
    message: str
    """The finding as a sentence."""


def join_problems(problems: Iterable[Problem], *, but: str = "") -> str:
    """All problems in one line, each message once with its places, but for one that needs no name; empty for none."""
    grouped: dict[str, list[str]] = {}
    for problem in problems:
        grouped.setdefault(problem.message, []).extend([problem.place] if problem.place != but else [])
    reasons = []
    for message, places in grouped.items():
        more = f" and {len(places) - SHOWN} more" if len(places) > SHOWN else ""
        reasons.append(f"{message} ({', '.join(places[:SHOWN])}{more})" if places else message)
    return "; ".join(reasons)
