"""`lorascope capture`."""

import os
import time
from collections.abc import Callable
from typing import Annotated, Any

from cyclopts import Parameter

from lorascope.capture import CaptureConfig
from lorascope.capture import capture as capture_run
from lorascope.stores.size import format_size

from ..quiet import quiet_libraries
from ..screen import note, progress_bar, say

__all__ = ["capture"]


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
        run = capture_run(config, progress=_meter(update))
    for found in run.attributes["provenance"]["preflight"]:
        say(f"note: {note(found['message'], found['places'])}")
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


def _meter(update: Callable[..., None]) -> Callable[[Any], None]:
    """Turns a capture's progress into the bar's numbers: tokens and MB a second, and what the run waits for."""
    began: dict[str, tuple[float, int, int]] = {}

    def show(now: Any) -> None:
        # A run that goes on begins with what is done already; nobody knows how long the first report has taken.
        begin, done, stored = began.setdefault(now.stage, (time.perf_counter(), now.done, now.stored_bytes))
        seconds = time.perf_counter() - begin
        notes = [f"{(now.done - done) / seconds:.0f} {now.unit}/s"] if now.done > done else []
        if now.stage == "capture":
            notes += [f"{(now.stored_bytes - stored) / 1e6 / seconds:.0f} MB/s"] if notes else []
            notes.append(f"bound by {now.waits_for}")
        update(now.done, now.total, ", ".join(notes), now.stage)

    return show
