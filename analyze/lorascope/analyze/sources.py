"""What a Dask task reads: base and delta of a few neighbouring components, one row at a time."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from lorascope.stores import Run
from lorascope.stores.format.layout import ROW_TOKENS
from lorascope.stores.reading.rows import DeltaSource, RowArray

__all__ = ["Source", "group_sources", "sources_of"]

GROUP_BYTES = 8 * 2**20
"""Least bytes of float32 base in one task: below that Dask's own time shows."""


class Source(NamedTuple):
    """One component of a run, ready to be read in any thread or process."""

    component: str
    base: RowArray
    delta: DeltaSource

    def read(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        """(base, delta) of one row, float32 (token, feature) each."""
        base = self.base.read_row(row)
        return base, self.delta.read_row(row, base)


def sources_of(run: Run, adapter: str | None = None) -> list[Source]:
    """Every component that the adapter touches, in the run's order.

    Raises
    ------
    StoreError
        If the run holds no states.
    """
    ranks = run.adapter(adapter)["rank"].values
    return [
        Source(path, run.base_rows(path), run.delta_source(path, adapter))
        for path, rank in zip(run.component_paths, ranks, strict=True)
        if rank > 0
    ]


def group_sources(sources: Sequence[Source], *, group_bytes: int = GROUP_BYTES) -> list[list[Source]]:
    """Neighbours put together until a row of their bases reaches `group_bytes`."""
    return list(_grouped(sources, group_bytes))


def _grouped(sources: Sequence[Source], group_bytes: int) -> Iterator[list[Source]]:
    group: list[Source] = []
    size = 0
    for source in sources:
        group.append(source)
        size += 4 * ROW_TOKENS * source.base.shape[1]
        if size >= group_bytes:
            yield group
            group, size = [], 0
    if group:
        yield group
