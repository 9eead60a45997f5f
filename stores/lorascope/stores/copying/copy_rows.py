"""Moving the rows of a slice from one run into another, whose rows are cut anew."""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from ..format.spec import ROW_TOKENS
from ..progress import Progress
from ..reading.run import Run
from ..writing.write import RunWriter
from .selection import Slice
from .source_rows import read_source_row

__all__ = ["copy_rows"]

N_THREADS = 8
"""Threads that read chunks at once: each mostly waits for a disk or a network."""


def copy_rows(
    run: Run,
    part: Slice,
    writer: RunWriter,
    commit: Callable[[int, Mapping[str, np.ndarray]], object],
    progress: Progress | None,
) -> None:
    """Copy every token of the slice whose row isn't committed yet.

    Each row of the source is read once for it; `commit` takes the index and the blocks of each row that is full.
    """
    columns = _columns(run, part, writer)
    committed = writer.committed_rows
    rows_of_tokens = part.tokens // ROW_TOKENS
    rows = np.unique(rows_of_tokens).tolist()
    filling: dict[int, dict[str, np.ndarray]] = {}
    with ThreadPoolExecutor(max_workers=N_THREADS, thread_name_prefix="lorascope-copy") as pool:
        for done, row in enumerate(rows, 1):
            first, stop = np.searchsorted(rows_of_tokens, [row, row + 1]).tolist()
            targets = [t for t in range(first // ROW_TOKENS, -(-stop // ROW_TOKENS)) if not committed[t]]
            found = read_source_row(run, row, columns, pool) if targets else {}
            for target in targets:
                bounds = writer.row_tokens(target)
                tokens = part.tokens[max(first, bounds.start) : min(stop, bounds.stop)] - row * ROW_TOKENS
                if target not in filling:
                    filling[target] = _empty(writer, target, run)
                start = max(first - bounds.start, 0)
                _move(found, filling[target], columns, tokens, start)
                if start + len(tokens) == bounds.stop - bounds.start:
                    commit(target, filling.pop(target))
            if progress is not None:
                progress(done, len(rows))


def _columns(run: Run, part: Slice, writer: RunWriter) -> dict[str, np.ndarray | None]:
    """Arrays of the source that the slice takes -> their columns that it takes; None for all."""
    wanted = {path for row in range(writer.n_rows) for path in writer.row_arrays(row)}
    whole = len(part.components) == len(run.component_paths)
    columns: dict[str, np.ndarray | None] = {}
    for path in sorted(wanted & run.arrays.keys()):
        columns[path] = None
        if run.arrays[path].dims == ("token", "component") and not whole:
            columns[path] = part.components
        elif path.endswith("/factor") and not whole:
            table = run.adapter(path.split("/")[1])
            starts, ranks = (table[name].values[part.components] for name in ("factor_start", "rank"))
            spans = [np.arange(start, start + rank) for start, rank in zip(starts, ranks, strict=True) if start >= 0]
            columns[path] = np.concatenate(spans)
    return columns


def _empty(writer: RunWriter, row: int, source: Run) -> dict[str, np.ndarray]:
    """Blocks of a row to be filled; NaN in arrays that an older source doesn't have."""
    tokens = writer.row_tokens(row)
    return {
        path: np.empty((tokens.stop - tokens.start, *shape[1:]), dtype)
        if path in source.arrays
        else np.full((tokens.stop - tokens.start, *shape[1:]), np.nan, dtype)
        for path, (shape, dtype) in writer.row_arrays(row).items()
    }


def _move(
    found: Mapping[str, np.ndarray],
    into: dict[str, np.ndarray],
    columns: Mapping[str, np.ndarray | None],
    tokens: np.ndarray,
    start: int,
) -> None:
    """Put these tokens of a source's row into a row of the slice, from `start` on."""
    for path in columns.keys() & into.keys():
        kept = columns[path]
        if np.array_equal(tokens, np.arange(len(into[path]))) and len(found[path]) == len(tokens) and kept is None:
            into[path] = found[path]  # the row as it was: no second copy of it
        else:
            values = found[path][tokens]
            into[path][start : start + len(tokens)] = values if kept is None else values[:, kept]
