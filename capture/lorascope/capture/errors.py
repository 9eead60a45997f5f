"""Errors of a capture: a model or adapter that can't be measured, and signals that stop it."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from lorascope.stores.process import handling_signals

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class CaptureError(RuntimeError):
    """Raised if the model does something during a capture that would have stored wrong data."""


class AdapterError(ValueError):
    """Raised if an adapter can't be measured on this model; the message names every reason."""


class RankError(RuntimeError):
    """Raised if another process of the capture failed; the message names it. Committed rows stay."""


class Interrupted(KeyboardInterrupt):
    """Raised if a signal stopped a capture; complete rows stay, and the same command continues the capture."""

    def __init__(self, number: int, message: str) -> None:
        """Keep the signal of this number as `self.signal`; `message` is shown to the user."""
        super().__init__(message)
        self.signal = signal.Signals(number)

    @property
    def exit_code(self) -> int:
        """Exit code of a process that this signal ended, as in shells: 128 plus the signal's number."""
        return 128 + int(self.signal)


@contextmanager
def collecting_signals() -> Iterator[list[int]]:
    """Yield a list that the first SIGINT or SIGTERM is appended to; the second one raises KeyboardInterrupt.

    Outside of the main thread Python can't receive signals, so the list stays empty.
    """
    signals: list[int] = []

    def on_signal(number: int, frame: FrameType | None) -> None:
        """Append the first signal's number to `signals`; raise KeyboardInterrupt at the second signal."""
        if signals:  # asked twice, at once
            raise KeyboardInterrupt
        signals.append(number)

    with handling_signals(on_signal, *SIGNALS):
        yield signals
