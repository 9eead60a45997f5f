"""`lorascope capture`."""

import os
import time
from collections.abc import Callable
from typing import Annotated

from cyclopts import Parameter

from lorascope.capture import CaptureConfig, CaptureProgress
from lorascope.capture import capture as capture_run
from lorascope.stores.size import format_size

from ..quiet import quiet_libraries
from ..screen import progress_bar, say

__all__ = ["capture"]

SHOWN = ("forward", "copy", "reduce", "wait", "encode", "write")
"""Stages of which the bar shows a share."""


def capture(config: Annotated[CaptureConfig, Parameter(name="*")]) -> None:
    """Run a model with its adapter over data and store base and delta of every LoRA layer.

    Before anything is written the adapter is checked and every choice is scored. Interrupted at any point, the run
    opens and holds whole rows only; the same command goes on after them. Under torchrun the processes share the rows.
    """
    quiet_libraries()
    if os.environ.get("RANK", "0") != "0":  # of several processes one talks
        capture_run(config)
        return
    with progress_bar("capture") as update:
        run = capture_run(config, progress=_Meter(update))
    for note in run.attributes["provenance"]["preflight"]:
        say(f"note: {note['message']}{_places(note['places'])}")
    say(
        f"{run.n_tokens} tokens of {run.samples.sizes['sample']} samples at {len(run.component_paths)} components: "
        f"{run.path}"
    )
    measured = run.attributes.get("measured")
    if measured:
        say(
            f"{format_size(measured['stored_bytes'])} in {measured['seconds']:.1f} s, "
            f"{measured['overhead']:.2f} times a bare forward pass"
        )


def _places(places: list[str]) -> str:
    """The first of them in brackets, and how many more there are."""
    if not places:
        return ""
    more = f" and {len(places) - 2} more" if len(places) > 2 else ""
    return f" ({', '.join(places[:2])}{more})"


class _Meter:
    """Turns progress into a bar's numbers: tokens/s, MB/s, where the time goes, and what the run waits for."""

    def __init__(self, update: Callable[..., None]) -> None:
        self._update = update
        self._began: dict[str, tuple[float, int, int]] = {}

    def __call__(self, progress: CaptureProgress) -> None:
        # A run that goes on begins with what is done already; nobody knows how long the first report has taken.
        now = (time.perf_counter(), progress.done, progress.stored_bytes)
        began, done, stored = self._began.setdefault(progress.stage, now)
        seconds = now[0] - began
        note = f"{(progress.done - done) / seconds:.0f} {progress.unit}/s" if progress.done > done else ""
        if progress.stage == "capture":
            shares = ", ".join(f"{name} {progress.shares[name]:.0%}" for name in SHOWN if progress.shares.get(name))
            rates = [note, f"{(progress.stored_bytes - stored) / 1e6 / seconds:.0f} MB/s"] if note else []
            note = "; ".join([*([", ".join(rates)] if rates else []), shares, f"bound by {progress.waits_for}"])
        self._update(progress.done, progress.total, note, progress.stage)
