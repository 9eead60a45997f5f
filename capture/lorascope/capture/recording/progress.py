"""The bar of a capture that was called from Python: in a notebook or on a terminal, and nowhere else."""

import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from .stream import CaptureProgress

TOGETHER = {"capture", "ablate"}
"""Stages that go on side by side."""


@contextmanager
def progress_bar() -> Iterator[Callable[[CaptureProgress], None]]:
    """What shows a `CaptureProgress`: tqdm's bar, one a stage; of several processes the first shows it."""
    with warnings.catch_warnings():
        # Without ipywidgets a notebook's bar is text, of which nobody has to be warned.
        warnings.filterwarnings("ignore", "IProgress not found")
        from tqdm.auto import tqdm  # type: ignore[import-untyped]  # it has no stubs
    # A notebook's streams are no terminals, by which tqdm would go.
    disable = True if os.environ.get("RANK", "0") != "0" else False if _in_notebook() else None
    bars: dict[str, Any] = {}

    def show(now: CaptureProgress) -> None:
        if now.stage not in bars:
            close(beside=now.stage)  # else the next bar would stand a line below
            leave = now.unit != "step"  # nothing is worth keeping of what is one step
            unit = f" {now.units}"
            bars[now.stage] = tqdm(total=now.total, desc=now.stage, unit=unit, disable=disable, leave=leave)
        bars[now.stage].update(now.done - bars[now.stage].n)

    def close(beside: str = "") -> None:
        for stage, bar in bars.items():
            if not {stage, beside} <= TOGETHER:
                bar.close()

    try:
        yield show
    finally:
        close()


def _in_notebook() -> bool:
    shell: Any = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return shell is not None and "IPKernelApp" in shell.config
