"""Which chunks that a run had are no longer there, by their names alone."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from zarr.core.metadata import ArrayV3Metadata

from ..format.check import is_base_score
from ..format.layout import chunk_key, goes_with_states
from .read import array_metadata, open_checked, open_group

__all__ = ["missing_chunks"]


def missing_chunks(path: str | Path) -> list[str]:
    """Keys of the chunks that the run at `path` lacks, sorted; nothing is read but their names.

    Wanted are those of its committed rows, and all of the arrays that are written when a run is set up.

    Raises
    ------
    StoreError
        If there is no run, or it isn't laid out as the format says.
    """
    place, group = open_group(path)
    run = open_checked(place, group)
    # Before the names: others may be writing. A finished run had every row.
    committed = np.ones(run.n_rows, np.bool_) if run.finished else run.committed_rows
    there = set(place.keys())
    wanted = (
        chunk_key(name, index, len(metadata.shape))
        for name, metadata in array_metadata(group).items()
        for index in _indices(name, metadata, committed, run.state_rows)
    )
    return sorted(key for key in wanted if key not in there)


def _indices(name: str, metadata: ArrayV3Metadata, committed: np.ndarray, with_states: np.ndarray) -> Iterable[int]:
    """Indices along the first axis of the chunks that an array must have."""
    if metadata.attributes.get("written") == "by row":
        return map(int, np.flatnonzero(committed & with_states if goes_with_states(name) else committed))
    if name == "rows/digest":
        return map(int, np.flatnonzero(committed))
    if is_base_score(name):  # early writers left out scores that there weren't
        return ()
    return range(-(-metadata.shape[0] // metadata.chunks[0]))
