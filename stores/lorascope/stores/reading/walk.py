"""Walks over a run's rows: row after row, read on threads, in order, in bounded memory.

A row is 1,024 tokens of every array. Components are the layers that LoRA wraps; base is a layer's output without the
adapter, delta what the adapter adds, and factor z = A x, from which delta is computed.

`map_rows` and `walk_rows` give base, delta and factors of chosen components and tokens, float32. `stored_rows` gives
rows as stored, for copies, and `walk_chunks` each chunk with its digest and problem, for checks.
"""

import threading
from collections.abc import Callable, Container, Iterator, Sequence
from itertools import islice, pairwise
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar

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
"""Size of a row of a group of neighbouring components, in float32, from which on the group gets no further one."""
TASK_BYTES = 2**20
"""Fewest bytes that one task reads: handing a task to a thread takes as long as reading a row of few ranks."""

Result = TypeVar("Result")
Quantity = Literal["base", "delta", "factor"]


class RowBlock(NamedTuple):
    """Base, delta or factor at one or several components, for the chosen tokens of one row (1,024 tokens)."""

    row: int
    tokens: Int64[np.ndarray, " token"]
    """Indices on the run's token axis, ascending."""
    base: dict[str, Float32[np.ndarray, "token feature"]]
    """Component -> its output without the adapter; like the others, empty unless it was asked for."""
    delta: dict[str, Float32[np.ndarray, "token feature"]]
    """Component -> the adapter's part; base + delta is lora, or adapted in a run of stream `pair`."""
    factor: dict[str, Float32[np.ndarray, "token rank"]]
    """Component -> z = A x, for components whose delta is computed from a factor."""


