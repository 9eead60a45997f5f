"""Measures of tokens on a GPU, in one launch of the kernel, from the tensors that the layer computed.

A layer's frozen output is its base, an adapter's addition to it the delta, and JS the Jensen-Shannon divergence of the
softmaxes of base and base + delta.

The float64 functions of `reduce` and `sink` are the reference, and devices without triton use them. This module needs
triton, which comes with torch's CUDA builds; it is imported only if triton was found.
"""

from contextlib import AbstractContextManager
from itertools import chain
from typing import Any

import torch

from .reduce import Measured
from .row_kernel import measure_rows, nll_rows
from .sites import Sum

_BLOCK_VALUES = 2048
"""Number of values that a program holds at a time, in registers: 16 for each of its threads."""
OPTIONS = {"num_warps": 4, "maxnreg": 255, "enable_fp_fusion": True}
"""Compiler options: the maximum number of registers, without which the assembler spills some needlessly; and fusion,
which is set because triton's default changes. It can't affect sums in two floats, which only add."""

_TF32 = 2 * 2**-10
"""Largest error of the layer's product of z and B with TF32, divided by the magnitudes of its terms: TF32 rounds both
to 10 bits, and the kernel doesn't."""


def measure_sum(total: Sum, rows: torch.Tensor | None, *, prove_every: int = 1) -> Measured:
    """Return JS, norms and further measures per token of a layer's base and delta, at all tokens or at `rows`.

    The output is compared with base + delta if delta is known.
    """
    base, z_or_delta, output = total.base, total.z_or_delta, total.output
    if z_or_delta is None:
        assert output is not None
        return measure_difference(base, output, rows=rows)
    if not total.is_factored:
        return measure_delta(base, z_or_delta, output=output, dtype=total.dtype, rows=rows, prove_every=prove_every)
    weight, bias = total.addition.weights_on(base.device)
    weight, scaling = weight.T.contiguous(), total.addition.component.scaling
    return measure_factor(
        base, z_or_delta, weight, bias, scaling=scaling, output=output, rows=rows, prove_every=prove_every
    )


def measure_factor(
    base: torch.Tensor,
    factor: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    scaling: float,
    output: torch.Tensor | None = None,
    rows: torch.Tensor | None = None,
    prove_every: int = 1,
) -> Measured:
    """Return JS, norms and more per token of base and delta = scaling * (factor @ weight + bias), by triton.

    Delta is computed in float32, as `Addition.delta` does.

    Parameters
    ----------
    base, output
        (row, feature), in the layer's own types; without output, `swallowed` is measured on the sum in base's type.
    factor, weight, bias
        z (row, rank) in its own type, the transpose of B (rank, feature) and its bias (feature,), contiguous float32.
    rows
        Indices int64 of the rows that are measured; None for all.
    prove_every
        One program in this many compares the output with base + delta, within what the layer's rounding allows.
    """
    rounding = torch.finfo(factor.dtype).eps * (factor.shape[-1] + 4)
    if factor.dtype == torch.float32 and torch.backends.cuda.matmul.allow_tf32:
        rounding += _TF32
    options: dict[str, Any] = {"scaling": scaling, "rounding": rounding, "prove_every": prove_every}
    return Measured(*_launch(base, output, factor, weight, bias, rows=rows, **options))


def measure_delta(
    base: torch.Tensor,
    delta: torch.Tensor,
    *,
    output: torch.Tensor | None = None,
    dtype: torch.dtype = torch.float32,
    rows: torch.Tensor | None = None,
    prove_every: int = 1,
) -> Measured:
    """Return JS, norms and more per token of a layer's base and a delta that it computed in `dtype`."""
    rounding = 4 * torch.finfo(dtype).eps
    return Measured(*_launch(base, output, delta, rows=rows, rounding=rounding, prove_every=prove_every))


