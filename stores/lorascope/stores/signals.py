"""Signals that a piece of work answers in its own way."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def answering(handler: Any, *signals: signal.Signals) -> Iterator[None]:
    """Have these signals call `handler` meanwhile; outside of the main thread, where Python hears none, do nothing."""
    try:
        before = {number: signal.signal(number, handler) for number in signals}
    except ValueError:  # "signal only works in main thread"
        before = {}
    try:
        yield
    finally:
        for number, usual in before.items():
            signal.signal(number, usual)
