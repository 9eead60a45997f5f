"""The error that every reader and writer of a run raises, and the finding that every check returns."""

from dataclasses import dataclass

__all__ = ["Problem", "StoreError"]


class StoreError(ValueError):
    """A store isn't what it should be, or an operation would make it so; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that a check found; checks return them all, and raising is a step of its own."""

    place: str
    """Where it is: a chunk's key, a row or an array; a module's path, a key of an adapter's file, or the adapter."""
    kind: str
    """What it is, in one word: missing, empty, digest, decode, nan, zero, repeated; merged, disabled, shape ..."""
    message: str
    """The finding as a sentence."""
