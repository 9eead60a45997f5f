"""Signals during a capture."""

import os
import signal
import threading

import pytest

from lorascope.capture.errors import Interrupted, collecting_signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_only_asks(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with collecting_signals() as heard:
        assert heard == []
        os.kill(os.getpid(), number)
        assert heard == [number]
    assert signal.getsignal(number) == before


def test_the_second_signal_is_heard_at_once() -> None:
    with collecting_signals():
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)


def test_outside_of_the_main_thread_nothing_is_heard() -> None:
    found: list[list[int]] = []

    def listen() -> None:
        with collecting_signals() as heard:
            found.append(heard)

    thread = threading.Thread(target=listen)
    thread.start()
    thread.join()
    assert found == [[]]


def test_exit_code() -> None:
    error = Interrupted(signal.SIGTERM, "stopped")
    assert error.exit_code == 143
    assert str(error) == "stopped"
    assert not isinstance(error, Exception)  # no `except Exception` swallows it
