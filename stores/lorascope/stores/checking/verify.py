"""Checking a run against itself: digests, then decoding, then what the numbers look like."""

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from ..errors import Problem, StoreError
from ..format.codec import codec_settings_problems
from ..format.digests import combine_digests
from ..format.layout import single_component
from ..format.stored_array import StoredArray
from ..format.tables import is_base_score_column
from ..names import matching_indices
from ..progress import Progress
from ..reading.chunks import Chunk, read_chunk
from ..reading.read import find_layout_problems, open_root, unchecked_run
from ..reading.require_run import find_run_path
from ..reading.run import Run
from ..reading.walk import walk_chunks
from ..threads import map_in_order
from .metadata import metadata_problems, uncovered_by_digests
from .row_statistics import ChunkFindings, RowStatistics

Level = Literal["digests", "decode", "statistics"]
STATISTICS_INPUTS = ("tokens/sample/", "tokens/position/", "tokens/token_id/", "components/", "adapters/")
"""Beginnings of the keys of what statistics rest on."""
LEVELS: tuple[Level, ...] = ("digests", "decode", "statistics")


class Verdict(NamedTuple):
    """Result of `verify`: how much was checked, and every problem that was found."""

    level: Level
    n_rows: int
    n_committed: int
    n_chunks: int
    """Chunks that were checked."""
    problems: tuple[Problem, ...]
    uncovered: tuple[str, ...] = ()
    """Sentences on what no digest of this run covers: its writer was older than the digest that would."""

    @property
    def ok(self) -> bool:
        """Whether nothing was found."""
        return not self.problems


def verify(
    path: str | Path,
    *,
    level: Level = "statistics",
    components: Sequence[str] | None = None,
    progress: Progress | None = None,
) -> Verdict:
    """Check the run at `path`, and return every problem; each level includes those before it.

    Parameters
    ----------
    path
        Folder or url of the run.
    level
        `digests` reads every chunk's bytes; `decode` decompresses them; `statistics` looks for NaN, Inf, tokens whose
        vector is zero or constant and rows that are blank, one vector under different tokens, and rows that repeat
        another one. Whether vectors are those of their tokens only the model can tell (`lorascope verify --reforward`).
    components
        Paths or patterns of the components whose states and deltas are looked at, by default all. Where
        they are given, a row's digest isn't compared: every chunk is decoded instead, which compares its own checksum.
    progress
        Called with (rows done, rows in all).

    Raises
    ------
    StoreError
        If there is no run at `path`, or one of a format version that we don't know, or one that is still being set up;
        or if a pattern fits no component.
    ValueError
        If `level` isn't one of the three.

    Notes
    -----
    Memory doesn't grow with the run, except for 8 bytes a chunk and 8 a token. The run alone can't show whether another
    model or other weights made its numbers; to check that, compute samples again (`lorascope verify --reforward`).
    """
    if level not in LEVELS:
        raise ValueError(f"`level` is {level!r}; allowed are {LEVELS}")
    place, root = open_root(find_run_path(path))
    n_rows = root.attributes.get("n_rows")
    problems = metadata_problems(root)
    broken = find_layout_problems(place, root)
    if broken:  # where the parts lie isn't known, or how they are encoded, so nothing else can be checked
        return Verdict(level, n_rows if isinstance(n_rows, int) else 0, 0, 0, (*broken, *problems))
    run = unchecked_run(place, root)
    try:
        rows = np.flatnonzero(run.committed_rows)
    except StoreError as error:
        return Verdict(level, run.n_rows, 0, 0, (Problem("rows/digest", "decode", str(error)), *problems))
    chosen = None
    if components is not None:
        part = {
            run.component_paths[place]
            for place in matching_indices(run.component_paths, components, of="components of this run")
        }
        by_row = (path for path, array in run.arrays.items() if array.by_row)
        chosen = {path for path in by_row if (component := single_component(path)) is None or component in part}
    problems += [
        problem for path, metadata in root.arrays.items() for problem in codec_settings_problems(path, metadata)
    ]
    n_chunks, broken = _check_static(run, decode=level != "digests")
    problems += broken
    for row in run.lost_rows.tolist():
        key = run.arrays["rows/digest"].key(row)
        lost = f"row {row} of a finished run has no digest; {key!r} was lost, and the row can't be read without it"
        problems.append(Problem(f"row {row}", "missing", lost))
    if not len(rows):
        message = f"none of {run.n_rows} rows is committed; there is nothing to check"
        problems.append(Problem("rows", "nothing", message))
    # With a table that can't be read, which tokens may be equal isn't known.
    sound = not any(problem.place.startswith(STATISTICS_INPUTS) for problem in broken)
    statistics = RowStatistics(run) if level == "statistics" and sound else None
    for n_checked, broken in _check_rows(
        run, rows.tolist(), chosen, decode=level != "digests", statistics=statistics, progress=progress
    ):
        n_chunks += n_checked
        problems += broken
    return Verdict(level, run.n_rows, len(rows), n_chunks, tuple(problems), uncovered_by_digests(root))


