"""Whole captures from devices whose copies come late: the same bytes as if every copy were done at once.

The model runs on stand-ins for one or two CUDA devices (`card`), and what copies is the library's own `StreamCopier`.
"""

import copy
import logging
import re
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from peft import LoraConfig

from lorascope.capture import CaptureProgress, attach_adapter
from lorascope.capture.buffers import rows
from lorascope.capture.buffers.copies import IN_FLIGHT_BYTES, DirectCopier, StreamCopier
from lorascope.capture.errors import Interrupted
from lorascope.capture.recording import run_model
from lorascope.stores import open_run
from lorascope.stores.writing.write import RunWriter

from ..marks import slow_but
from .card import Card, card, spread

__all__ = ["card"]

PATIENCE_SECONDS = 600
"""After which a test has hung, also on a machine that has other things to do."""
NARROW = 30_000
"""Bytes in flight that a few layers fill, so that the pass waits for copies again and again."""


@pytest.fixture(autouse=True)
def patience() -> Iterator[None]:
    """A deadlock is a failure, not a wait for ever."""

    def give_up(*_: Any) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(PATIENCE_SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def go(
    tiny_model: Any, tiny_adapter: Path, make: Any, text: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Any]:
    """Capture four rows of text from one or two devices, by a copier of this kind."""

    def run(
        out: str,
        copier: Callable[[torch.device], Any] = StreamCopier,
        *,
        n_devices: int = 1,
        progress: Any = None,
        spoil: Callable[[Any], Any] = lambda model: model,
        **settings: Any,
    ) -> Any:
        model = attach_adapter(copy.deepcopy(tiny_model), tiny_adapter)
        if settings.get("stream") == "base":
            with torch.random.fork_rng():
                torch.manual_seed(5)
                model.add_adapter(
                    "other", LoraConfig(r=3, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
                )
        spread(model, lambda name: int(n_devices > 1 and ".1." in f"{name}."))
        monkeypatch.setattr(run_model, "copier_for", copier)
        options = {"data": (str(text),), "window_tokens": 200, "batch_tokens": 400, "js_share": 0.1, "score": False}
        return make(out, model=spoil(model), progress=progress, **options | settings)

    return run


MODES: dict[str, dict[str, Any]] = {
    "default": {},
    "sample": {"states": "sample", "states_share": 0.5, "kl_share": 0.5},
    "ablated": {"ablate": "layers", "ablate_share": 0.5},
    "pair": {"stream": "pair"},
    "pair-none": {"stream": "pair", "states": "none"},
    "two-adapters": {"stream": "base"},
    "some-tokens": {"tokens": "share:0.4"},
    "narrowed": {"store": "bf16"},
}


@pytest.fixture(scope="module")
def known() -> dict[str, Any]:
    """Mode -> what a run holds whose copies were done at once."""
    return {}


@pytest.fixture
def expected(known: dict[str, Any], go: Any, content: Any, tmp_path: Path) -> Callable[[str], Any]:
    """Finds what a run of a mode has to hold."""

    def find(mode: str) -> Any:
        if mode not in known:
            go("direct", lambda device: DirectCopier(), **MODES[mode])
            known[mode] = content(tmp_path / "direct")
        return known[mode]

    return find


@pytest.mark.parametrize("mode", slow_but(MODES, "default", "sample", "pair"))
def test_late_copies_change_no_byte(
    mode: str, card: Callable[..., Card], go: Any, expected: Any, content: Any, tmp_path: Path
) -> None:
    for seed, n_devices, limit in ((0, 2, IN_FLIGHT_BYTES), (1, 1, NARROW)):
        devices = card(seed)
        run = go(f"late{seed}", partial(StreamCopier, in_flight_bytes=limit), n_devices=n_devices, **MODES[mode])
        devices.check()
        # Narrow arrays leave by the first device, and without states there are no others.
        assert {s.device.index for s in devices.streams} == set(range(1 if "none" in mode else n_devices))
        assert 0 < devices.most_registered <= run.attributes["measured"]["buffer_bytes"]
        assert content(tmp_path / f"late{seed}") == expected(mode)


def test_memory_that_cannot_be_registered_is_said_once_and_costs_time_only(
    card: Callable[..., Card], go: Any, expected: Any, content: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    devices = card(0)
    devices.may_register = False
    with caplog.at_level(logging.WARNING):
        go("late", n_devices=2)
    (said,) = caplog.messages
    assert re.fullmatch(
        r"CUDA can't page-lock [\d.]+ MB of host memory for rows \(error 2\), so that the forward pass waits for every "
        "copy; a smaller `queue` may help, or a higher limit of the container",
        said,
    )
    devices.check()
    assert devices.most_registered == 0
    assert content(tmp_path / "late") == expected("default")


def stop_in_a_pass(model: Any) -> Any:
    """Fails in the middle of the sixth batch, in its last layer."""
    calls = iter(range(10**6))

    def fail(*_: Any) -> None:
        if next(calls) == 8:  # probes pass before
            raise ArithmeticError("in a pass")

    model.get_base_model().model.layers[1].mlp.register_forward_hook(fail)
    return model


def fails_to_write(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second row finds no room on the disk."""
    write, calls = RunWriter.write_row, iter(range(10**6))

    def fail(writer: RunWriter, row: int, blocks: Any) -> Any:
        if next(calls) == 1:
            raise OSError(28, "No space left on device")
        return write(writer, row, blocks)

    monkeypatch.setattr(RunWriter, "write_row", fail)


def after(n_tokens: int, what: Callable[[], Any]) -> Callable[[CaptureProgress], None]:
    """Does something, once, when this many tokens have passed."""
    todo = [what]

    def tell(progress: CaptureProgress) -> None:
        if todo and progress.stage == "capture" and progress.done >= n_tokens:
            todo.pop()()

    return tell


def interrupt() -> None:
    raise KeyboardInterrupt


class Impatient(ThreadPoolExecutor):
    """Isn't waited for, as if the user pressed Ctrl-C once more."""

    left: ClassVar[list[ThreadPoolExecutor]] = []

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        super().shutdown(wait=self in self.left, cancel_futures=cancel_futures)
        if self not in self.left:
            self.left.append(self)
            raise KeyboardInterrupt


@pytest.mark.slow
@pytest.mark.parametrize(
    ("way", "seed"), [("pass", 0), ("writer", 1), ("interrupt", 2), ("signal", 1), ("interrupt-twice", 0)]
)
def test_what_ends_a_capture_leaves_whole_rows_and_no_memory_registered(
    way: str,
    seed: int,
    card: Callable[..., Card],
    go: Any,
    expected: Any,
    content: Any,
    tmp_path: Path,
    monkeypatch: Any,
) -> None:
    devices = card(seed)
    kind, options = {
        "pass": (ArithmeticError, {"spoil": stop_in_a_pass}),
        "writer": (OSError, {}),
        "interrupt": (KeyboardInterrupt, {"progress": after(2300, interrupt)}),
        "signal": (Interrupted, {"progress": after(1300, lambda: signal.raise_signal(signal.SIGTERM))}),
        "interrupt-twice": (KeyboardInterrupt, {"progress": after(2300, interrupt)}),
    }[way]
    with monkeypatch.context() as patched:
        if way == "writer":
            fails_to_write(patched)
        if way == "interrupt-twice":
            patched.setattr(rows, "ThreadPoolExecutor", Impatient)
        with pytest.raises(kind):
            go("run", n_devices=2, **options)
    devices.check()
    for threads in Impatient.left:
        threads.shutdown()
    run, whole = tmp_path / "run", expected("default")
    begun = open_run(run)
    assert not begun.finished
    go("run", n_devices=2)
    devices.check()
    assert content(run) == whole
