"""What is kept of a token at a component where its states aren't: js, norms and effective width."""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache, partial
from typing import Any, NamedTuple

import numpy as np
import torch

from ..buffers.target import BatchTarget
from .js import jensen_shannon, part_values

__all__ = ["Reduced", "Reducer", "other_threads", "reduce_tokens"]

_TILE_VALUES = 2**16
"""Values that go through all kernels before the next ones do: small enough to stay in a core's cache meanwhile."""


class Reduced(NamedTuple):
    """Measures of tokens at one component, float32 (token,) each, on the device of the states."""

    js: torch.Tensor
    """JS(softmax(base), softmax(base + delta)), nats."""
    base_norm: torch.Tensor
    """Euclidean norm of base."""
    delta_norm: torch.Tensor
    """Euclidean norm of delta."""
    effective_width: torch.Tensor
    """exp of the entropy of softmax(base)."""


def reduce_tokens(base: torch.Tensor, delta: torch.Tensor, *, threads: ThreadPoolExecutor | None = None) -> Reduced:
    """Js, norms and effective width of each token; NaN where what they are of isn't finite.

    Parameters
    ----------
    base, delta
        Shape (token, feature). In host memory they are taken as float32 and go through the kernels that analysis runs
        on stored states; on another device the same is computed in torch, in float64.
    threads
        Threads that take tiles of tokens in host memory beside this one.
    """
    if base.device.type != "cpu":
        return _reduce_in_torch(base, delta)
    base, delta = base.float().contiguous(), delta.float().contiguous()
    found = torch.empty(4, len(base), dtype=torch.float32)
    step = max(1, _TILE_VALUES // max(1, base.shape[1]))
    tiles = deque(slice(start, start + step) for start in range(0, len(base), step))
    take = partial(_reduce_tiles, base.numpy(), delta.numpy(), found.numpy(), tiles)
    others = [threads.submit(take) for _ in range(min(threads._max_workers, len(tiles) - 1))] if threads else []
    take()
    for other in others:
        other.result()
    return Reduced(*found)


def other_threads(n_threads: int | None = None) -> ThreadPoolExecutor | None:
    """Threads beside this one, together so many or as many as torch uses; None where this one is alone."""
    n_others = (torch.get_num_threads() if n_threads is None else n_threads) - 1
    return ThreadPoolExecutor(n_others, "lorascope-reduce") if n_others > 0 else None


class Reducer:
    """Reduces every component of a batch in the middle of its pass, and puts the measures into the rows.

    A `Recorder` calls it with the captured tokens of each adapter and component.
    """

    def __init__(self, n_threads: int | None = None) -> None:
        """`n_threads` take part in host memory; None for as many as torch uses."""
        self._threads = other_threads(n_threads)
        self._target: BatchTarget | None = None
        self._reduced: set[int] = set()

    @contextmanager
    def into(self, target: BatchTarget) -> Iterator[None]:
        """The passes of one batch, whose measures go into `target`."""
        self._target = target
        self._reduced.clear()
        try:
            yield
        finally:
            self._target = None

    def __call__(self, index: int, adapter: str, base: torch.Tensor, delta: torch.Tensor) -> None:
        """Take base and delta (captured token, feature) of the component at `index` of the component axis."""
        target = self._target
        if target is None:
            return
        with target.meter.timed("reduce"):
            found = reduce_tokens(base, delta, threads=self._threads)
            target.put_values(f"adapters/{adapter}/js", found.js, index)
            target.put_values(f"adapters/{adapter}/delta_norm", found.delta_norm, index)
            if index not in self._reduced:  # the base is the same to every adapter
                self._reduced.add(index)
                target.put_values("reductions/base_norm", found.base_norm, index)
                target.put_values("reductions/effective_width", found.effective_width, index)


def _reduce_tiles(base: np.ndarray, delta: np.ndarray, found: np.ndarray, tiles: deque[slice]) -> None:
    """Tile by tile while there are any: a thread whose core is busy with something else takes fewer of them."""
    jensen_shannon_rows, norm_ratio_rows, effective_width_rows = _kernels()
    while tiles:
        try:
            tile = tiles.popleft()
        except IndexError:  # another thread took the last one
            return
        x, d = base[tile], delta[tile]
        one = np.ones((len(x), 1), np.float32)
        jensen_shannon_rows(x, d, found[0, tile])
        norm_ratio_rows(one, x, found[1, tile])  # the norm over that of a vector of length one
        norm_ratio_rows(one, d, found[2, tile])
        effective_width_rows(x, found[3, tile])


@cache
def _kernels() -> tuple[Callable[..., Any], ...]:
    """Imported where they are used, so that capture with states never waits for numba."""
    from lorascope.analyze.kernels.linear import norm_ratio_rows
    from lorascope.analyze.kernels.softmax import effective_width_rows, jensen_shannon_rows

    return jensen_shannon_rows, norm_ratio_rows, effective_width_rows


def _reduce_in_torch(base: torch.Tensor, delta: torch.Tensor) -> Reduced:
    """Measures of each token, part by part: every part takes a dozen float64 temporaries."""
    n_tokens = max(1, part_values(base.device) // max(1, base.shape[1]))
    parts = zip(torch.split(base, n_tokens), torch.split(delta, n_tokens), strict=True)
    return Reduced(*(torch.cat(found) for found in zip(*(_reduce_part(*part) for part in parts), strict=True)))


def _reduce_part(base: torch.Tensor, delta: torch.Tensor) -> Reduced:
    base, delta = base.double(), delta.double()
    log_p = base.log_softmax(-1)
    entropy = -torch.special.xlogy(log_p.exp(), log_p.exp()).sum(-1)
    norms = [torch.linalg.vector_norm(x, dim=-1) for x in (base, delta)]
    measures = jensen_shannon(base, delta), *norms, entropy.exp()
    return Reduced(*(measure.where(measure.isfinite(), torch.nan).float() for measure in measures))
