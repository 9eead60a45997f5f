"""Which stage holds a capture up, how fast that makes it, and what would move it."""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch

from ..recording.stream import Streamed

Stage = Literal["forward", "measuring", "copies", "encoders", "disk"]
SHARE = 0.25
"""Share of the tokens whose capture is computed as a way out."""
WORTH = 1.05
"""How many times as fast a way must make a capture to be named."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """Seconds that each stage takes for a token that passes, when it has the machine to itself."""

    forward: float
    measuring: float
    """What hooks, js, reductions and logits add to the pass."""
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
        alone: dict[Stage, float] = {"forward": self.forward, "measuring": self.measuring, "copies": self.copies}
        alone |= {"encoders": self.encoders / self.n_cores, "disk": self.disk}
        return {stage: 1 / seconds if seconds else math.inf for stage, seconds in alone.items()}

    @property
    def seconds(self) -> float:
        """Seconds a token of all stages together.

        What runs beside each other takes as long as the slowest: the disk; the pass, with what is measured within it;
        the copies and the encoders. On a CPU pass, measuring and copies are one after the other, and share the cores
        with the encoders: there the work of all is added up, and divided among the cores.
        """
        chain = self.forward + self.measuring
        if not self.n_threads:
            return max(chain, self.copies, self.encoders / self.n_cores, self.disk)
        chain += self.copies
        return max(chain, (chain * self.n_threads + self.encoders) / self.n_cores, self.disk)

    @property
    def limit(self) -> Stage:
        """The stage that takes most of what there is least of."""
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


def costs_of(tried: Streamed, device: torch.device) -> Costs:
    """Costs by what a trial on this device measured (`try_ways`)."""
    measured, alone = tried.measured, tried.measured["alone"]
    stages, forward = alone["stages"], measured["bare_seconds"] / measured["bare_tokens"]
    hooked = sum(stages[name] for name in ("forward", "reduce", "logits")) / tried.tokens
    raw, stored = (measured[name] / tried.tokens for name in ("raw_bytes", "stored_bytes"))
    on_host = device.type == "cpu"
    return Costs(
        forward=forward,
        measuring=max(hooked - forward, 0.0),
        copies=stages["copy"] / tried.tokens if on_host else raw / measured["copy_bytes_per_second"],
        encoders=measured["encoder_seconds_per_byte"] * raw,
        disk=min(stored, raw) / measured["disk_bytes_per_second"],  # a short row fills its chunks up
        n_cores=n_cores(),
        n_threads=min(torch.get_num_threads(), n_cores()) if on_host else 0,
    )


def ways(costs: Costs, others: Mapping[str, Costs]) -> dict[str, Costs]:
    """What would make a capture faster, fastest first: option or change -> the costs with it.

    `others` has the costs of captures that were tried, by option.
    """
    fewer = replace(
        costs,
        measuring=SHARE * costs.measuring,
        copies=SHARE * costs.copies,
        encoders=SHARE * costs.encoders,
        disk=SHARE * costs.disk,
    )
    n = 2 if costs.n_threads == costs.n_cores else 1  # a pass that takes all cores takes more of them
    more = replace(costs, n_cores=2 * costs.n_cores, n_threads=n * costs.n_threads)
    more = replace(more, forward=costs.forward / n, measuring=costs.measuring / n, copies=costs.copies / n)
    found = {f"--tokens share:{SHARE:g}": fewer, **others, "twice the cores": more}
    better = {way: one for way, one in found.items() if costs.seconds > WORTH * one.seconds}
    return dict(sorted(better.items(), key=lambda item: item[1].seconds))


def as_dict(costs: Costs, better: Mapping[str, Costs]) -> dict[str, Any]:
    """Tokens a second by stage and of all together, the stage that limits it, and the ways, as JSON values."""
    told = {"tokens_per_second": 1 / costs.seconds, "limit": costs.limit}
    made = {way: {"tokens_per_second": 1 / one.seconds, "limit": one.limit} for way, one in better.items()}
    return {"stages": costs.rates, **told, "ways": made}


def n_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
