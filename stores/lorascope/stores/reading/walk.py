"""The walk over a run's rows: row after row, read on threads, in order, in a bounded memory.

`walk_rows` gives numbers: base, delta and factors of chosen components and tokens, float32. `stored_rows` gives what is
stored, for copies, and `walk_chunks` each chunk with its digest and its problem, for checks. All use `map_in_order`.
"""

import threading
from collections.abc import Callable, Container, Iterator, Sequence
from itertools import islice, pairwise
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar, overload

import numpy as np
from jaxtyping import Bool, Float32, Int64

from ..errors import StoreError
from ..format.digests import combine_digests
from ..format.spec import ROW_TOKENS
from ..format.stored_array import widen_block
from ..progress import Progress
from ..threads import map_in_order
from .chunks import Chunk, read_chunk
from .rows import RowArray
from .source import Source, delta_block, group_sizes, read_factors

if TYPE_CHECKING:
    from .run import Run

GROUP_BYTES = 16 * 2**20
"""Bytes of float32 in a row of neighbouring components from which on no further component is put to them."""
TASK_BYTES = 2**20
"""Bytes that one task reads at least: handing a task to a thread takes as long as reading a row of few ranks."""

Result = TypeVar("Result")
Quantity = Literal["base", "delta", "factor"]


class RowBlock(NamedTuple):
    """The chosen tokens of one row, at one component or several neighbouring ones."""

    row: int
    tokens: Int64[np.ndarray, " token"]
    """Ascending places on the run's token axis."""
    base: dict[str, Float32[np.ndarray, "token feature"]]
    """Component -> its output without the adapter; empty unless it was asked for, as the others."""
    delta: dict[str, Float32[np.ndarray, "token feature"]]
    """Component -> what the adapter adds; base + delta is lora, in a run of stream `pair` adapted."""
    factor: dict[str, Float32[np.ndarray, "token rank"]]
    """Component -> z = A x, of components whose delta is made from a factor."""


@overload
def walk_rows(
    sources: Sequence[Source],
    numbers: Sequence[Quantity],
    *,
    tokens: Bool[np.ndarray, " token"] | None = ...,
    function: None = ...,
    n_threads: int | None = ...,
    progress: Progress | None = ...,
) -> Iterator[RowBlock]: ...


@overload
def walk_rows(
    sources: Sequence[Source],
    numbers: Sequence[Quantity],
    *,
    tokens: Bool[np.ndarray, " token"] | None = ...,
    function: Callable[[RowBlock], Result],
    n_threads: int | None = ...,
    progress: Progress | None = ...,
) -> Iterator[Result]: ...


