"""Which chunks of a run's committed rows are no longer there, by their names alone."""

from pathlib import Path

import numpy as np

from ..format.layout import chunk_key, goes_with_states
from .read import array_metadata, open_checked, open_group

__all__ = ["missing_chunks"]


def missing_chunks(path: str | Path) -> list[str]:
    """Keys of the chunks that committed rows of the run at `path` lack, sorted; nothing is read but their names.

    Raises
    ------
    StoreError
        If there is no run, or it isn't laid out as the format says.
    """
    place, group = open_group(path)
    run = open_checked(place, group)
    there = set(place.keys())
    with_states = np.flatnonzero(run.committed_rows & run.state_rows)
    wanted = (
        chunk_key(name, int(row), len(metadata.shape))
        for name, metadata in array_metadata(group).items()
        if metadata.attributes.get("written") == "by row"
        for row in (with_states if goes_with_states(name) else np.flatnonzero(run.committed_rows))
    )
    return sorted(key for key in wanted if key not in there)
