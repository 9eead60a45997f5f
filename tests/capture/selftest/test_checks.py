"""Each check of the selftest can fail; that they hold here, the command shows."""

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from lorascope.capture.buffers.copies import ChosenTokens, DirectCopier
from lorascope.capture.capture import capture
from lorascope.capture.config import CaptureConfig
from lorascope.capture.reforward import TOLERANCE
from lorascope.capture.selftest import checks
from lorascope.capture.selftest.selftest import write_model, write_text

CPU = torch.device("cpu")
Run = Callable[..., Any]
SHAPE = {"dtype": "bfloat16", "d_in": 4096}


class LateCopier(DirectCopier):
    """Reads what it copies once the pass has gone on."""

    def __init__(self) -> None:
        self._later: list[Callable[[], None]] = []

    def copy(self, output: torch.Tensor, chosen: ChosenTokens, place: torch.Tensor) -> None:
        self._later.append(partial(super().copy, output, chosen, place))

    def mark(self) -> Callable[[], None]:
        return lambda: [step() for step in self._later] and None


def test_a_copy_that_comes_too_late_is_found() -> None:
    assert checks.check_copies(CPU, DirectCopier()).ok
    late = checks.check_copies(CPU, LateCopier())
    assert (late.ok, late.result) == (False, "32 of 32 differ")
    assert checks.check_copies(CPU).ok is None


@pytest.mark.slow
@pytest.mark.parametrize("wrong", [lambda js: js * (1 + 2e-6), lambda js: js * torch.nan], ids=["off", "no number"])
def test_measures_that_are_off_are_found(
    monkeypatch: pytest.MonkeyPatch, wrong: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    assert checks.check_measuring(CPU).ok
    right = checks.reduce_tokens
    monkeypatch.setattr(checks, "reduce_tokens", lambda *given: right(*given)._replace(js=wrong(right(*given).js)))
    assert checks.check_measuring(CPU).ok is False


@pytest.mark.parametrize("widths", [(64,), pytest.param((130, 576, 4096), marks=pytest.mark.slow)], ids=str)
def test_the_kernel_holds(kernel: Run, widths: tuple[int, ...]) -> None:
    check = kernel("check_kernel", widths)
    assert check["ok"], check


@pytest.mark.parametrize(
    ("measure", "factor"),
    [
        *((name, 1 + 3e-6) for name in ("js", "base_norm", "delta_norm", "effective_width", "swallowed")),
        *((name, 1 + 3e-6) for name in ("kl_divergence", "token_nll")),
        *(("excess", factor) for factor in (0.0, 1e4, math.nan)),
    ],
)
def test_a_kernel_that_is_off_is_found(kernel: Run, measure: str, factor: float) -> None:
    """Also one that misses a layer's wrong output, or refuses a right one."""
    assert kernel("check_kernel", (64,), measure, factor)["ok"] is False


def test_where_the_kernel_runs_it_is_what_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "has_kernel", lambda device: True)
    monkeypatch.setattr(checks, "check_kernel", lambda device: ("looked at", device))
    assert checks.check_measuring(CPU) == ("looked at", CPU)


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


def test_no_more_is_allowed_than_a_reforward_takes() -> None:
    components = {name: SimpleNamespace(values=np.array([value] * 224)) for name, value in SHAPE.items()}
    run: Any = SimpleNamespace(components=components)
    assert checks.allowed_difference(run) == TOLERANCE["bfloat16"] < 2**-7 * math.sqrt(224)


@pytest.mark.slow
def test_two_ranks_write_what_one_process_writes(config: CaptureConfig) -> None:
    assert checks.check_ranks(config, 2)[1:] == ("0 of 2 rows differ", "0", True)


def test_without_a_second_device_there_are_no_ranks_to_check() -> None:
    assert checks.check_ranks(None, 1).ok is None  # type: ignore[arg-type]  # not looked at


def test_js_may_differ_by_what_rounding_of_delta_explains(config: CaptureConfig) -> None:
    run = capture(config)
    js = torch.from_numpy(run.js().values).double()
    off = [checks._js_error(run, path, js[:, index]) for index, path in enumerate(run.component_paths)]
    spoilt = [checks._js_error(run, path, 1.001 * js[:, index]) for index, path in enumerate(run.component_paths)]
    assert 0 < max(off) < 1 < min(spoilt)
    assert checks._js_error(run, run.component_paths[0], js[:, 0] * torch.nan) > 1
