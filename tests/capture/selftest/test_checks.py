"""Each check of the selftest can fail; that they hold here, the command shows."""

from collections.abc import Callable
from functools import partial

import pytest
import torch

from lorascope.capture.buffers.copies import Chosen, DirectCopier
from lorascope.capture.selftest import checks

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


def test_without_a_second_device_there_are_no_ranks_to_check() -> None:
    assert checks.check_ranks(None, 1).ok is None  # type: ignore[arg-type]  # not looked at
