"""Progress of long work, as a function that the caller passes in."""

from typing import Protocol


class Progress(Protocol):
    """A function that library code calls as its work goes on; the library itself never draws."""

    def __call__(self, done: int, total: int, part: str = "") -> None:
        """Report what is done of the total, of a part of the work where it has several; `part` may also be a notice."""
