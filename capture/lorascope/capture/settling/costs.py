"""Time of each stage of a capture by itself: how fast all of them are together, and which one limits them."""

import math
import os
from dataclasses import dataclass
from typing import Any, Literal

Stage = Literal["forward", "measuring", "copies", "encoders", "disk"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """Seconds that each stage takes for a token that passes, when it has the machine to itself."""

    forward: float
    measuring: float
    """Hooks, js, reductions and logits, beyond the pass."""
    copies: float
    encoders: float
    """Processor seconds of encoding; the threads that do it take all cores."""
    disk: float
    n_cores: int
    n_threads: int
    """Cores that pass, measuring and copies keep busy; 0 where another device does their work."""

    @property
    def rates(self) -> dict[Stage, float]:
        """Stage -> tokens a second that it could do."""
        seconds: dict[Stage, float] = {"forward": self.forward, "measuring": self.measuring, "copies": self.copies}
        seconds |= {"encoders": self.encoders / self.n_cores, "disk": self.disk}
        return {stage: 1 / each if each else math.inf for stage, each in seconds.items()}

    @property
    def seconds(self) -> float:
        """Seconds a token of all stages together.

        Stages that run at the same time take as long as the slowest of them: the disk; the pass, with what is measured
        within it; the copies and the encoders. On a CPU pass, measuring and copies are one after the other, and share
        the cores with the encoders: there the work of all is added up, and divided among the cores.
        """
        chain = self.forward + self.measuring
        if not self.n_threads:
            return max(chain, self.copies, self.encoders / self.n_cores, self.disk)
        chain += self.copies
        return max(chain, (chain * self.n_threads + self.encoders) / self.n_cores, self.disk)

    @property
    def limit(self) -> Stage:
        """The stage that limits the capture."""
        if self.disk >= self.seconds:
            return "disk"
        chain: dict[Stage, float] = {"forward": self.forward, "measuring": self.measuring}
        if not self.n_threads:
            if sum(chain.values()) < self.seconds:
                return "copies" if self.copies >= self.seconds else "encoders"
            return max(chain, key=chain.__getitem__)
        chain["copies"] = self.copies
        longest = max(chain, key=chain.__getitem__)
        waits = sum(chain.values()) >= self.seconds  # for the pass alone: the encoders have cores left
        return longest if waits or chain[longest] * self.n_threads >= self.encoders else "encoders"

    def as_dict(self) -> dict[str, Any]:
        """Tokens a second of each stage and of all together, and the stage that limits them, as JSON values."""
        return {"stages": self.rates, "tokens_per_second": 1 / self.seconds, "limit": self.limit}


def n_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
