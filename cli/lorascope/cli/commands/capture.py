"""`lorascope capture`."""

import time
from collections.abc import Callable
from typing import Annotated

from cyclopts import Parameter

from lorascope.analyze.format import format_bytes
from lorascope.capture import CaptureConfig, Progress
from lorascope.capture import capture as capture_run

from ..quiet import quiet_libraries
from ..screen import progress_bar, say

__all__ = ["capture"]


def capture(config: Annotated[CaptureConfig, Parameter(name="*")]) -> None:
    """Run a model with its adapter over data and store base and delta of every LoRA layer.

    Before anything is written the adapter is checked and every choice is scored. Killed at any point, the run opens and
    holds whole rows only.
    """
    quiet_libraries()
    with progress_bar("capture") as update:
        run = capture_run(config, progress=_Meter(update))
    measured = run.attributes["measured"]
    say(
        f"{run.n_tokens} tokens of {run.samples.sizes['sample']} samples at {len(run.component_paths)} components "
        f"in {measured['seconds']:.1f} s: {format_bytes(measured['stored_bytes'])} in {run.path}"
    )


class _Meter:
    """Turns progress into a bar's numbers: tokens/s, MB/s, and what the run waits for."""

    def __init__(self, update: Callable[..., None]) -> None:
        self._update = update
        self._began: dict[str, float] = {}

    def __call__(self, progress: Progress) -> None:
        began = self._began.setdefault(progress.stage, time.perf_counter())
        seconds = max(time.perf_counter() - began, 1e-9)
        note = f"{progress.done / seconds:.0f} {progress.unit}/s"
        if progress.stage == "capture":
            note += f", {progress.stored_bytes / 1e6 / seconds:.0f} MB/s to disk, waits for {progress.waits_for}"
        self._update(progress.done, progress.total, note, progress.stage)
