"""Progress of long work, as it is told to whoever waits for it."""

from typing import Protocol


class Progress(Protocol):
    """A function that is told how far the work is; library code calls it and never draws."""

    def __call__(self, done: int, total: int, part: str = "") -> None:
        """So much of the total is done, of a part of the work where it has several; or what else is told of it."""
