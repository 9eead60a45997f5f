"""Check a stored run: digests, then decoding, then its numbers."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple
from weakref import WeakSet

import numpy as np

from ..errors import Problem, StoreError
from ..format.codec import codec_settings_problems
from ..format.digests import combine_digests
from ..format.layout import DIGEST_ARRAYS, NEUTRAL, single_component
from ..format.stored_array import StoredArray
from ..format.tables import is_base_score_column
from ..names import Patterns, matching_indices, require_choice
from ..progress import Progress
from ..reading.chunks import Chunk, read_chunk
from ..reading.read import RunLike, as_run, find_layout_problems, open_neutral, open_root, unchecked_run
from ..reading.require_run import find_run_path
from ..reading.root import root_digest_problem
from ..reading.run import Run
from ..reading.walk import walk_chunks
from ..threads import N_REQUESTS, map_in_order
from .metadata import WITHOUT_ROOT_DIGEST, metadata_problems
from .row_statistics import ChunkFindings, RowStatistics

Level = Literal["digests", "decode", "statistics"]
TOKEN_PLACES = ("samples/token_start", "tokens/sample", "tokens/position")
"""Columns that are compared with others when they are read."""
STATISTICS_INPUTS = (
    *(*TOKEN_PLACES, "samples/token_stop", "samples/length", "tokens/token_id"),
    *("components/", "adapters/"),
)
"""Beginnings of the keys that statistics need."""
LEVELS: tuple[Level, ...] = ("digests", "decode", "statistics")


class Verdict(NamedTuple):
    """Result of `verify`: how many rows and chunks of a run were checked, and every problem."""

    level: Level
    n_rows: int
    n_committed: int
    n_chunks: int
    """Number of chunks that were checked."""
    problems: tuple[Problem, ...]
    uncovered: tuple[str, ...] = ()
    """Sentences on parts of the run that no digest covers, since an older writer wrote it."""

    @property
    def ok(self) -> bool:
        """Whether `verify` found no problem."""
        return not self.problems


def verify(
    path: str | Path,
    *,
    level: Level = "statistics",
    component: Patterns = None,
    progress: Progress | None = None,
) -> Verdict:
    """Check the run at `path`, and return a Verdict with every problem; each level includes those before it.

    A run of neutral texts inside it is checked too, and counts in the Verdict.

    Parameters
    ----------
    path
        Folder or url of the run.
    level
        `digests` reads every chunk's bytes; `decode` decompresses them; `statistics` looks for NaN, Inf, zero or
        constant vectors, blank rows, equal vectors of different tokens, and rows that repeat another one. Only the
        model can show whether vectors belong to their tokens (`lorascope verify --reforward`).
    component
        Path or pattern of components whose states and deltas are checked, or several; by default all. With it, the
        digests of rows aren't compared: every chunk is decoded instead, which compares its own checksum.
    progress
        Called with (rows done, rows in all).

    Raises
    ------
    StoreError
        If there is no run at `path`, its format version is unknown, it is still being set up, or a pattern matches no
        component.
    ValueError
        If `level` isn't one of the three.

    Notes
    -----
    Memory doesn't grow with the run, except for 8 bytes per chunk and 8 per token. The run alone can't show whether
    another model or other weights made its numbers; to check that, use `lorascope verify --reforward`.
    """
    require_choice("level", level, LEVELS)
    place, root = open_root(find_run_path(path))
    n_rows = root.attributes.get("n_rows")
    problems = metadata_problems(root)
    broken = find_layout_problems(place, root)
    if broken:  # without a sound layout nothing else can be read
        return Verdict(level, n_rows if isinstance(n_rows, int) else 0, 0, 0, (*broken, *problems))
    run = unchecked_run(place, root)
    rows_read = {"rows/digest": lambda: run.committed_rows, "rows/states": lambda: run.state_rows}
    if broken := _first_unreadable("decode", rows_read):
        return Verdict(level, run.n_rows, 0, 0, (*broken, *problems))
    rows = np.flatnonzero(run.committed_rows)
    chosen = None
    if component is not None:
        part = {
            run.component_paths[place]
            for place in matching_indices(run.component_paths, component, of="components of this run")
        }
        by_row = (path for path, array in run.arrays.items() if array.by_row)
        chosen = {path for path in by_row if (component := single_component(path)) is None or component in part}
    problems += [
        problem for path, metadata in root.arrays.items() for problem in codec_settings_problems(path, metadata)
    ]
    n_chunks, broken = _check_static(run, decode=level != "digests")
    problems += broken
    for row in run.lost_rows.tolist():
        lost = f"row {row} of a finished run has no digest; it was lost, and the row can't be read without it"
        problems.append(Problem(f"row {row}", "missing", lost))
    if not len(rows):
        message = f"none of {run.n_rows} rows is committed; there is nothing to check"
        problems.append(Problem("rows", "nothing", message))
    # Without these tables it isn't known which vectors may be equal.
    sound = not any(problem.place.startswith(STATISTICS_INPUTS) for problem in broken)
    statistics = RowStatistics(run) if level == "statistics" and sound else None
    for n_checked, broken in _check_rows(
        run, rows.tolist(), chosen, decode=level != "digests", statistics=statistics, progress=progress
    ):
        n_chunks += n_checked
        problems += broken
    uncovered = () if "metadata_digest" in root.attributes else (WITHOUT_ROOT_DIGEST,)
    outer = Verdict(level, run.n_rows, len(rows), n_chunks, tuple(problems), uncovered)
    if (neutral := open_neutral(run)) is None:
        return outer
    inner = verify(neutral.path, level=level, component=component, progress=progress)
    return Verdict(
        level,
        outer.n_rows + inner.n_rows,
        outer.n_committed + inner.n_committed,
        outer.n_chunks + inner.n_chunks,
        (*problems, *(replace(problem, place=f"{NEUTRAL}/{problem.place}") for problem in inner.problems)),
        (*uncovered, *inner.uncovered),
    )


_as_written: WeakSet[Run] = WeakSet()
"""Open runs whose root, tables and weights were compared with their digests."""


def open_as_written(run: RunLike) -> Run:
    """Return an open run, or open one at a path, once its root, tables and weights were compared with their digests.

    An open run is compared once. Rows aren't read, and neither are metadata that the root has too.

    Raises
    ------
    StoreError
        If they aren't what was written, or as `open_run` does.
    """
    run = as_run(run)
    if run not in _as_written:
        problem = root_digest_problem(open_root(run.place)[1])
        require_as_written(run, [] if problem is None else [Problem("zarr.json", "digest", problem)])
        _as_written.add(run)
    return run


def require_as_written(run: Run, problems: Sequence[Problem]) -> None:
    """Raise StoreError if there are problems of metadata, or a run's tables and weights differ from their digest."""
    problems = [*problems, *_check_static(run, decode=False)[1]]
    if problems:
        raise StoreError(
            f"`{run.place.name}` isn't what was written: {problems[0].message}; `lorascope verify` lists all"
        )


