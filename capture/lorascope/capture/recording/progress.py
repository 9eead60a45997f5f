"""Progress of a capture, and the bar that shows it in a notebook or on a terminal."""

import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

CONCURRENT_STAGES = {"capture", "ablate"}
"""Stages whose bars are shown together, because one runs inside the other."""


class CaptureProgress(NamedTuple):
    """Report of how far a capture is: its stage, parts done and in all, bytes on disk, and slowest part."""

    stage: str
    """`load model`, `check`, `write neutral texts`, `reply at scale 1.5`, `importance`, `null adapters`, `answer`,
    `score`, `hash weights`, `set up`, `capture` or, within it, `ablate`."""
    done: int
    total: int
    units: str
    """Name of the parts: `batches` for importance, `choices` for scores (`samples` without choices), `replies`,
    `tokens` for states, `passes` for an ablation; `steps` for a stage without parts."""
    stored_bytes: int = 0
    """Bytes on disk so far."""
    waits_for: str = "forward"
    """The slowest part at the moment: the `forward` pass, `copy`, `encode` or the `disk`."""


Report = Callable[[CaptureProgress], None] | None
"""A function that is called with the progress of a capture."""


def counting(report: Report, stage: str, units: str) -> Callable[[int, int], None]:
    """Return a function that reports the parts of a stage that are done, and their number in all."""
    return lambda done, total: None if report is None else report(CaptureProgress(stage, done, total, units))


@contextmanager
def report_stage(report: Report, stage: str) -> Iterator[None]:
    """Report a stage without countable parts as 0 of 1 before the block, and as 1 of 1 after it."""
    update = counting(report, stage, "steps")
    update(0, 1)
    yield
    update(1, 1)


@contextmanager
def progress_bar() -> Iterator[Callable[[CaptureProgress], None]]:
    """Yield a function that shows a `CaptureProgress` as one tqdm bar per stage, in the first process only."""
    with warnings.catch_warnings():
        # Without ipywidgets a notebook's bar is text, which needs no warning.
        warnings.filterwarnings("ignore", "IProgress not found")
        from tqdm.auto import tqdm  # type: ignore[import-untyped]  # it has no stubs
    # A notebook's streams aren't terminals, which tqdm would look at.
    disable = True if os.environ.get("RANK", "0") != "0" else False if _in_notebook() else None
    bars: dict[str, Any] = {}

    def show(now: CaptureProgress) -> None:
        """Update the stage's bar; open a bar for a new stage, and close those of other stages."""
        if now.stage not in bars:
            close(but=now.stage)  # else the next bar would stand a line below
            leave = now.units != "steps"  # nothing is worth keeping of what is one step
            bars[now.stage] = tqdm(total=now.total, desc=now.stage, unit=f" {now.units}", disable=disable, leave=leave)
        bars[now.stage].update(now.done - bars[now.stage].n)
        if now.done >= now.total:
            bars[now.stage].refresh()  # else an ended stage may show an earlier number until all end

    def close(but: str = "") -> None:
        """Close all bars, except the bars of stages that are shown together with stage `but`."""
        for stage, bar in bars.items():
            if not {stage, but} <= CONCURRENT_STAGES:
                bar.close()

    try:
        yield show
    finally:
        close()


def _in_notebook() -> bool:
    """Whether this process runs a notebook's cells."""
    shell: Any = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return shell is not None and "IPKernelApp" in shell.config
