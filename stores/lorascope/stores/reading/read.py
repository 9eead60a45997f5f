"""Opening runs, after their layout was compared with the format."""

from functools import partial
from pathlib import Path

import numpy as np

from ..errors import Problem, StoreError
from ..format.check import layout_problems
from ..format.digests import provenance_identity
from ..format.layout import DIGEST_ARRAYS, DIGESTS, NEUTRAL, commit_path, is_sealed
from ..format.stored_spec import describe_array
from ..format.tables import is_base_score_column
from ..places.place import Place, open_place, with_cache
from ..threads import N_REQUESTS, map_in_order
from .chunks import MISSING_ERRORS
from .require_run import MARK, find_run_path, lost_root_error, no_run_error
from .root import Root, read_root
from .rows import read_static
from .run import Run
from .state import require_known_version, run_state

RunLike = Run | str | Path
"""An open run, or the path or url of one."""


def open_run(path: str | Path | Place) -> Run:
    """Open the run at `path`, or the only run in that folder, and return it as a Run; it may be unfinished.

    Chunks from an object store are cached in memory (up to 256 MiB per process), so a chunk that several components
    share is read once.

    Raises
    ------
    StoreError
        If there is no run at `path` or several are in it, the run is still being set up, its format is newer than this
        version of lorascope can read, or its layout isn't that of the format.
    """
    return checked_run(
        *open_root(with_cache(open_place(find_run_path(path) if isinstance(path, str | Path) else path)))
    )


def neutral_place(place: Place) -> Place:
    """Return the place of the run of neutral texts inside the run at a place, whether there is one or not."""
    return open_place(f"{place.name}/{NEUTRAL}")


def open_neutral(run: Run) -> Run | None:
    """Open the run of neutral texts inside a run; None without one. Raises StoreError if it is of another model."""
    if run_state(place := neutral_place(run.place)) not in ("unfinished", "finished"):
        return None
    neutral = open_run(place)
    own, other = (provenance_identity(each.attributes.get("provenance")) for each in (run, neutral))
    if (own["model"], own["adapters"]) != (other["model"], other["adapters"]):
        raise StoreError(f"`{place.name}` is of another model or adapter than the run around it; delete that folder")
    return neutral


def as_run(run: RunLike) -> Run:
    """Return an open run as it is, or open the one at a path or url; raises as `open_run` does, or TypeError."""
    if not isinstance(run, RunLike):
        raise TypeError(f"`run` is {run!r}; give an open run, its path or its url")
    return run if isinstance(run, Run) else open_run(run)


def checked_run(place: Place, root: Root) -> Run:
    """Return the Run with this root metadata; raises StoreError unless its layout is that of the format."""
    problems = find_layout_problems(place, root)
    if problems:
        more = f" (and {len(problems) - 1} more such)" if len(problems) > 1 else ""
        raise StoreError(
            f"`{place.name}` isn't laid out as a run: {problems[0].message}{more}; `lorascope verify` lists what is "
            "wrong"
        )
    return unchecked_run(place, root)


def unchecked_run(place: Place, root: Root) -> Run:
    """Return the Run with this root metadata, whose layout the caller has checked."""
    arrays = {path: describe_array(path, root.arrays) for path in root.arrays}
    return Run(place, root.attributes, arrays)


def open_root(path: str | Path | Place) -> tuple[Place, Root]:
    """Return (place, root metadata) of the run at `path`; raises StoreError unless it is completely set up.

    It is also raised if the root can't be read.
    """
    place = open_place(path)
    try:
        root = read_root(place)
    except MISSING_ERRORS:
        if isinstance(place.path, Path):
            raise no_run_error(place.path) from None
        if place.size(MARK) is not None:
            raise lost_root_error(place.name) from None
        raise StoreError(f"`{place.name}` holds no run; name one that `lorascope capture` wrote") from None
    require_known_version(place, root.attributes)
    if (root.document.get("zarr_format"), root.document.get("node_type")) != (3, "group"):
        raise StoreError(f"`{place.name}` isn't a readable Zarr group (its 'zarr.json' is none of Zarr 3)")
    if "static_digest" not in root.attributes:
        raise StoreError(
            f"`{place.name}` is still being set up, or was interrupted then: it holds no row yet; wait for its "
            "capture, or run its command again"
        )
    return place, root


def find_layout_problems(place: Place, root: Root) -> list[Problem]:
    """Return a Problem for each difference of a run's metadata and tables from the format.

    Only metadata and the smallest tables are read.
    """
    try:
        metadata = root.arrays
    except StoreError as error:
        return [Problem("metadata", "unreadable", f"metadata of `{place.name}` can't be read: {error}")]
    return layout_problems(
        root.attributes,
        metadata,
        read=lambda path: read_static(describe_array(path, metadata), place),
        n_objects=lambda path: sum(key.startswith(f"{path}/c.") for key in place.keys(path)),
        map_all=partial(map_in_order, n_threads=N_REQUESTS) if place.remote else map,
    )


def missing_chunks(path: str | Path | Place) -> list[str]:
    """Return the keys of chunks that the run at `path` should have and lacks, sorted; no chunk is read.

    Expected are the chunks of committed rows, and of all arrays that are written when a run is set up.

    Raises
    ------
    StoreError
        If there is no run, or its layout isn't that of the format.
    """
    run = checked_run(*open_root(path))
    # Before keys are listed, since others may be writing. A finished run had every row.
    committed = range(run.n_rows) if run.finished else np.flatnonzero(run.committed_rows).tolist()
    sealed, commits = is_sealed(run.attributes), run.arrays[commit_path(run.format_version)]
    expected = {run.arrays[path].key(row) for row in committed for path in run.row_paths(row)}
    expected |= set() if sealed else set(map(commits.key, committed))
    for path, array in run.arrays.items():
        # Early writers wrote no chunks for scores that weren't measured.
        if (not array.by_row and path not in DIGEST_ARRAYS and not is_base_score_column(path)) or (
            sealed and path == DIGESTS
        ):
            expected |= set(map(array.key, range(array.n_chunks)))
    return sorted(expected.difference(run.place.keys()))
