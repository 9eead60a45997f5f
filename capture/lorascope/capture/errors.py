"""What ends a capture before its end: a model that isn't what it should be, SIGINT and SIGTERM."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["CaptureError", "Interrupted", "Stop", "listening"]

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class CaptureError(RuntimeError):
    """The model did something under capture that would have put wrong data into the store."""


class Interrupted(KeyboardInterrupt):
    """A signal ended the capture after whole rows; the same command goes on from there."""

    def __init__(self, number: int, message: str) -> None:
        super().__init__(message)
        self.signal = signal.Signals(number)

    @property
    def exit_code(self) -> int:
        """What a shell expects of a process that this signal ended."""
        return 128 + int(self.signal)


class Stop:
    """Whether a signal asked to stop; calling it tells."""

    def __init__(self) -> None:
        self.signal: int | None = None

    def __call__(self) -> bool:
        """Whether to begin no further row."""
        return self.signal is not None

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:  # asked twice, at once
            raise KeyboardInterrupt
        self.signal = number


@contextmanager
def listening() -> Iterator[Stop]:
    """A `Stop` that the first SIGINT or SIGTERM sets; the second one raises KeyboardInterrupt.

    Outside of the main thread Python can't hear signals: there it never stops.
    """
    stop = Stop()
    try:
        before = {number: signal.signal(number, stop._hear) for number in SIGNALS}
    except ValueError:  # "signal only works in main thread"
        yield stop
        return
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
