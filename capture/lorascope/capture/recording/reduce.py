"""Measures of tokens at a component: js, and (if states aren't kept) norms and effective width.

A component is a layer that an adapter changes, its frozen output the base, and the adapter's addition the delta. js, or
JS, is the Jensen-Shannon divergence of softmax(base) and softmax(base + delta).
"""

import logging
import math
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from importlib.util import find_spec
from typing import NamedTuple

import numpy as np
import torch

from ..buffers.target import BatchTarget

_LOG = logging.getLogger(__name__)
_TILE_VALUES = 2**16
"""Values that pass all kernels before the next ones: few enough to stay in a core's cache."""
_PART_VALUES = {"cpu": 2**17}
"""Values per part: on a CPU a dozen float64 temporaries of 1 MB, which fit its cache."""
_PART_VALUES_ELSEWHERE = 2**21
"""16 MB for each temporary, whatever the batch."""
_SERIES_BELOW = 0.1
"""|d| under which g is its even series: there the closed form loses digits to cancellation."""


def jensen_shannon(base: torch.Tensor, delta: torch.Tensor) -> torch.Tensor:
    """Return the Jensen-Shannon divergence of softmax(base) and softmax(base + delta), last axis, nats, float64.

    Parameters
    ----------
    base, delta
        Shape (..., feature), any floating type; all arithmetic is float64.

    Returns
    -------
    torch.Tensor
        Shape (...,), float64; NaN where base or delta isn't finite.

    Notes
    -----
    With d = log q - log p and m = (p + q) / 2, JS = sum_i m_i g(d_i), g(d) = (d/2) tanh(d/2) - log cosh(d/2) >= 0,
    so no terms cancel. d is delta minus the log-ratio of the normalisers, which is log1p(sum_i p_i expm1(delta_i))
    if delta is small: the difference of two logarithms would lose it.

    References
    ----------
    Zhang et al., arXiv 2501.03152, eqs. 3 and 9.
    """
    n_features = max(1, base.shape[-1])
    n_tokens = max(1, values_per_part(base.device) // n_features)
    if base.numel() > n_tokens * n_features:  # each part's temporaries fit the cache
        parts = zip(*(torch.split(values.flatten(0, -2), n_tokens) for values in (base, delta)), strict=True)
        return torch.cat([jensen_shannon(*part) for part in parts]).reshape(base.shape[:-1])
    base, delta = base.double(), delta.double()
    log_p = torch.log_softmax(base - base.amax(-1, keepdim=True), -1)
    # A constant changes no softmax; without the mean under p, small differences of large deltas keep their digits.
    delta = delta - (log_p.exp() * delta).sum(-1, keepdim=True)
    shift = delta.amax(-1, keepdim=True)
    direct = shift + torch.logsumexp(log_p + (delta - shift), -1, keepdim=True)
    moved = (log_p.exp() * torch.expm1(delta.clamp(max=1.0))).sum(-1, keepdim=True)
    small = delta.abs().amax(-1, keepdim=True) < 0.5
    d = delta - torch.where(small, torch.log1p(moved.clamp(min=-0.5)), direct)
    mean = (log_p.exp() + (log_p + d).exp()) / 2
    terms = torch.where(mean > 0, mean * js_term(d), torch.zeros_like(mean))
    finite = torch.isfinite(base).all(-1) & torch.isfinite(delta).all(-1)
    return torch.where(finite, terms.sum(-1), torch.nan)


def values_per_part(device: torch.device) -> int:
    """Return the number of values to compute at a time on a device, with a dozen float64 temporaries for each."""
    return _PART_VALUES.get(device.type, _PART_VALUES_ELSEWHERE)


def js_term(d: torch.Tensor) -> torch.Tensor:
    """Return ln 2 - H(sigmoid(d)), H the binary entropy: a feature's JS term at d = log q - log p, unweighted."""
    t = torch.exp(-d.abs())
    closed = math.log(2) - torch.log1p(t) - d.abs() * t / (1 + t)
    x = (d / 2) ** 2
    series = x * (1 / 2 - x * (1 / 4 - x * (1 / 9 - x * (17 / 360))))
    return torch.where(d.abs() < _SERIES_BELOW, series, closed)


class Reduced(NamedTuple):
    """JS, base norm, delta norm and effective width of tokens at one adapted layer, float32 (token,) each.

    They are on the device of the states.
    """

    js: torch.Tensor
    """JS(softmax(base), softmax(base + delta)), nats."""
    base_norm: torch.Tensor
    """Euclidean norm of base."""
    delta_norm: torch.Tensor
    """Euclidean norm of delta."""
    effective_width: torch.Tensor
    """Exponential of the entropy of softmax(base)."""


class Measured(NamedTuple):
    """JS, norms, effective width, swallowed share and excess of tokens at one layer, float32 (token,) each.

    They are NaN where base or delta isn't finite.
    """

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
    """Largest |output - (base + delta)| divided by what rounding allows, as in `sink.excess`; 0 if not compared."""


def reduce_tokens(base: torch.Tensor, delta: torch.Tensor, *, threads: ThreadPoolExecutor | None = None) -> Reduced:
    """Return JS, both norms and the base's effective width of each token; NaN where an input isn't finite.

    Parameters
    ----------
    base, delta
        Shape (token, feature). In host memory they are cast to float32 and measured by the kernels that analysis runs
        on stored states; on other devices torch measures them in float64.
    threads
        Further threads that measure tiles of tokens in host memory.
    """
    if base.device.type != "cpu":
        return _reduce_in_torch(base, delta)
    base, delta = base.float().contiguous(), delta.float().contiguous()
    measures = torch.empty(4, len(base), dtype=torch.float32)
    step = max(1, _TILE_VALUES // max(1, base.shape[1]))
    tiles = deque(slice(start, start + step) for start in range(0, len(base), step))
    take = partial(_reduce_tiles, base.numpy(), delta.numpy(), measures.numpy(), tiles)
    others = [threads.submit(take) for _ in range(min(threads._max_workers, len(tiles) - 1))] if threads else []
    take()
    for other in others:
        other.result()
    return Reduced(*measures)


def make_helper_threads() -> ThreadPoolExecutor | None:
    """Return a pool with one thread fewer than torch uses, to reduce tokens; None if torch uses only one."""
    n_others = torch.get_num_threads() - 1
    return ThreadPoolExecutor(n_others, "lorascope-reduce") if n_others > 0 else None


@cache
def has_kernel(device: torch.device) -> bool:
    """Whether triton's kernel runs on this device, found by a tiny launch; False for a device without CUDA.

    If the launch fails, the reason is logged once, as a warning.
    """
    if device.type != "cuda" or torch.version.cuda is None or find_spec("triton") is None:
        return False
    if torch.cuda.get_device_capability(device) < (8, 0):  # older ones don't know bfloat16
        return False
    if device.index is None:  # by any name it is tried once
        return has_kernel(torch.device("cuda", torch.cuda.current_device()))
    try:
        from .fused import measure_difference  # imports triton

        measure_difference(*torch.ones(2, 1, 2, device=device))
    except Exception as error:  # triton's own, a compiler's, the system's
        _LOG.warning(
            "triton can't measure on %s (%s: %s), so that torch's float64 functions do, much more slowly; triton needs "
            "a C compiler and Python's headers",
            *(device, type(error).__name__, " ".join(str(error).split())),
        )
        return False
    return True


class Reducer:
    """Callback of a `Recorder` that writes each adapted layer's JS, norms and effective width into a batch's rows.

    A `Recorder` calls it with the measures of the captured tokens, for each adapter and component.
    """

    def __init__(self) -> None:
        """Start without a batch: the first call brings one."""
        self._target: BatchTarget | None = None
        self._reduced: set[int] = set()

    def __call__(self, target: BatchTarget, index: int, adapter: str, reduced: Reduced) -> None:
        """Write an adapter's JS and delta norm, and the base's norm and width, at layer `index` into the rows."""
        if target is not self._target:  # another batch
            self._target = target
            self._reduced.clear()
        target.put_values(f"adapters/{adapter}/js", reduced.js, index)
        target.put_values(f"adapters/{adapter}/delta_norm", reduced.delta_norm, index)
        if index not in self._reduced:  # the base is the same to every adapter
            self._reduced.add(index)
            target.put_values("reductions/base_norm", reduced.base_norm, index)
            target.put_values("reductions/effective_width", reduced.effective_width, index)


def _reduce_tiles(base: np.ndarray, delta: np.ndarray, measures: np.ndarray, tiles: deque[slice]) -> None:
    """Take tiles of tokens until none is left, and write JS, norms and width to `measures` (measure, token).

    Several threads may share the tiles.
    """
    # Here, so that capture with states never waits for numba.
    from lorascope.kernels.linear import norm_rows
    from lorascope.kernels.softmax import effective_width_rows, jensen_shannon_rows

    while tiles:
        try:
            tile = tiles.popleft()
        except IndexError:  # another thread took the last one
            return
        x, d = base[tile], delta[tile]
        jensen_shannon_rows(x, d, measures[0, tile])
        norm_rows(x, d, measures[1, tile], measures[2, tile], np.empty(len(x), np.float32))
        effective_width_rows(x, measures[3, tile])


def _reduce_in_torch(base: torch.Tensor, delta: torch.Tensor) -> Reduced:
    """Return JS, norms and effective width of tokens, computed by torch in float64, part by part.

    Every part takes a dozen float64 temporaries.
    """
    n_tokens = max(1, values_per_part(base.device) // max(1, base.shape[1]))
    parts = []
    for some_base, some_delta in zip(torch.split(base, n_tokens), torch.split(delta, n_tokens), strict=True):
        x, d = some_base.double(), some_delta.double()
        log_p = x.log_softmax(-1)
        entropy = -torch.special.xlogy(log_p.exp(), log_p.exp()).sum(-1)
        norms = [torch.linalg.vector_norm(values, dim=-1) for values in (x, d)]
        measures = jensen_shannon(x, d), *norms, entropy.exp()
        parts.append([measure.where(measure.isfinite(), torch.nan).float() for measure in measures])
    return Reduced(*map(torch.cat, zip(*parts, strict=True)))