def walk_rows(
    sources: Sequence[Source],
    numbers: Sequence[Quantity],
    *,
    tokens: Bool[np.ndarray, " token"] | None = None,
    function: Callable[[RowBlock], Any] | None = None,
    n_threads: int | None = None,
    progress: Progress | None = None,
) -> Iterator[Any]:
    """Rows of components, one after the other, or what a function makes of each.

    Only rows that are committed, keep states and hold a chosen token are read. Neighbouring components whose numbers
    are few, such as factors, come together, and wide ones each alone: all rows of the first components, then all rows
    of the next.

    Parameters
    ----------
    sources
        Components of one adapter in the run's order, from `Run.source`.
    numbers
        Which of `base`, `delta` and `factor` to read. Only components with a factor (`source.delta.lora_B` isn't None)
        can be asked for one.
    tokens
        Mask of the chosen tokens of the run, by default all: `chosen_tokens(run, "from:1") > 0`.
    function
        Called with each `RowBlock` in the thread that read it; its results come in the rows' order. Work on a row
        belongs there, so that all processors take part.
    n_threads
        Threads that read and call the function; by default one a processor, but at least 8. With 1 everything happens
        in the thread that asks. No result depends on it.
    progress
        Called with (rows done, rows in all), a row counted for each group of components.

    Raises
    ------
    StoreError
        If a chunk is missing, empty or broken: its key, and what is wrong with it.

    Examples
    --------
    >>> from lorascope.stores import open_run
    >>> run = open_run("runs/demo/run.zarr")  # doctest: +SKIP
    >>> sources = [run.source(path) for path in run.component_paths[:2]]  # doctest: +SKIP
    >>> for block in walk_rows(sources, ["base", "delta"]):  # doctest: +SKIP
    ...     for path, delta in block.delta.items():
    ...         print(path, block.row, np.linalg.norm(delta, axis=1).mean())
    >>> total = sum(walk_rows(sources, ["factor"], function=lambda block: len(block.tokens)))  # doctest: +SKIP
    """
    if not sources:
        return
    rows = _committed_rows_with_tokens(sources[0].base, tokens)
    starts = np.cumsum([0, *group_sizes(sources, GROUP_BYTES, lambda source: _row_bytes(source, numbers))]).tolist()
    groups = [_Group(sources[start:stop], numbers, tokens) for start, stop in pairwise(starts)]

    def tasks() -> Iterator[tuple[_Group, list[int]]]:
        for group in groups:
            step = max(1, TASK_BYTES // group.row_bytes)
            for start in range(0, len(rows), step):
                yield group, rows[start : start + step]

    def read(task: tuple[_Group, list[int]]) -> list[Any]:
        blocks = map(task[0].read, task[1])
        return list(blocks if function is None else map(function, blocks))

    n_done, n_all = 0, len(rows) * len(groups)
    for results in map_in_order(
        read, tasks(), n_threads=n_threads, n_bytes=lambda task: task[0].row_bytes * len(task[1])
    ):
        yield from results
        n_done += len(results)
        if progress is not None:
            progress(n_done, n_all)


def walk_chunks(
    run: "Run",
    rows: Sequence[int],
    function: Callable[[int, str, Chunk], Result],
    *,
    paths: Container[str] | None = None,
    decode: bool = True,
    progress: Progress | None = None,
) -> Iterator[tuple[int, list[Result]]]:
    """(row, what a function makes of each of its chunks), row after row; chunks are stored as they are.

    Parameters
    ----------
    run
        An open run.
    rows
        Committed rows, states or not, in the order in which they come.
    function
        Called with the row, the array's path and a `Chunk`, which holds its digest, its block unless `decode` is off,
        or what is wrong with it: nothing is raised. It is called in the thread that read the chunk.
    paths
        Arrays that are read; by default all that have a chunk in the row.
    progress
        Called with (rows done, rows in all).
    """

    def paths_of(row: int) -> list[str]:
        return [path for path in run.row_paths(row) if paths is None or path in paths]

    def read(task: tuple[int, str]) -> Result:
        row, path = task
        return function(
            row, path, read_chunk(run.place, run.arrays[path], row, version=run.format_version, decode=decode)
        )

    results = map_in_order(
        read,
        ((row, path) for row in rows for path in paths_of(row)),
        n_bytes=lambda task: run.arrays[task[1]].max_bytes,
    )
    for n_done, row in enumerate(rows, 1):
        yield row, list(islice(results, len(paths_of(row))))
        if progress is not None:
            progress(n_done, len(rows))


def stored_rows(run: "Run", rows: Sequence[int], paths: Container[str]) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    """(row, path -> (token, ...) as stored) of committed rows, one after the other, of those of these arrays they have.

    Each chunk's own checksum is checked; where all of a row is read, its digest too.

    Raises
    ------
    StoreError
        If a chunk is missing or broken, or a row isn't what was committed.
    """
    for row, chunks in walk_chunks(run, rows, lambda row, path, chunk: (path, chunk), paths=paths):
        wrong = [chunk.problem.message for _, chunk in chunks if chunk.problem is not None]
        parts = [(chunk.key, chunk.part) for _, chunk in chunks if chunk.part is not None]
        if not wrong and len(chunks) == len(run.row_paths(row)) and combine_digests(parts) != bytes(run.digest(row)):
            wrong = ["its digest differs from what was committed"]
        if wrong:
            raise StoreError(f"row {row} of `{run.place.name}` can't be copied: {wrong[0]}; run `lorascope verify`")
        yield row, {path: chunk.block for path, chunk in chunks if chunk.block is not None}


class _Group:
    """Neighbouring components of a walk, whose rows are read together."""

    def __init__(
        self, sources: Sequence[Source], numbers: Sequence[Quantity], tokens: Bool[np.ndarray, " token"] | None
    ) -> None:
        self._sources, self._numbers, self._tokens = sources, numbers, tokens
        self.row_bytes = max(1, sum(_row_bytes(source, numbers) for source in sources))
        self._weights: dict[str, dict[str, Any]] = {}
        self._lock = threading.Lock()

    def read(self, row: int) -> RowBlock:
        """The chosen tokens of a row."""
        n_tokens = self._sources[0].base.n_tokens(row)
        start, places = row * ROW_TOKENS, np.arange(n_tokens)
        chosen: slice | np.ndarray = slice(None)
        if self._tokens is not None and not (mask := self._tokens[start : start + n_tokens]).all():
            places = chosen = np.flatnonzero(mask)
        block = RowBlock(row, start + places, {}, {}, {})
        without = [None] * len(self._sources)
        factors = without if set(self._numbers) == {"base"} else read_factors(self._sources, row)
        for source, whole in zip(self._sources, factors, strict=True):
            name = source.component
            factor = None if whole is None else whole[chosen]
            if "base" in self._numbers:
                block.base[name] = _read_float32(source.base, row, chosen)
            if "factor" in self._numbers:
                assert factor is not None, f"{name} has no factor"
                block.factor[name] = factor
            if "delta" in self._numbers and factor is not None:
                block.delta[name] = delta_block(factor, **self._weights_of(source))
            elif "delta" in self._numbers:
                block.delta[name] = _read_float32(source.delta.rows, row, chosen)
                if source.delta.base is not None:  # `rows` are adapted
                    base = block.base[name] if name in block.base else _read_float32(source.delta.base, row, chosen)
                    with np.errstate(invalid="ignore"):  # infinity on both sides is NaN
                        block.delta[name] = block.delta[name] - base
        return block

    def _weights_of(self, source: Source) -> dict[str, Any]:
        """What makes a factor into delta, read once for all rows."""
        with self._lock:
            if source.component not in self._weights:
                self._weights[source.component] = source.delta.weights()
        return self._weights[source.component]


def _read_float32(rows: RowArray, row: int, chosen: slice | np.ndarray) -> np.ndarray:
    return widen_block(rows.read_stored(row)[chosen], rows.dtype_logical)


def _committed_rows_with_tokens(rows: RowArray, tokens: Bool[np.ndarray, " token"] | None) -> list[int]:
    """Committed rows with states that hold a chosen token."""
    chosen = range(rows.n_rows) if tokens is None else np.unique(np.flatnonzero(tokens) // ROW_TOKENS).tolist()
    return [row for row in chosen if rows.is_committed(row)]


def _row_bytes(source: Source, numbers: Sequence[Quantity]) -> int:
    """Bytes of float32 that a full row of a component takes."""
    n_columns = {
        "base": source.base.shape[1],
        "delta": source.base.shape[1],
        "factor": source.delta.rows.shape[1],
    }
    return 4 * ROW_TOKENS * sum(n_columns[name] for name in numbers)
