"""The proof that a layer's output is its base plus what was taken as delta, to within what rounding allows."""

from typing import NamedTuple

import torch

from .js import part_values

__all__ = ["PROVED_TOKENS", "Sum", "excess", "factor_size", "proved", "swallowed_share"]

PROVED_TOKENS = 256
"""Most tokens of a pass that are proved, evenly spaced among the measured: whatever else changes a layer's output
changes it for most tokens."""


class Sum(NamedTuple):
    """A base and what is added to it, for some tokens."""

    base: torch.Tensor
    """(token, feature), in the layer's own type."""
    delta: torch.Tensor
    """Float32, same shape."""
    size: torch.Tensor
    """Same shape: magnitudes of the terms of delta, added up."""
    n_roundings: int
    """How often a partial sum of delta may have been rounded otherwise than the layer did."""
    dtype: torch.dtype
    """Type in which the layer computes delta."""


def proved(measured: torch.Tensor) -> torch.Tensor:
    """The measured tokens (token, feature) that are proved; a copy, unless they are all of them."""
    return measured[:: max(1, -(-len(measured) // PROVED_TOKENS))].contiguous()


def excess(total: Sum, output: torch.Tensor) -> torch.Tensor:
    """Largest |output - (base + delta)| over what rounding allows, on the device; NaN if either side is.

    A scalar for tensors of (token, feature); of each first index for those with further axes before these two.

    Notes
    -----
    The layer rounds its sum to the output's type (half a unit; some round delta first, which is another half), and
    delta may have its terms added in another order and, for an adapter kept in less than float32, in that type:
    eps_output * (|base| + |delta|) + n_roundings * eps_delta * size. Where the base itself, or the sum in the layer's
    own type, overflowed there is nothing to compare.
    """
    tensors = (*total[:3], output)
    step = max(1, part_values(output.device) * output.shape[-2] // max(1, output.numel()))
    if output.shape[-2] <= step:
        return _excess(total, output)
    parts = zip(*(torch.split(tensor, step, dim=-2) for tensor in tensors), strict=True)
    return torch.stack(
        [_excess(total._replace(base=base, delta=delta, size=size), out) for base, delta, size, out in parts]
    ).amax(0)


def _excess(total: Sum, output: torch.Tensor) -> torch.Tensor:
    base, out, delta = total.base.double(), output.double(), total.delta.double()
    both = base + delta
    eps = torch.finfo(output.dtype).eps
    smallest = torch.finfo(output.dtype).smallest_normal * eps
    allowed = (
        eps * (base.abs() + delta.abs()) + total.n_roundings * torch.finfo(total.dtype).eps * total.size + smallest
    )
    # An adapter whose own branch isn't finite is no overflow of the model: there `off` is NaN.
    sum_overflows = ~torch.isfinite(both.to(output.dtype)) & ~torch.isfinite(out) & torch.isfinite(delta)
    overflowed = ~torch.isfinite(base) | sum_overflows
    off = ((out - both).abs() / allowed).masked_fill(overflowed, 0)
    return off.amax((-2, -1)) if off.numel() else off.new_zeros(off.shape[:-2])


def factor_size(factor: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, scaling: float) -> torch.Tensor:
    """|scaling| * (|z| |B|^T + |bias|): magnitudes of the terms of delta, float32 (token, feature)."""
    offset = None if bias is None else bias.abs()
    with torch.autocast(factor.device.type, enabled=False):  # in which a model may run that is in training
        return torch.nn.functional.linear(factor.float().abs(), weight.abs(), offset) * abs(scaling)


def swallowed_share(base: torch.Tensor, delta: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
    """Share of features whose output is the base although delta isn't zero, float32 (token,)."""
    swallowed = (output == base).logical_and_(delta != 0)
    return (torch.count_nonzero(swallowed, dim=-1) / base.shape[-1]).float()