def _first_unreadable(kind: str, reads: Mapping[str, Callable[[], object]]) -> list[Problem]:
    """Return a Problem of this kind for the first array that can't be read, of path -> function, else nothing."""
    for path, read in reads.items():
        try:
            read()
        except StoreError as error:
            return [Problem(path, kind, str(error))]
    return []


def _check_static(run: Run, *, decode: bool) -> tuple[int, list[Problem]]:
    """Check tables and weights, which are written once; return (number of chunks read, problems)."""
    once = [array for path, array in run.arrays.items() if not array.by_row and path not in DIGEST_ARRAYS]

    def read(decode: bool) -> list[Chunk]:
        """Read all chunks of these arrays on threads, and return them without their blocks."""

        def read_one(task: tuple[StoredArray, int]) -> Chunk:
            chunk = read_chunk(run.place, *task, version=run.format_version, decode=decode)
            return chunk._replace(block=None)  # the block isn't needed any more

        tasks = ((array, index) for array in once for index in range(array.n_chunks))
        n_threads = N_REQUESTS if run.place.remote else None
        return list(map_in_order(read_one, tasks, n_threads=n_threads, n_bytes=lambda task: task[0].max_bytes))

    chunks = read(decode)
    differs = _combined_digest(chunks) != bytes.fromhex(run.attributes["static_digest"])
    if differs and not decode:  # decode to find the broken chunk
        chunks = read(True)
    broken = [chunk.problem for chunk in chunks if chunk.problem is not None]
    # Early writers wrote no chunks for base scores that weren't measured.
    problems = [
        problem for problem in broken if not (problem.kind == "missing" and is_base_score_column(problem.place))
    ]
    if differs:
        problems.append(Problem("tables", "digest", "tables or weights aren't what was written: their digest differs"))
    if decode and not any(problem.place.startswith(STATISTICS_INPUTS) for problem in problems):
        problems += _first_unreadable("range", {path: partial(run.read_static, path) for path in TOKEN_PLACES})
    return sum(chunk.digest is not None for chunk in chunks), problems


def _check_rows(
    run: Run,
    rows: Sequence[int],
    paths: Collection[str] | None,
    *,
    decode: bool,
    statistics: RowStatistics | None,
    progress: Progress | None,
) -> Iterator[tuple[int, list[Problem]]]:
    """Check committed (completely written) rows, and yield (number of chunks, problems) for each row.

    `paths` limits the check to these arrays; None checks all.
    """

    def look(row: int, path: str, chunk: Chunk) -> tuple[Chunk, ChunkFindings | None]:
        """Return the chunk without its block, and the findings in its numbers if these are checked."""
        findings = None
        if statistics is not None and chunk.block is not None:
            findings = statistics.check_chunk(path, chunk.key, row, chunk.block)
        return chunk._replace(block=None), findings  # without the block, results are small

    # A row's digest needs all its chunks; for some of them, compare each chunk's own checksum.
    decode = decode or paths is not None
    for row, results in walk_chunks(run, rows, look, paths=paths, decode=decode, progress=progress):
        chunks = [chunk for chunk, _ in results]
        differs = paths is None and _combined_digest(chunks) != bytes(run.digest(row))
        if differs and not decode:  # decode to find the broken chunk
            chunks = [chunk for chunk, _ in next(walk_chunks(run, [row], look, decode=True))[1]]
        problems = [chunk.problem for chunk in chunks if chunk.problem is not None]
        if differs and all(chunk.digest is not None for chunk in chunks):
            problems.append(Problem(f"row {row}", "digest", f"row {row} isn't what was committed: its digest differs"))
        if statistics is not None:
            by_path = {key.rpartition("/")[0]: findings for (key, *_), findings in results if findings is not None}
            problems += statistics.check_row(row, by_path)
        yield len(chunks), problems


def _combined_digest(chunks: Sequence[Chunk]) -> bytes:
    """Return one digest over the digests of these chunks; chunks that couldn't be read are skipped."""
    return combine_digests((chunk.key, chunk.digest) for chunk in chunks if chunk.digest is not None)
