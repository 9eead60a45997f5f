"""Signals that a piece of work answers in its own way."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def answering(handler: Any, *signals: signal.Signals) -> Iterator[None]:
    """These signals call `handler` meanwhile; outside of the main thread, where Python hears none, nothing changes."""
    try:
        before = {one: signal.signal(one, handler) for one in signals}
    except ValueError:  # "signal only works in main thread"
        before = {}
    try:
        yield
    finally:
        for one, usual in before.items():
            signal.signal(one, usual)
