"""Experts one by one: measures of what an adapter changes in each, and a check that each expert's delta is its own.

A block of experts outputs base plus delta, where delta is what an adapter on one parameter adds. Delta of each chosen
expert is computed again from its own rows of A and columns of B, without PEFT's code. Both must agree in norm, and the
share of an expert's own delta in what the block adds must be 1: it is near 0 if the expert has the delta of another.
"""

from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import torch

from ..buffers.target import BatchTarget
from ..errors import CaptureError
from ..models.experts import Routing, Written, scales_input, write_out
from .reduce import Measured, Reduced, has_kernel, reduce_tokens
from .sites import Sum

MEASURED_VALUES = 2**24
"""Largest number of values of experts' outputs that are measured at a time, 64 MB in float32; or those of a token."""
LARGEST_ERROR = 0.5
"""Largest difference from 1 of the share of an expert's delta that the block adds: halfway to what it is where the
expert has the delta of another."""
NAMED_EXPERTS = 3
"""Largest number of experts that an error names; it counts the others."""


def put_routing(target: BatchTarget, root: str, routing: Routing) -> None:
    """Store which experts the captured tokens were routed to, and their weights."""
    target.put_values(f"{root}expert", routing.chosen.clone())
    target.put_values(f"{root}weight", routing.weights.float().clone())


def put_measures(
    target: BatchTarget, path: str, block: Any, adapter: str, routing: Routing, threads: ThreadPoolExecutor | None
) -> None:
    """Store js and norms of each chosen expert's own output, and z, by adapted parameter of the block at `path`."""
    arrays: dict[str, list[torch.Tensor]] = defaultdict(list)
    step = max(1, MEASURED_VALUES // (routing.chosen.shape[1] * routing.x.shape[1]))
    for part in zip(*(torch.split(each, step) for each in routing), strict=True):
        written = write_out(block, adapter, Routing(*part))
        for name, delta in written.delta.items():
            sides = (written.output - delta).flatten(0, 1), delta.flatten(0, 1)
            measures = _measure_rows(*sides, threads)
            values = {"js": measures.js, "base_norm": measures.base_norm, "delta_norm": measures.delta_norm}
            for array, of_part in {**values, "z": written.z[name]}.items():
                arrays[f"experts/{path}.experts.{name}/{array}"].append(of_part.reshape(len(delta), -1))
    for array, parts in arrays.items():
        target.put_values(array, torch.cat(parts))


def _measure_rows(base: torch.Tensor, delta: torch.Tensor, threads: ThreadPoolExecutor | None) -> Reduced | Measured:
    """Return JS and norms of rows, by the kernel where there is one."""
    if not has_kernel(base.device):
        return reduce_tokens(base, delta, threads=threads)
    from .fused import measure_delta  # imports triton

    return measure_delta(base, delta)


def arrived_shares(sums: torch.Tensor) -> torch.Tensor:
    """Return each expert's share of its own delta that arrives, 1 if it is right, from `ExpertSums.sums`; float64.

    It is NaN where it can't be known: delta is below rounding, or the expert had too few tokens.
    """
    product, own, rounding, n = sums.cpu().T
    is_known = (own > rounding / 64) & (own * n > 16 * rounding)
    shares: torch.Tensor = (1 + product / own).where(is_known, torch.nan)
    return shares


def count_judged(sums: torch.Tensor) -> dict[str, int]:
    """Return how many experts have a known share (`judged`), and how many got tokens (`with_tokens`)."""
    return {"judged": int(arrived_shares(sums).isfinite().sum()), "with_tokens": int(sums[:, 3].count_nonzero())}


@dataclass(slots=True)
class ExpertSums:
    """Sums over the passes of a process, by component and expert, which say how much of an expert's delta arrives."""

    sums: dict[str, torch.Tensor] = field(default_factory=dict)
    """Component path -> float64 (expert, 4): product of off and delta, squares of delta and of rounding, numbers."""

    def prove(self, written: Written, total: Sum) -> torch.Tensor:
        """Add the tokens of a pass to a component's sums; return |off| / what rounding allows (token,).

        Off is output - base minus the sum of the experts' own deltas, times their weights. Above 1 it is wrong.
        """
        component, (_, chosen, weights) = total.addition.component, written.routing
        is_weighted = scales_input(component.module.get_base_layer())  # which is in the experts' output then
        share = (torch.ones_like(weights) if is_weighted else weights).float()[..., None]
        assert total.output is not None
        base, output = total.base.float(), total.output.float()
        parts = written.delta[component.path.rpartition(".")[2]] * share
        off = output - base - parts.sum(1)
        size = output.norm(dim=-1) + base.norm(dim=-1) + 2 * (written.output * share).norm(dim=-1).sum(1)
        dtypes, device = [total.output.dtype], output.device.type
        if torch.is_autocast_enabled(device):  # as in a training: products have another type
            dtypes.append(torch.get_autocast_dtype(device))
        eps, float32 = max(torch.finfo(dtype).eps for dtype in dtypes), torch.finfo(torch.float32)
        rounding = (eps * size).square()[:, None].expand(chosen.shape)
        n_numbers = torch.full_like(rounding, component.d_out)
        columns = torch.stack(((off[:, None] * parts).sum(-1), parts.square().sum(-1), rounding, n_numbers), -1)
        is_finite = base.isfinite().all(-1)  # elsewhere there is nothing to compare
        columns = columns.where(is_finite[:, None, None], 0)
        before = self.sums.get(component.path, off.new_zeros((component.module.num_experts, 4)).double())
        self.sums[component.path] = before.index_add(0, chosen.flatten(), columns.flatten(0, 1).double())
        allowed = (2 * eps + max(component.d_in, component.d_out) ** 0.5 * float32.eps) * size + float32.tiny
        excess: torch.Tensor = (off.norm(dim=-1) / allowed).where(is_finite, 0)
        return excess

    def require_own(self) -> None:
        """Raise `CaptureError` if an expert's delta isn't that of its own A and B, with the experts' numbers."""
        reasons = []
        for path, sums in self.sums.items():
            shares = arrived_shares(sums)
            wrong = torch.where((shares - 1).abs() > LARGEST_ERROR)[0].tolist()
            named = [f"expert {expert} {shares[expert]:.2f}" for expert in wrong[:NAMED_EXPERTS]]
            if n_others := len(wrong) - len(named):
                named.append(f"{n_others} others")
            if named:
                reasons.append(f"experts of {path!r} (share of their delta that arrives, not 1: {', '.join(named)})")
        if reasons:
            raise CaptureError(
                f"{' and '.join(reasons)} don't add their own rows of A and columns of B: they are paired with other "
                "experts'; look at the code that loads or runs the adapter"
            )
