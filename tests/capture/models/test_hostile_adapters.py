"""Adapters from a generator, each of them read without a model and attached to one."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from lorascope.analyze import adapter_report
from lorascope.capture.models.adapter import attach_adapter
from lorascope.stores import expressions

from ...hostile_adapters import HOSTILE

CPU_SECONDS, SECONDS = 5.0, 100.0
"""Processor's time that a refusal may take, and by the clock, in which other tests run too."""
MORE_BYTES = 512 * 2**20
STATUS = Path("/proc/self/status")


class TooLongError(BaseException):
    """Nothing that is tested catches it."""


@contextmanager
def within_limits() -> Iterator[None]:
    """Time and memory are bounded inside."""

    def end(number: int, frame: Any) -> None:
        raise TooLongError(f"after {CPU_SECONDS} s on the processor, or {SECONDS} s by the clock")

    handlers = {number: signal.signal(number, end) for number in (signal.SIGPROF, signal.SIGALRM)}
    signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = resident("VmRSS")
    try:
        yield
        assert resident("VmHWM") - before < MORE_BYTES
    finally:
        for timer in (signal.ITIMER_PROF, signal.ITIMER_REAL):
            signal.setitimer(timer, 0)
        for number, handler in handlers.items():
            signal.signal(number, handler)


def resident(what: str) -> int:
    """Bytes in memory, now or at most."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(what))
    return int(line.split()[1]) * 1024


def answer(call: Any, *args: Any) -> str | None:
    """What an adapter is refused with, in one line; None if it is taken."""
    try:
        with within_limits():
            call(*args)
    except (ValueError, FileNotFoundError) as error:
        said = str(error)
        assert said
        assert len(said) < 2000
        assert said.isprintable()  # neither a second line nor a terminal's own codes
        return said
    return None


READ_WITHOUT = {
    "targets-number",
    "layers-twice",
    "init-pissa",
    "init-loftq",
    "tokens-beyond",
    "dropout",
    "pattern-repeats",
}
"""Adapters whose weights say something although no model could take them."""


def test_there_are_sixty() -> None:
    assert len(HOSTILE) >= 60


@pytest.mark.slow
@pytest.mark.skipif(not STATUS.exists(), reason="needs Linux's /proc")
@pytest.mark.filterwarnings("ignore")  # PEFT's, on settings that it doesn't know
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_adapters_are_refused_soon(
    tiny_model: Any, tiny_adapter: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(expressions, "MAX_SECONDS", 0.2)  # of another process
    HOSTILE[name](tiny_adapter)
    assert (answer(adapter_report, tiny_adapter) is None) == (name in READ_WITHOUT or name == "escape-in-a-name")
    assert (answer(attach_adapter, tiny_model, tiny_adapter) is None) == (name == "escape-in-a-name")


@pytest.mark.filterwarnings("ignore")
def test_limits_are_kept(tmp_path: Path) -> None:
    """What should end a test does."""
    with pytest.raises(TooLongError), within_limits():
        signal.raise_signal(signal.SIGPROF)
    with pytest.raises(AssertionError), within_limits():
        bytearray(600 * 2**20)
