"""What a task reads: one component of a run, a row at a time, and the weights that make its delta."""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from lorascope.stores import Run, StoreError
from lorascope.stores.format.spec import ROW_TOKENS
from lorascope.stores.reading.rows import DeltaSource, RowArray

TOUCHED = "that the adapter touches"
"""Components of which some can be chosen, as an error calls them."""
GROUP_BYTES = 16 * 2**20
"""Least bytes of float32 base in one task: below that Dask's own time shows."""


class Source(NamedTuple):
    """One component of a run, ready to be read in any thread, process or machine; a few kB to send there."""

    component: str
    base: RowArray
    delta: DeltaSource
    identity: str
    """Digest of everything that was written when the run was set up, weights too."""

    def __hash__(self) -> int:
        return hash(self._key())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Source) and self._key() == other._key()

    def _key(self) -> tuple[str, str, str]:
        return self.identity, self.delta.rows.path, self.component


class Weights(NamedTuple):
    """What turns a component's factor into its delta."""

    lora_B_T: np.ndarray  # noqa: N815 (PEFT's name)
    """Float32 (rank, feature), contiguous."""
    bias: np.ndarray
    """Float32 (feature,), or empty."""
    scaling: np.float32


def sources_of(run: Run, adapter: str | None = None) -> list[Source]:
    """Every component that the adapter touches, in the run's order.

    Raises
    ------
    StoreError
        If the run holds no states, or the adapter touches no component.
    """
    ranks = run.adapter(adapter)["rank"].values
    if not (ranks > 0).any():
        raise StoreError(f"adapter {adapter or run.adapters[0]!r} of {run.place.name!r} touches no component")
    identity = str(run.attributes["static_digest"])
    return [
        Source(path, run.base_rows(path), run.delta_source(path, adapter), identity)
        for path, rank in zip(run.component_paths, ranks, strict=True)
        if rank > 0
    ]


def group_sizes(sources: Sequence[Source], group_bytes: int) -> list[int]:
    """How many neighbours are put together each time, until a row of their bases reaches `group_bytes`."""
    sizes, size = [0], 0
    for source in sources:
        sizes[-1] += 1
        size += 4 * ROW_TOKENS * source.base.shape[1]
        if size >= group_bytes:
            sizes.append(0)
            size = 0
    return [n for n in sizes if n]


def read_factors(sources: Sequence[Source], row: int) -> list[np.ndarray | None]:
    """Factors of a committed row, float32 (token, rank), contiguous; None for a component that has none.

    Those of components side by side lie in one piece of the store, which is read once.
    """
    kept = [index for index, source in enumerate(sources) if source.delta.lora_B is not None]
    factors: list[np.ndarray | None] = [None] * len(sources)
    if kept:
        first = sources[kept[0]].delta.rows
        blocks = first.read_columns(row, [sources[index].delta.rows.columns for index in kept])
        for index, block in zip(kept, blocks, strict=True):
            factors[index] = np.ascontiguousarray(block)
    return factors


@lru_cache(maxsize=16)  # a batch of components, of which only wide ones with many ranks take much
def weights_of(source: Source) -> Weights:
    """Weights of a component with a factor, read once for the rows that a worker goes through."""
    delta = source.delta
    assert delta.lora_B is not None
    lora_b = delta.lora_B()
    bias = np.empty(0, np.float32) if delta.bias is None else delta.bias()
    return Weights(np.ascontiguousarray(lora_b.T), bias, np.float32(delta.scaling))
