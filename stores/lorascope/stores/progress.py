"""Type of the function that reports progress of long work."""

from typing import Protocol


class Progress(Protocol):
    """Function of the caller, such as a progress bar's update, that the library calls as its work goes on."""

    def __call__(self, done: int, total: int, part: str = "") -> None:
        """Report that `done` of `total` steps are done, in this part of the work; `part` may also be a notice."""
