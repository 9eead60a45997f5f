"""Run by torchrun: measures of tokens by partial sums over processes, against those of all features in one process.

The first process prints the largest differences as JSON, and how many values every exchange took.
"""

import json
import sys
from typing import Any

import torch
import torch.distributed as dist

from lorascope.capture.models.shards import Shards
from lorascope.capture.recording.partial_sums import gather_features, measure_shards
from lorascope.capture.recording.reduce import _reduce_in_torch
from lorascope.capture.recording.sites import Addition, Sum

N_TOKENS, WIDTH = 300, 96


def cases() -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Name -> base and delta, (token, feature), float32 or bfloat16."""
    generator = torch.Generator().manual_seed(0)
    base, delta = torch.randn(2, N_TOKENS, WIDTH, generator=generator)
    one_side = base.clone()
    one_side[:, : WIDTH // 4] += 60  # all the mass with the first process
    broken = base.clone()
    broken[0, 3], broken[1, -1], broken[2, 0] = torch.inf, torch.nan, -torch.inf
    return {
        "plain": (base, delta),
        "tiny": (base, 1e-7 * delta),
        "large": (30 * base, 1e4 + 0.1 * delta),
        "one side": (one_side, delta),
        "broken base": (broken, delta),
        "broken delta": (base, broken),
        "zero": (base, torch.zeros_like(delta)),
        "bfloat16": (base.bfloat16(), delta),
    }


def compare(name: str, base: torch.Tensor, delta: torch.Tensor, shards: Shards) -> dict[str, Any]:
    own = shards.own_features(WIDTH)
    output = (base.float() + delta).to(base.dtype)
    addition: Any = Addition("default", None)  # type: ignore[arg-type]  # delta itself is given
    total = Sum(addition, base[:, own], delta[:, own], output=output[:, own])
    rows = torch.arange(0, N_TOKENS, 2)
    measured = measure_shards(total, shards, rows, prove_every=3)
    expected = _reduce_in_torch(base[rows], delta[rows])
    swallowed = ((output == base) & (delta != 0))[rows].float().mean(-1)
    worst = {}
    for what, mine, reference in zip(
        ("js", "base_norm", "delta_norm", "effective_width"), measured[:4], expected, strict=True
    ):
        assert torch.equal(mine.isnan(), reference.isnan()), (name, what)
        off = (mine - reference).abs() / reference.abs().clamp(min=1e-30)
        worst[what] = off.nan_to_num().max().item()
    gathered = gather_features(base[:, own], shards)
    assert (gathered is not None) == (shards.rank == 0)
    is_same = gathered is None or torch.equal(gathered.nan_to_num(), base.nan_to_num())
    return {**worst, "swallowed": (measured.swallowed - swallowed).abs().max().item(), "gathered": is_same}


if __name__ == "__main__":
    dist.init_process_group("gloo")
    shards = Shards(dist.group.WORLD, dist.get_rank(), dist.get_world_size())
    results = {name: compare(name, *pair, shards) for name, pair in cases().items()}
    if shards.rank == 0:
        json.dump(results, sys.stdout)
    dist.destroy_process_group()
