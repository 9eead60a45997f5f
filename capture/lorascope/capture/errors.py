"""What ends a capture before its end: a model or adapter that isn't what it should be, SIGINT and SIGTERM."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from lorascope.stores.signals import answering

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
        """What a shell expects of a process that this signal ended."""
        return 128 + int(self.signal)


@contextmanager
def listening() -> Iterator[list[int]]:
    """Signals heard meanwhile: the first SIGINT or SIGTERM; the second one raises KeyboardInterrupt.

    Outside of the main thread Python can't hear signals: there none is.
    """
    heard: list[int] = []

    def hear(number: int, frame: FrameType | None) -> None:
        if heard:  # asked twice, at once
            raise KeyboardInterrupt
        heard.append(number)

    with answering(hear, *SIGNALS):
        yield heard
