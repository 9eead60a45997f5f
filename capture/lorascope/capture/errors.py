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
        """Exit code of a process that this signal ended, as shells define it."""
        return 128 + int(self.signal)


@contextmanager
def collecting_signals() -> Iterator[list[int]]:
    """Yield a list that the first SIGINT or SIGTERM is appended to; the second one raises KeyboardInterrupt.

    Outside of the main thread Python can't receive signals, so the list stays empty.
    """
    signals: list[int] = []

    def on_signal(number: int, frame: FrameType | None) -> None:
        if signals:  # asked twice, at once
            raise KeyboardInterrupt
        signals.append(number)

    with handling_signals(on_signal, *SIGNALS):
        yield signals
