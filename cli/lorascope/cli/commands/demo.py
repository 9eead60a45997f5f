"""`lorascope demo`."""

import time
from pathlib import Path

from ..demo import run_demo
from ..quiet import quiet_libraries
from ..screen import progress_bar, say

__all__ = ["demo"]


def demo(*, out: Path = Path("runs/demo")) -> None:
    """See it work: fine-tune, capture, analyse and report on a small real model, on this machine.

    SmolLM2-135M-Instruct gets an adapter on every linear layer, trained on a few hundred questions of fact made for
    lorascope. Nothing is downloaded. Run again, it reuses what is there.

    Parameters
    ----------
    out
        Folder for the adapter, the run and the report.
    """
    quiet_libraries()
    began = time.perf_counter()
    with progress_bar("demo") as update:
        page = run_demo(out, update)
    say(f"done in {time.perf_counter() - began:.0f} s")
    say(f"report: {page.resolve()}")