def measure_difference(base: torch.Tensor, output: torch.Tensor, *, rows: torch.Tensor | None = None) -> Measured:
    """Return JS, norms and more per token of base and delta = output - base, so that `excess` is always 0."""
    return Measured(*_launch(base, output, rows=rows))


def kl_divergence(base: torch.Tensor, adapted: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Return KL(softmax(base) || softmax(adapted)) at `rows` of logits (row, token id), nats, float32 (token,)."""
    return _launch(base, adapted, rows=rows, is_kl=True)[0]


def token_nll(logits: torch.Tensor, rows: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Return the negative log softmax of each of these rows of logits at its token id, in nats, by triton.

    This is what `samples.scoring.token_nll` computes.
    """
    logits = _with_contiguous_rows(logits)
    nll = torch.empty(len(rows), dtype=torch.float32, device=logits.device)
    tokens, features = block_shape(logits.shape[1])
    if len(rows):
        with _current_device(logits):
            nll_rows[(-(-len(rows) // tokens),)](
                *(nll, logits, logits.stride(0), rows, ids, len(rows)),
                WIDTH=logits.shape[1],
                TOKENS=tokens,
                FEATURES=features,
                **OPTIONS,
            )
    return nll


def block_shape(width: int) -> tuple[int, int]:
    """Return (tokens, features) of the block that a triton program holds, for rows of this width.

    It is the shape that wastes least beyond a row's end.
    """
    features = min((512, 256, 128, 64), key=lambda size: -(-width // size) * size)
    return _BLOCK_VALUES // features, features


def _launch(
    base: torch.Tensor,
    output: torch.Tensor | None,
    z_or_delta: torch.Tensor | None = None,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    *,
    rows: torch.Tensor | None,
    scaling: float = 1.0,
    rounding: float = 0.0,
    prove_every: int = 1,
    is_kl: bool = False,
) -> torch.Tensor:
    """Launch the triton kernel once on base and delta; return float32 (measure, token): six measures, or one KL.

    All rows are measured if `rows` is None. `rounding` is the largest rounding error of the layer's delta, divided by
    the magnitudes of its terms.
    """
    n_tokens, width = len(base) if rows is None else len(rows), base.shape[1]
    measures = torch.empty((1 if is_kl else 6, n_tokens), dtype=torch.float32, device=base.device)
    tokens, features = block_shape(width)
    eps, smallest = _rounding_limits(base.dtype if output is None else output.dtype)
    tensors = [None if tensor is None else _with_contiguous_rows(tensor) for tensor in (base, output, z_or_delta)]
    strided = [(tensor, 0 if tensor is None else tensor.stride(0)) for tensor in tensors]
    if n_tokens:
        with _current_device(base):
            measure_rows[(-(-n_tokens // tokens),)](
                *(measures, *chain.from_iterable(strided), weight, bias, rows, n_tokens),
                *(scaling, rounding, eps, smallest, prove_every),
                WIDTH=width,
                RANK=0 if weight is None else weight.shape[0],
                IS_KL=is_kl,
                TOKENS=tokens,
                FEATURES=features,
                **OPTIONS,
            )
    return measures


def _current_device(tensor: torch.Tensor) -> AbstractContextManager[None]:
    """Return a context in which the tensor's device is CUDA's current one, where triton launches."""
    return torch.cuda.device_of(tensor)  # type: ignore[no-untyped-call]  # torch's own


def _with_contiguous_rows(tensor: torch.Tensor) -> torch.Tensor:
    """Return the tensor itself or, if the values of a row aren't contiguous, a contiguous copy."""
    return tensor if tensor.stride(-1) == 1 or tensor.shape[-1] == 1 else tensor.contiguous()


def _rounding_limits(dtype: torch.dtype) -> tuple[float, float]:
    """Return (eps, smallest step) of a floating type: the relative and absolute rounding that is allowed.

    A device may round numbers below float32's normal range to zero.
    """
    kind, least = torch.finfo(dtype), torch.finfo(torch.float32).smallest_normal
    return kind.eps, max(kind.smallest_normal * kind.eps, least)
