"""Measures of tokens whose features are split over processes: each sums over its own features, and sums are exchanged.

A layer's frozen output is its base, an adapter's addition to it the delta, and JS the Jensen-Shannon divergence of the
softmaxes of base and base + delta. Two rounds exchange float64 values, whatever the number of features: `NORMALISERS`
and then `SUMS` for each token. All arithmetic is float64, as in `reduce.jensen_shannon`.
"""

import torch
import torch.distributed as dist

from ..models.shards import Shards
from .reduce import Measured, js_term, values_per_part
from .sink import excess, factor_size
from .sites import Sum

NORMALISERS = 4
"""Values for each token that every process sends in the first round: maximum and sum of exponentials, of two sides."""
SUMS = 5
"""Values for each token that are summed over processes in the second round."""


def measure_shards(total: Sum, shards: Shards, rows: torch.Tensor | None, *, prove_every: int) -> Measured:
    """Return JS, norms and further measures per token of a layer whose features are split over processes.

    Measures are those of all features, except `excess`, which is one value for this process's features. `rows` are
    indices of the tokens to measure, None for all; one token in `prove_every` is compared with the layer's output.
    """
    chosen = total if rows is None else total.select(lambda tensor: tensor.index_select(0, rows))
    base, delta = chosen.base, chosen.delta
    output = (base + delta).to(base.dtype) if chosen.output is None else chosen.output
    step = max(1, values_per_part(base.device) // max(1, base.shape[1]))
    parts = [*zip(*(torch.split(tensor, step) for tensor in (base, delta, output)), strict=True)]
    normalisers = torch.cat([_normalisers(x, d) for x, d, _ in parts])
    everyone = [torch.empty_like(normalisers) for _ in range(shards.size)]
    dist.all_gather(everyone, normalisers, group=shards.group)
    logs = torch.split(_combined_logs(torch.stack(everyone)), step)
    sums = torch.cat([_sums(*part, *log.unbind(-1)) for part, log in zip(parts, logs, strict=True)])
    dist.all_reduce(sums, group=shards.group)
    js, negative_entropy, base_squares, delta_squares, swallowed = sums.unbind(-1)
    js = js.where(delta_squares.isfinite() & base_squares.isfinite(), torch.nan)
    share = swallowed / (base.shape[1] * shards.size)
    measures = js, base_squares.sqrt(), delta_squares.sqrt(), (-negative_entropy).exp(), share
    js, base_norm, delta_norm, width, share = (
        measure.where(measure.isfinite(), torch.nan).float() for measure in measures
    )
    return Measured(js, base_norm, delta_norm, width, share, _own_excess(chosen, delta, prove_every))


def _normalisers(base: torch.Tensor, delta: torch.Tensor) -> torch.Tensor:
    """Return maximum and sum of exponentials relative to it, of base and of base + delta, float64 (token, 4)."""
    sides = base.double(), base.double() + delta.double()
    columns = []
    for side in sides:
        largest = side.amax(-1)
        columns += [largest, (side - largest[:, None]).exp().sum(-1)]
    return torch.stack(columns, -1)


def _combined_logs(everyone: torch.Tensor) -> torch.Tensor:
    """Return the log of both softmaxes' normalisers, float64 (token, 2), from all processes' (process, token, 4)."""
    largest, sums = everyone[..., 0::2], everyone[..., 1::2]
    return torch.logsumexp(largest + sums.log(), 0)


def _sums(
    base: torch.Tensor, delta: torch.Tensor, output: torch.Tensor, log_base: torch.Tensor, log_adapted: torch.Tensor
) -> torch.Tensor:
    """Return this process's part of JS, sum p log p, squares of base and delta, and swallowed features, (token, 5)."""
    x, d = base.double(), delta.double()
    log_p = x - log_base[:, None]
    log_ratio = d - (log_adapted - log_base)[:, None]
    p = log_p.exp()
    mean = (p + (log_p + log_ratio).exp()) / 2
    terms = torch.where(mean > 0, mean * js_term(log_ratio), torch.zeros_like(mean))
    swallowed = (output == base).logical_and_(delta != 0)
    each = terms, torch.special.xlogy(p, p), x * x, d * d, swallowed.double()
    return torch.stack([values.sum(-1) for values in each], -1)


def _own_excess(chosen: Sum, delta: torch.Tensor, prove_every: int) -> torch.Tensor:
    """Return the largest |output - (base + delta)| over what rounding allows, of this process's features; 0 if unknown.

    See `sink.excess`.
    """
    if chosen.z_or_delta is None or chosen.output is None:
        return torch.zeros((), device=delta.device)
    proved = chosen.select(lambda tensor: tensor[::prove_every])
    delta = delta[::prove_every]
    assert proved.z_or_delta is not None
    assert proved.output is not None
    if proved.is_factored:
        weights = proved.addition.weights_on(delta.device)
        size = factor_size(proved.z_or_delta, *weights, proved.addition.component.scaling)
        n_roundings = proved.z_or_delta.shape[-1] + 4
    else:
        size, n_roundings = proved.base.float().abs() + 2 * delta.abs(), 4
    return excess(proved.base, delta, size, proved.output, n_roundings=n_roundings, dtype=proved.dtype)


def gather_features(output: torch.Tensor, shards: Shards) -> torch.Tensor | None:
    """Gather a layer's output from processes that have some features each; return it on the first, None on others.

    `output` is (token, feature), of the same shape on all of them.
    """
    octets = output.contiguous().view(torch.uint8)  # not every backend knows every type
    parts = [torch.empty_like(octets) for _ in range(shards.size)] if shards.rank == 0 else None
    dist.gather(octets, parts, group=shards.group, group_dst=0)
    return None if parts is None else torch.cat([part.view(output.dtype) for part in parts], -1)
