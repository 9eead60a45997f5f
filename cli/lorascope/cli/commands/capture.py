"""`lorascope capture`."""

import os
from typing import Annotated

from cyclopts import Parameter

from lorascope.capture import CaptureConfig, CaptureProgress
from lorascope.capture import capture as capture_run
from lorascope.stores.size import format_size

from ..quiet import quiet_libraries
from ..screen import note, progress_bar, say


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

        def report(now: CaptureProgress) -> None:
            meanwhile = f"{format_size(now.stored_bytes)} on disk, bound by {now.waits_for}"
            update(now.done, now.total, meanwhile if now.stage == "capture" else f"{now.unit}s", now.stage)

        run = capture_run(config, progress=report)
    for found in run.attributes["provenance"]["preflight"]:
        say(f"note: {note(found['message'], found['places'])}")
    say(
        f"{run.n_tokens} tokens of {run.samples.sizes['sample']} samples at {len(run.component_paths)} components: "
        f"{run.path}"
    )
    if measured := run.attributes.get("measured"):
        say(
            f"{format_size(measured['stored_bytes'])} in {measured['seconds']:.1f} s, "
            f"{measured['overhead']:.2f} times a bare forward pass"
        )
