"""Measures of tokens on a GPU, in one launch from the tensors that the layer made.

The float64 functions of `reduce` and `sink` are its reference, and what devices without triton use. Needs triton, which
comes with torch's CUDA builds: imported only where that was found.
"""

from contextlib import AbstractContextManager
from itertools import chain
from typing import NamedTuple

import torch

from .row_kernel import measure_rows, nll_rows
from .sites import Sum

_BLOCK_VALUES = 2048
"""Values that a program holds at a time: 16 for each of its threads, in registers."""
OPTIONS = {"num_warps": 4, "maxnreg": 255, "enable_fp_fusion": True}
"""Options of compilation: the most registers, or else the assembler spills a few for room that isn't needed,
and with fusion, which is named because triton's default changes. Sums in two floats only add: it can't reach them."""

_TF32 = 2 * 2**-10
"""Largest error of the layer's product of z and B where TF32 is on, over the magnitudes of its terms: it cuts both to
10 bits, and the kernel doesn't."""


class Measured(NamedTuple):
    """Measures of tokens at one component, float32 (token,) each; NaN where base or delta isn't finite."""

    js: torch.Tensor
    """JS(softmax(base), softmax(base + delta)), nats."""
    base_norm: torch.Tensor
    """Euclidean norm of base."""
    delta_norm: torch.Tensor
    """Euclidean norm of delta."""
    effective_width: torch.Tensor
    """Exponential of the entropy of softmax(base)."""
    swallowed: torch.Tensor
    """Share of features whose output is the base although delta isn't zero."""
    excess: torch.Tensor
    """Largest |output - (base + delta)| over what rounding allows, as in `sink.excess`; 0 where it isn't proved."""


class _Settings(NamedTuple):
    scaling: float = 1.0
    rounding: float = 0.0
    """Largest rounding error of the layer's delta, over the magnitudes of its terms."""
    prove_every: int = 1
    is_kl: bool = False


def measure_sum(total: Sum, rows: torch.Tensor | None, *, prove_every: int = 1) -> Measured:
    """Measures of a sum's tokens, or of those at `rows`; what a layer put out, other than a difference, is proved."""
    base, z_or_delta, output = total.base, total.z_or_delta, total.output
    if z_or_delta is None:
        assert output is not None
        return measure_difference(base, output, rows=rows)
    if not total.is_factored:
        return measure_delta(base, z_or_delta, output=output, dtype=total.dtype, rows=rows, prove_every=prove_every)
    weight, bias = total.addition.on(base.device)
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
    """Measures of base and delta = scaling (z B^T + bias), formed in float32 as `sites.Addition.delta` does.

    Parameters
    ----------
    base, output
        (row, feature), in the layer's own types; without output, `swallowed` is that of the sum in base's type.
    factor, weight, bias
        z (row, rank) in its own type, the transpose of B (rank, feature) and its bias (feature,), contiguous float32.
    rows
        Indices of the rows that are measured, int64; all of them by default.
    prove_every
        One program in so many compares the output with base + delta, with what the layer's rounding allows.
    """
    rounding = torch.finfo(factor.dtype).eps * (factor.shape[-1] + 4)
    if factor.dtype == torch.float32 and torch.backends.cuda.matmul.allow_tf32:
        rounding += _TF32
    settings = _Settings(scaling, rounding, prove_every)
    return Measured(*_run(base, output, factor, weight, bias, rows, settings=settings))


def measure_delta(
    base: torch.Tensor,
    delta: torch.Tensor,
    *,
    output: torch.Tensor | None = None,
    dtype: torch.dtype = torch.float32,
    rows: torch.Tensor | None = None,
    prove_every: int = 1,
) -> Measured:
    """Measures of base and a delta (row, feature) that a branch of the layer computed in `dtype`."""
    settings = _Settings(1.0, 4 * torch.finfo(dtype).eps, prove_every)
    return Measured(*_run(base, output, delta, None, None, rows, settings=settings))


def measure_difference(base: torch.Tensor, output: torch.Tensor, *, rows: torch.Tensor | None = None) -> Measured:
    """Measures of base and delta = output - base; nothing is proved."""
    return Measured(*_run(base, output, None, None, None, rows, settings=_Settings()))


def kl_divergence(base: torch.Tensor, adapted: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """KL(softmax(base) || softmax(adapted)) of these rows of logits (row, token id), nats, float32 (token,)."""
    return _run(base, adapted, None, None, None, rows, settings=_Settings(is_kl=True))[0]


def token_nll(logits: torch.Tensor, rows: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Negative log-likelihood of each of these tokens, as `samples.scoring.token_nll`."""
    logits = _by_rows(logits)
    nll = torch.empty(len(rows), dtype=torch.float32, device=logits.device)
    tokens, features = block_shape(logits.shape[1])
    if len(rows):
        with _device_of(logits):
            nll_rows[(-(-len(rows) // tokens),)](
                *(nll, logits, logits.stride(0), rows, ids, len(rows)),
                WIDTH=logits.shape[1],
                TOKENS=tokens,
                FEATURES=features,
                **OPTIONS,
            )
    return nll


def block_shape(width: int) -> tuple[int, int]:
    """Tokens and features that a program holds at a time: the features that waste least beyond a row's end."""
    features = min((512, 256, 128, 64), key=lambda size: -(-width // size) * size)
    return _BLOCK_VALUES // features, features


def _run(
    base: torch.Tensor,
    output: torch.Tensor | None,
    z_or_delta: torch.Tensor | None,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    rows: torch.Tensor | None,
    *,
    settings: _Settings,
) -> torch.Tensor:
    n_tokens, width = len(base) if rows is None else len(rows), base.shape[1]
    measures = torch.empty((1 if settings.is_kl else 6, n_tokens), dtype=torch.float32, device=base.device)
    tokens, features = block_shape(width)
    eps, smallest = _rounding(base.dtype if output is None else output.dtype)
    tensors = [None if tensor is None else _by_rows(tensor) for tensor in (base, output, z_or_delta)]
    strided = [(tensor, 0 if tensor is None else tensor.stride(0)) for tensor in tensors]
    if n_tokens:
        with _device_of(base):
            measure_rows[(-(-n_tokens // tokens),)](
                *(measures, *chain.from_iterable(strided), weight, bias, rows, n_tokens),
                *(settings.scaling, settings.rounding, eps, smallest, settings.prove_every),
                WIDTH=width,
                RANK=0 if weight is None else weight.shape[0],
                IS_KL=settings.is_kl,
                TOKENS=tokens,
                FEATURES=features,
                **OPTIONS,
            )
    return measures


def _device_of(tensor: torch.Tensor) -> AbstractContextManager[None]:
    """Make the tensor's device the current one, on which triton launches."""
    return torch.cuda.device_of(tensor)  # type: ignore[no-untyped-call]  # torch's own


def _by_rows(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor itself, or a copy where a row's values aren't neighbours, which layers put out seldom."""
    return tensor if tensor.stride(-1) == 1 or tensor.shape[-1] == 1 else tensor.contiguous()


def _rounding(dtype: torch.dtype) -> tuple[float, float]:
    """Spacing at 1 and smallest step; below float32's normal numbers a device may round to zero."""
    kind, least = torch.finfo(dtype), torch.finfo(torch.float32).smallest_normal
    return kind.eps, max(kind.smallest_normal * kind.eps, least)
