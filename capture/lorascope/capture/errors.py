"""Errors of a capture: a model or adapter that can't be measured, and signals that stop it."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from lorascope.stores.process import handling_signals

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class CaptureError(RuntimeError):
    """The model did something during the capture that would have stored wrong data."""


class AdapterError(ValueError):
    """The adapter can't be measured on this model; the message names every reason."""


class Interrupted(KeyboardInterrupt):
    """A signal stopped the capture after complete rows; the same command continues it."""

    def __init__(self, number: int, message: str) -> None:
        super().__init__(message)
        self.signal = signal.Signals(number)

    @property
    def exit_code(self) -> int:
        """Exit code of a process that this signal ended, as shells have it."""
        return 128 + int(self.signal)


@contextmanager
def listening() -> Iterator[list[int]]:
    """A list of the signals so far: the first SIGINT or SIGTERM; the second one raises KeyboardInterrupt.

    Outside of the main thread Python can't hear signals: there none is.
    """
    signals: list[int] = []

    def hear(number: int, frame: FrameType | None) -> None:
        if signals:  # asked twice, at once
            raise KeyboardInterrupt
        signals.append(number)

    with handling_signals(hear, *SIGNALS):
        yield signals
