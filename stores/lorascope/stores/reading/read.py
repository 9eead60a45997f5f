"""Opening a run: only what is laid out as the format says, and nothing read before its size is known to be sound."""

import warnings
from pathlib import Path

import numpy as np
import zarr
import zarr.errors
from zarr.core.metadata import ArrayV3Metadata

from ..errors import Problem, StoreError
from ..format.check import is_base_score, layout_problems
from ..format.stored_array import StoredArray
from ..places.place import Place, cached, open_place
from .rows import read_once
from .run import Run
from .state import refuse_unknown
from .there import no_store

UNREADABLE = (ValueError, KeyError, TypeError, RecursionError, zarr.errors.BaseZarrError)
"""Errors of Zarr for metadata that it can't make sense of."""


def open_run(path: str | Path) -> Run:
    """The run stored at `path`, finished or not.

    Chunks read from an object store are kept in memory, the latest 256 MiB of them a process, so that one which
    several components share is asked for once.

    Raises
    ------
    StoreError
        If there is no run at `path`, it is still being set up, its format is newer than this version of lorascope
        reads, or it isn't laid out as the format says.
    """
    return open_checked(*_open(cached(open_place(path))))


def open_checked(place: Place, group: zarr.Group) -> Run:
    """The run that this group holds; raises StoreError unless it is laid out as the format says."""
    problems = find_layout_problems(place, group)
    if problems:
        more = f" (and {len(problems) - 1} more such)" if len(problems) > 1 else ""
        raise StoreError(
            f"`{place.name}` isn't laid out as a run: {problems[0].message}{more}; `lorascope verify` lists what is "
            "wrong"
        )
    return run_of(place, group)


def run_of(place: Place, group: zarr.Group) -> Run:
    """The run that this group holds, whose layout is known to be sound."""
    arrays = {path: StoredArray.from_metadata(path, found) for path, found in array_metadata(group).items()}
    return Run(place, dict(group.attrs), arrays)


def open_group(path: str | Path) -> tuple[Place, zarr.Group]:
    """Place and root group of the run at `path`, of a version that we read and set up to the end; raises if not."""
    return _open(open_place(path))


def _open(place: Place) -> tuple[Place, zarr.Group]:
    if place.size("zarr.json") is None:
        raise no_store(place.name, nowhere=isinstance(place.path, Path) and not place.path.exists())
    try:
        group = zarr.open_group(place.zarr_store(read_only=True), mode="r", zarr_format=3)
    except UNREADABLE as error:
        raise StoreError(f"`{place.name}` isn't a readable Zarr group ({type(error).__name__}: {error})") from error
    attributes = dict(group.attrs)
    refuse_unknown(place, attributes)
    if "static_digest" not in attributes:
        raise StoreError(
            f"`{place.name}` is still being set up, or was interrupted then: it holds no row yet; wait for its "
            "capture, or run its command again"
        )
    return place, group


def find_layout_problems(place: Place, group: zarr.Group) -> list[Problem]:
    """Every way in which this run isn't laid out as the format says; reads metadata and the smallest tables only."""
    try:
        metadata = array_metadata(group)
    except UNREADABLE as error:
        message = f"metadata of `{place.name}` can't be read ({type(error).__name__}: {error})"
        return [Problem("metadata", "unreadable", message)]
    return layout_problems(
        dict(group.attrs),
        metadata,
        read=lambda path: read_once(StoredArray.from_metadata(path, metadata[path]), place),
        n_objects=lambda path: sum(key.startswith(f"{path}/c.") for key in place.keys(path)),
    )


def array_metadata(group: zarr.Group) -> dict[str, ArrayV3Metadata]:
    """Path -> metadata of every array below; a file that isn't one, as an interrupted write leaves, is passed over."""
    consolidated = group.metadata.consolidated_metadata
    if consolidated is not None:  # already parsed; making an array of each would take ten times as long
        nodes = consolidated.flattened_metadata
    else:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Object at .* is not recognized", category=UserWarning)
            nodes = {path: node.metadata for path, node in group.members(max_depth=None)}
    return {path: node for path, node in nodes.items() if isinstance(node, ArrayV3Metadata)}


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
