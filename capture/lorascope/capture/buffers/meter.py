"""Where the time of a capture goes."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["STAGES", "Meter"]

STAGES = ("forward", "copy", "reduce", "logits", "wait", "encode", "write")
"""Where time goes: the pass itself; what hooks add, copies of states and their reductions; nll and KL; waiting for a
free row; and, in threads beside the pass and added up over them, encoding and writing."""
_WAITS_ABOVE = 0.05
"""Share of the pass's time above which waiting for rows is more than jitter."""


class Meter:
    """Seconds by stage; kept by the thread of the forward pass alone."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = dict.fromkeys(STAGES, 0.0)

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the time of a block to a stage, less what stages within it take."""
        start, inner = time.perf_counter(), self._passed()
        try:
            yield
        finally:
            self.seconds[stage] += time.perf_counter() - start - (self._passed() - inner)

    def bottleneck(self) -> str:
        """What a faster one of would help most: `forward`, `copy` (reductions included), `encode` or `disk`."""
        seconds = self.seconds
        if seconds["wait"] > _WAITS_ABOVE * self._passed():
            return "encode" if seconds["encode"] > seconds["write"] else "disk"
        return "copy" if seconds["copy"] + seconds["reduce"] > seconds["forward"] else "forward"

    def _passed(self) -> float:
        return sum(seconds for stage, seconds in self.seconds.items() if stage not in {"encode", "write"})
