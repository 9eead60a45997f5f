"""`lorascope capture`."""

import os
from functools import partial
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from lorascope.analyze.results.format import format_duration, format_number
from lorascope.capture.config import CaptureConfig
from lorascope.capture.models.gguf import describe_loading
from lorascope.capture.settling.early import check_files
from lorascope.capture.settling.inputs import require_inputs
from lorascope.stores.size import format_size

from ..options import ConfigFile
from ..screen import (
    aside,
    describe_rows,
    format_note,
    importing_libraries,
    progress_bar,
    quiet_libraries,
    report_when_stopped,
    say,
)

if TYPE_CHECKING:
    from lorascope.capture import CaptureProgress
    from lorascope.stores import Run

LEAST_SECONDS = 10.0
"""Shortest capture that is compared with bare passes; in a shorter one, its start and end dominate."""


def capture(
    settings: Annotated[CaptureConfig, Parameter(name="*")],
    *,
    config: ConfigFile = None,
) -> None:
    """Run a model with its adapter over data and store base and delta of every LoRA layer.

    Base is the frozen layer's output, delta what the adapter adds to it. The same command continues a capture that was
    stopped.
    """
    require_inputs(settings)
    check_files(settings, runs_here=True)
    leads = os.environ.get("RANK", "0") == "0"  # only one of several processes prints
    if leads:
        say(describe_loading(settings.model, settings.dtype), to=aside)

    with report_when_stopped(partial(describe_rows, settings.out)):
        if not leads:
            from lorascope.capture import capture as capture_run

            quiet_libraries()
            capture_run(settings)
            return
        from lorascope.stores import run_state
        from lorascope.stores.reading.read import open_neutral

        was_finished = run_state(settings.out) == "finished"
        run = _capture_with_bar(settings)
        neutral = open_neutral(run)
        from lorascope.capture.settling.provenance import COMPARED
    captured = (
        f"{run.n_tokens} tokens of {run.samples.sizes['sample']} samples at {len(run.component_paths)} components"
    )
    if neutral is not None:
        texts = f"{neutral.n_tokens} tokens of {neutral.samples.sizes['sample']} neutral texts"
        say(f"{texts}: {neutral.path}; `lorascope info` says how far the adapter moves them")
    if was_finished:
        say(f"already complete: {captured}: {run.path}, of the same {COMPARED}")
        say("stored rows weren't read; `lorascope verify` reads them")
        return
    for remark in run.attributes["provenance"]["preflight"]:
        say(f"note: {format_note(remark['message'], remark['places'])}")
    say(f"{captured}: {run.path}")
    if measured := run.attributes.get("measured"):
        if n := measured.get("change_tokens"):
            passes, seconds = measured["change_passes"], format_duration(measured["stages"]["changes"])
            say(f"next-token changes of {n} tokens: {passes} passes more, {seconds} (`--changes none` leaves them out)")
        if few := [path for path, n in measured.get("experts", {}).items() if n["judged"] < n["with_tokens"]]:
            why = "whether all experts add their own delta can't be judged, by few tokens or deltas below rounding"
            say(f"note: {format_note(why, few)}")
        overhead = ""
        if "overhead" in measured and measured["seconds"] >= LEAST_SECONDS:
            overhead = f", {format_number(measured['overhead'], digits=2)} times a bare forward pass"
        say(f"{format_size(measured['stored_bytes'])} in {format_duration(measured['seconds'])}{overhead}")


def _capture_with_bar(config: CaptureConfig) -> "Run":
    """Return the run that is captured, with a progress bar meanwhile."""
    with progress_bar("capture") as update:
        with importing_libraries(update):
            from lorascope.capture import capture as capture_run

        def report(now: "CaptureProgress") -> None:
            """Show the progress of the capture: what is done, bytes on disk, and what limits the speed."""
            more = f", {format_size(now.stored_bytes)} on disk, bound by {now.waits_for}"
            update(now.done, now.total, f"{now.units}{more if now.stage == 'capture' else ''}", now.stage)

        return capture_run(config, progress=report)