def _check_static(run: Run, *, decode: bool) -> tuple[int, list[Problem]]:
    """(chunks that were read, problems) of everything that is written once."""
    once = [array for path, array in run.arrays.items() if not array.by_row and path != "rows/digest"]

    def read(decode: bool) -> list[Chunk]:
        def read_one(task: tuple[StoredArray, int]) -> Chunk:
            chunk = read_chunk(run.place, *task, version=run.format_version, decode=decode)
            return chunk._replace(block=None)  # looked at, not kept

        tasks = ((array, index) for array in once for index in range(array.n_chunks))
        return list(map_in_order(read_one, tasks, n_bytes=lambda task: task[0].max_bytes))

    chunks = read(decode)
    differs = _combined_digest(chunks) != bytes.fromhex(run.attributes["static_digest"])
    if differs and not decode:  # to say where
        chunks = read(True)
    broken = [chunk.problem for chunk in chunks if chunk.problem is not None]
    # Early writers made base scores without a chunk where they weren't asked for.
    problems = [
        problem for problem in broken if not (problem.kind == "missing" and is_base_score_column(problem.place))
    ]
    if differs:
        problems.append(Problem("tables", "digest", "tables or weights aren't what was written: their digest differs"))
    return sum(chunk.part is not None for chunk in chunks), problems


def _check_rows(
    run: Run,
    rows: Sequence[int],
    paths: Collection[str] | None,
    *,
    decode: bool,
    statistics: RowStatistics | None,
    progress: Progress | None,
) -> Iterator[tuple[int, list[Problem]]]:
    """(chunks that were looked for, problems) of each committed row; of these arrays alone, where they are named."""

    def look(row: int, path: str, chunk: Chunk) -> tuple[Chunk, ChunkFindings | None]:
        findings = None
        if statistics is not None and chunk.block is not None:
            findings = statistics.look(path, chunk.key, row, chunk.block)
        return chunk._replace(block=None), findings  # small, whatever the chunk's size

    # A row's digest is that of all its chunks: where some are left out, each one's own checksum is compared.
    decode = decode or paths is not None
    for row, results in walk_chunks(run, rows, look, paths=paths, decode=decode, progress=progress):
        chunks = [chunk for chunk, _ in results]
        differs = paths is None and _combined_digest(chunks) != bytes(run.digest(row))
        if differs and not decode:  # to say where
            chunks = [chunk for chunk, _ in next(walk_chunks(run, [row], look, decode=True))[1]]
        problems = [chunk.problem for chunk in chunks if chunk.problem is not None]
        if differs and all(chunk.part is not None for chunk in chunks):
            problems.append(Problem(f"row {row}", "digest", f"row {row} isn't what was committed: its digest differs"))
        if statistics is not None:
            by_path = {key.rpartition("/")[0]: findings for (key, *_), findings in results if findings is not None}
            problems += statistics.compare(row, by_path)
        yield len(chunks), problems


def _combined_digest(chunks: Sequence[Chunk]) -> bytes:
    """Digest of all of these chunks that are there."""
    return combine_digests((chunk.key, chunk.part) for chunk in chunks if chunk.part is not None)
