"""Each check of the selftest can fail; that they hold here, the command shows."""

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch

from lorascope.capture.buffers.copies import Chosen, DirectCopier
from lorascope.capture.config import CaptureConfig
from lorascope.capture.selftest import checks
from lorascope.capture.selftest.inputs import write_model, write_text

CPU = torch.device("cpu")


class LateCopier(DirectCopier):
    """Reads what it copies once the pass has gone on."""

    def __init__(self) -> None:
        self._later: list[Callable[[], None]] = []

    def copy(self, output: torch.Tensor, chosen: Chosen, place: torch.Tensor) -> None:
        self._later.append(partial(super().copy, output, chosen, place))

    def mark(self) -> Callable[[], None]:
        return lambda: [step() for step in self._later] and None


def test_a_copy_that_comes_too_late_is_found() -> None:
    assert checks.check_copies(CPU, DirectCopier()).ok
    late = checks.check_copies(CPU, LateCopier())
    assert (late.ok, late.found) == (False, "32 of 32 differ")
    assert checks.check_copies(CPU).ok is None


@pytest.mark.parametrize("wrong", [lambda js: js * (1 + 2e-6), lambda js: js * torch.nan], ids=["off", "no number"])
def test_measures_that_are_off_are_found(
    monkeypatch: pytest.MonkeyPatch, wrong: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    assert checks.check_measuring(CPU).ok
    right = checks.reduce_tokens
    monkeypatch.setattr(checks, "reduce_tokens", lambda *given: right(*given)._replace(js=wrong(right(*given).js)))
    assert checks.check_measuring(CPU).ok is False


@pytest.fixture
def config(tmp_path: Path) -> CaptureConfig:
    model, adapter = map(str, write_model(tmp_path))
    write_text(tmp_path / "sums.txt")
    settings = {"device": "cpu", "score": False, "js_share": 1.0, "window_tokens": 128, "limit": 2}
    data, out = (str(tmp_path / "sums.txt"),), str(tmp_path / "run.zarr")
    return CaptureConfig(model=model, adapter=(adapter,), data=data, out=out, **settings)  # type: ignore[arg-type]


def test_another_device_may_differ_by_rounding_alone(config: CaptureConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = torch.device("cuda")  # by name alone
    found = {check.what: check for check in checks.check_capture(config, gpu)}["on the CPU, of the norm"]
    assert found.ok
    assert found.allowed == f"{2**-23 * math.sqrt(768 * 28):.1e}"
    monkeypatch.setattr(checks, "allowed_difference", lambda run: -1.0)
    assert [check.ok for check in checks.check_capture(config, gpu)] == [True, False, True]


@pytest.mark.slow
def test_two_ranks_write_what_one_process_writes(config: CaptureConfig) -> None:
    assert checks.check_ranks(config, 2)[1:] == ("0 of 2 rows differ", "0", True)


def test_without_a_second_device_there_are_no_ranks_to_check() -> None:
    assert checks.check_ranks(None, 1).ok is None  # type: ignore[arg-type]  # not looked at
