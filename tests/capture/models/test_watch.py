"""What counts as a stalled rank, seen by its watching thread; whole captures are in test_failing_ranks."""

import threading
import time
from collections.abc import Callable

import pytest

from lorascope.capture.models import watch


def stalled_line(monkeypatch: pytest.MonkeyPatch, act: Callable[[threading.Thread], None], seconds: float = 0) -> str:
    """Name of the function in which this thread is stalled while it acts, once it used a processor for `seconds`."""
    monkeypatch.setattr(watch, "PATIENCE", 0.0)
    watched, lines = watch._Watch(0, 2), []
    clock = time.pthread_getcpuclockid(threading.get_ident())

    def look() -> None:
        stop = time.clock_gettime(clock) + seconds
        watched._stalled_frame()
        while time.clock_gettime(clock) < stop:
            time.sleep(0.01)
        time.sleep(0.1)
        frame = watched._stalled_frame()
        lines.append("" if frame is None else frame.f_code.co_name)

    thread = threading.Thread(target=look)
    thread.start()
    act(thread)
    thread.join()
    return lines[0]


def sleep(thread: threading.Thread) -> None:
    while thread.is_alive():
        time.sleep(0.5)


def wait(thread: threading.Thread) -> None:
    thread.join()


def compute(thread: threading.Thread) -> None:
    while thread.is_alive():
        pass


def test_only_a_rank_that_neither_computes_nor_waits_is_stalled(monkeypatch: pytest.MonkeyPatch) -> None:
    assert stalled_line(monkeypatch, sleep) == "sleep"
    assert stalled_line(monkeypatch, wait) == ""
    assert stalled_line(monkeypatch, compute, 1.1) == ""
