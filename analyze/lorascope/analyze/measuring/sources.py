"""Sources that a task reads: one component of a run, a row at a time, and the weights that make its delta."""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from lorascope.stores import Run, StoreError
from lorascope.stores.names import matching
from lorascope.stores.reading.source import Source

TOUCHED = "components that the adapter touches"
"""Components of which some can be chosen, as an error calls them."""
GROUP_BYTES = 16 * 2**20
"""Least bytes of float32 base in one task: below that Dask's own time shows."""


class Weights(NamedTuple):
    """Weights that turn a component's factor into its delta."""

    lora_B_T: np.ndarray  # noqa: N815 (PEFT's name)
    """Float32 (rank, feature), contiguous."""
    bias: np.ndarray
    """Float32 (feature,), or empty."""
    scaling: np.float32


def sources_of(run: Run, adapter: str | None = None, components: Sequence[str] | None = None) -> list[Source]:
    """Components that the adapter touches, in the run's order: all, or those of these paths and patterns.

    Raises
    ------
    StoreError
        If the run holds no states, or the adapter touches no component.
    ValueError
        If a pattern fits none of them.
    """
    ranks = run.adapter(adapter)["rank"].values
    paths = [path for path, rank in zip(run.component_paths, ranks, strict=True) if rank > 0]
    if not paths:
        raise StoreError(f"adapter {adapter or run.adapters[0]!r} of {run.place.name!r} touches no component")
    return [run.source(paths[place], adapter) for place in matching(paths, components, of=TOUCHED)]


@lru_cache(maxsize=16)  # a batch of components, of which only wide ones with many ranks take much
def weights_of(source: Source) -> Weights:
    """Weights of a component with a factor, read once for the rows that a worker goes through."""
    delta = source.delta
    assert delta.lora_B is not None
    lora_b = delta.lora_B()
    bias = np.empty(0, np.float32) if delta.bias is None else delta.bias()
    return Weights(np.ascontiguousarray(lora_b.T), bias, np.float32(delta.scaling))
