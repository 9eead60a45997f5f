"""Whole captures from devices whose copies come late: the same bytes as if every copy were done at once."""

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from lorascope.capture import attach_adapter, run_model
from lorascope.capture.buffers.copies import DirectCopier, StreamCopier
from lorascope.stores import verify

from .card import Card, card, to_card

__all__ = ["card"]
PATIENCE_SECONDS = 120
"""After which a test has hung."""


@pytest.fixture(autouse=True)
def patience() -> Iterator[None]:
    """A deadlock is a failure, not a wait for ever."""

    def give_up(*_: Any) -> None:
        raise TimeoutError

    signal.signal(signal.SIGALRM, give_up)
    signal.alarm(PATIENCE_SECONDS)
    yield
    signal.alarm(0)


def test_it_runs(card: Card, make: Any, tiny_model: Any, tiny_adapter: Path, text: Path, content: Any) -> None:
    model = attach_adapter(tiny_model, tiny_adapter)
    to_card(model, lambda name: int(".1" in name))
    run = make(model=model, data=(str(text),), window_tokens=200, batch_tokens=900)
    card.check()
    print(card.n_copied, card.n_registered, card.n_waits)
    assert verify(run.path).ok
