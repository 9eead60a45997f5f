"""Which chunks that a run had are no longer there, by their names alone."""

from pathlib import Path

import numpy as np

from ..format.check import is_base_score
from .read import open_checked, open_group

__all__ = ["missing_chunks"]


def missing_chunks(path: str | Path) -> list[str]:
    """Keys of the chunks that the run at `path` lacks, sorted; nothing is read but their names.

    Wanted are those of its committed rows, and all of the arrays that are written when a run is set up.

    Raises
    ------
    StoreError
        If there is no run, or it isn't laid out as the format says.
    """
    run = open_checked(*open_group(path))
    # Before the names: others may be writing. A finished run had every row.
    committed = range(run.n_rows) if run.finished else np.flatnonzero(run.committed_rows).tolist()
    wanted = {run.arrays[path].key(row) for row in committed for path in ("rows/digest", *run.row_paths(row))}
    for path, array in run.arrays.items():
        # Early writers left out scores that there weren't.
        if not array.by_row and path != "rows/digest" and not is_base_score(path):
            wanted |= set(map(array.key, range(array.n_chunks)))
    return sorted(wanted.difference(run.place.keys()))