def map_rows(
    function: Callable[[RowBlock], Result],
    sources: Sequence[Source],
    quantities: Sequence[Quantity],
    *,
    tokens: Bool[np.ndarray, " token"] | None = None,
    n_threads: int | None = None,
    progress: Progress | None = None,
) -> Iterator[Result]:
    """Read rows (1,024 tokens) of components on threads, call `function` on each, and yield its results in order.

    Only rows that are committed, keep states and contain a chosen token are read. Neighbouring components whose numbers
    are few, such as factors, are read together: all rows of the first group of components, then all rows of the next.

    Parameters
    ----------
    function
        Called with each `RowBlock` in the thread that read it, so that all processors take part in the work.
    sources
        Components of one adapter in the run's order, from `Run.source`.
    quantities
        Any of `base`, `delta` and `factor`; `factor` only for components with one (`source.delta.lora_B` isn't None).
    tokens
        Mask of the chosen tokens of the run, by default all: `chosen_token_weights(run, "from:1") > 0`.
    n_threads
        Threads that read and call the function; by default one per processor, but at least 8. With 1 everything happens
        in the calling thread. Results don't depend on it.
    progress
        Called with (rows done, rows in all), where a row counts once for each group of components.

    Raises
    ------
    ValueError
        If `tokens` isn't a mask of the run's tokens, a component has no factor, or `n_threads` is below 1.
    StoreError
        If a chunk is missing, empty or broken: its key, and what is wrong with it.

    Examples
    --------
    >>> from lorascope.stores import open_run
    >>> run = open_run("runs/demo/run.zarr")  # doctest: +SKIP
    >>> sources = [run.source(path) for path in run.component_paths[:2]]  # doctest: +SKIP
    >>> total = sum(map_rows(lambda block: len(block.tokens), sources, ["factor"]))  # doctest: +SKIP
    """
    if n_threads is not None and n_threads < 1:
        raise ValueError(f"`n_threads` is {n_threads}; give a whole number of at least 1")
    if not sources:
        return
    tokens = _checked_mask(tokens, sources[0].base.shape[0])
    base = sources[0].base
    chosen = range(base.n_rows) if tokens is None else np.unique(np.flatnonzero(tokens) // ROW_TOKENS).tolist()
    rows = [row for row in chosen if base.is_committed(row)]
    starts = np.cumsum([0, *group_sizes(sources, GROUP_BYTES, lambda source: _row_bytes(source, quantities))]).tolist()
    groups = [_Group(sources[start:stop], quantities, tokens) for start, stop in pairwise(starts)]

    def tasks() -> Iterator[tuple[_Group, list[int]]]:
        """Yield (group of components, rows that a thread reads together)."""
        for group in groups:
            step = max(1, TASK_BYTES // group.row_bytes)
            for start in range(0, len(rows), step):
                yield group, rows[start : start + step]

    def read(task: tuple[_Group, list[int]]) -> list[Result]:
        """Return the function's results of these rows."""
        return [function(task[0].read(row)) for row in task[1]]

    def n_bytes(task: tuple[_Group, list[int]]) -> int:
        """Return the bytes of float32 that these rows take."""
        return task[0].row_bytes * len(task[1])

    n_done, n_all = 0, len(rows) * len(groups)
    for results in map_in_order(read, tasks(), n_threads=n_threads, n_bytes=n_bytes):
        yield from results
        n_done += len(results)
        if progress is not None:
            progress(n_done, n_all)


def walk_rows(
    sources: Sequence[Source],
    quantities: Sequence[Quantity],
    *,
    tokens: Bool[np.ndarray, " token"] | None = None,
    n_threads: int | None = None,
) -> Iterator[RowBlock]:
    """Yield each row of components as a RowBlock with base, delta or factor; parameters are those of `map_rows`.

    Examples
    --------
    >>> from lorascope.stores import open_run
    >>> run = open_run("runs/demo/run.zarr")  # doctest: +SKIP
    >>> for block in walk_rows([run.source(run.component_paths[0])], ["base", "delta"]):  # doctest: +SKIP
    ...     for path, delta in block.delta.items():
    ...         print(path, block.row, np.linalg.norm(delta, axis=1).mean())
    """
    return map_rows(lambda block: block, sources, quantities, tokens=tokens, n_threads=n_threads)


def walk_chunks(
    run: "Run",
    rows: Sequence[int],
    function: Callable[[int, str, Chunk], Result],
    *,
    paths: Container[str] | None = None,
    decode: bool = True,
    progress: Progress | None = None,
) -> Iterator[tuple[int, list[Result]]]:
    """Read the chunks of each row on threads, and yield (row, [result of `function` for each chunk]) in order.

    Parameters
    ----------
    run
        An open run.
    rows
        Committed rows, in the order in which they are read.
    function
        Called with the row, the array's path and a `Chunk`, in the thread that read it. The chunk has its digest, its
        block as stored if `decode` is on, or its problem: nothing is raised.
    paths
        Arrays to read; by default all that have a chunk for the row.
    progress
        Called with (rows done, rows in all).
    """

    def paths_of(row: int) -> list[str]:
        return [path for path in run.row_paths(row) if paths is None or path in paths]

    def read(task: tuple[int, str]) -> Result:
        """Return the function's result for one chunk."""
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
    """Yield (row, {path: block (token, ...) as stored}) for committed rows; raises StoreError if one is damaged.

    Arrays in `paths` that a row doesn't have are skipped.

    Each chunk's own checksum is checked; if all of a row is read, its digest too.

    Raises
    ------
    StoreError
        If a chunk is missing or broken, or a row isn't what was committed.
    """
    for row, chunks in walk_chunks(run, rows, lambda row, path, chunk: (path, chunk), paths=paths):
        wrong = [chunk.problem.message for _, chunk in chunks if chunk.problem is not None]
        parts = [(chunk.key, chunk.digest) for _, chunk in chunks if chunk.digest is not None]
        if not wrong and len(chunks) == len(run.row_paths(row)) and combine_digests(parts) != bytes(run.digest(row)):
            wrong = ["its digest differs from what was committed"]
        if wrong:
            raise StoreError(f"row {row} of `{run.place.name}` can't be copied: {wrong[0]}; run `lorascope verify`")
        yield row, {path: chunk.block for path, chunk in chunks if chunk.block is not None}


class _Group:
    """Neighbouring components of a walk, whose rows are read together since each has few numbers."""

    def __init__(
        self, sources: Sequence[Source], quantities: Sequence[Quantity], tokens: Bool[np.ndarray, " token"] | None
    ) -> None:
        """Keep what is read: components, any of base, delta and factor, and the mask of chosen tokens."""
        self._sources, self._quantities, self._tokens = sources, quantities, tokens
        self.row_bytes = max(1, sum(_row_bytes(source, quantities) for source in sources))
        self._weights: dict[str, dict[str, Any]] = {}
        self._lock = threading.Lock()

    def read(self, row: int) -> RowBlock:
        """Return base, delta or factor of the chosen tokens of a row, read now for every component of the group."""
        n_tokens = self._sources[0].base.n_tokens(row)
        start, places = row * ROW_TOKENS, np.arange(n_tokens)
        chosen: slice | np.ndarray = slice(None)
        if self._tokens is not None and not (mask := self._tokens[start : start + n_tokens]).all():
            places = chosen = np.flatnonzero(mask)
        block = RowBlock(row, start + places, {}, {}, {})
        without = [None] * len(self._sources)
        factors = without if set(self._quantities) == {"base"} else read_factors(self._sources, row)
        for source, whole in zip(self._sources, factors, strict=True):
            name = source.component
            factor = None if whole is None else whole[chosen]
            if "base" in self._quantities:
                block.base[name] = _read_float32(source.base, row, chosen)
            if "factor" in self._quantities:
                if factor is None:
                    raise ValueError(f"`quantities` asks for a factor, which component {name!r} does not have")
                block.factor[name] = factor
            if "delta" in self._quantities and factor is not None:
                block.delta[name] = delta_block(factor, **self._delta_weights(source))
            elif "delta" in self._quantities:
                block.delta[name] = _read_float32(source.delta.rows, row, chosen)
                if source.delta.base is not None:  # `rows` are adapted
                    base = block.base[name] if name in block.base else _read_float32(source.delta.base, row, chosen)
                    with np.errstate(invalid="ignore"):  # infinity on both sides is NaN
                        block.delta[name] = block.delta[name] - base
        return block

    def _delta_weights(self, source: Source) -> dict[str, Any]:
        """Return the keyword arguments of `delta_block` for a component, read once for all rows."""
        with self._lock:
            if source.component not in self._weights:
                self._weights[source.component] = source.delta.weights()
        return self._weights[source.component]


def _read_float32(rows: RowArray, row: int, chosen: slice | np.ndarray) -> np.ndarray:
    """Return chosen tokens of a committed row as float32."""
    return widen_block(rows.read_stored(row)[chosen], rows.dtype_logical)


def _checked_mask(tokens: Any, n_tokens: int) -> Bool[np.ndarray, " token"] | None:
    """Return `tokens` as a NumPy mask, or None; raise ValueError unless it is bool of shape (n_tokens,)."""
    if tokens is None:
        return None
    tokens = np.asarray(tokens)
    if tokens.dtype != np.bool_ or tokens.shape != (n_tokens,):
        raise ValueError(
            f"`tokens` is {tokens.dtype} of shape {tokens.shape}; it must be a mask, bool of shape ({n_tokens},)"
        )
    mask: np.ndarray = tokens
    return mask


def _row_bytes(source: Source, quantities: Sequence[Quantity]) -> int:
    """Return the bytes of float32 that these quantities of a component take in a full row of 1,024 tokens."""
    n_columns = {
        "base": source.base.shape[1],
        "delta": source.base.shape[1],
        "factor": source.delta.rows.shape[1],
    }
    return 4 * ROW_TOKENS * sum(n_columns[name] for name in quantities)
