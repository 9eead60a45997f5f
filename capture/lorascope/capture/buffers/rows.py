"""The queue of rows between the forward pass and the disk: rows are filled, written when full, and used again."""

import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Protocol, Self

import numpy as np

from lorascope.stores.format.spec import ROW_TOKENS
from lorascope.stores.writing.write import RowWritten

from .copies import DirectCopier
from .row_buffer import RowArrays, RowBuffer, Segment, array_bytes, buffer_bytes

QUEUE_BYTES = 4 * 2**30
"""Default bytes of host memory for rows."""
_ROWS_AHEAD = 2
"""Number of rows kept beyond those that one batch fills: one is written, one waits. More would only take memory."""


class RowWriter(Protocol):
    """Protocol of an object that writes full rows of a run from several threads, such as a `RunWriter`."""

    def row_arrays(self, row: int) -> RowArrays:
        """Return path -> (shape, dtype) of each array of the row with this number."""
        ...

    def write_row(self, row: int, blocks: Mapping[str, np.ndarray]) -> RowWritten:
        """Write a row's arrays (path -> array) and return sizes and times; afterwards their memory may be reused."""
        ...


class RowQueue:
    """Queue of row buffers between the forward pass and the disk, reused within a limit of bytes.

    Tokens come in order. `take` returns places for the next tokens, and waits while every buffer is full or being
    written: the forward pass waits, and nothing is dropped. `put` hands full rows to the writer.

    Parameters
    ----------
    writer
        Writes the rows.
    fills
        Whether tokens get places; without, another process writes the rows, and this one only computes.
    n_tokens
        Length of the token axis.
    spans
        Rows that each batch reaches into (`row_spans`).
    queue_bytes
        Maximum bytes of row buffers; None for 4 GiB, or for the rows of one batch and one more if these are larger.
    rows
        Bool (row,): rows to write; None for all. Tokens of other rows get no place.
    copier
        Copies into the rows; it is closed with the queue.

    Raises
    ------
    ValueError
        If `queue_bytes` is less than the rows of one batch need.
    """

    def __init__(
        self,
        writer: RowWriter,
        *,
        n_tokens: int,
        spans: Sequence[range],
        queue_bytes: int | None = None,
        rows: np.ndarray | None = None,
        copier: DirectCopier | None = None,
        fills: bool = True,
    ) -> None:
        """Raise ValueError if one batch's rows don't fit into `queue_bytes`; no buffer is allocated yet."""
        self.copier = copier or DirectCopier()
        """The copier into the rows."""
        self._writer = writer
        self._fills = fills
        self._n_tokens = n_tokens
        n_rows = -(-n_tokens // ROW_TOKENS)
        self._expected = np.ones(n_rows, np.bool_) if rows is None else rows.copy()
        sizes = [_arrays_bytes(writer.row_arrays(row)) if self._expected[row] else 0 for row in range(n_rows)]
        self.n_bytes = queue_bytes_needed(sizes, spans, queue_bytes)
        """Maximum bytes of all buffers together."""
        self._held_bytes = 0
        self._free: list[RowBuffer] = []
        self._open: dict[int, RowBuffer] = {}
        self._taken = 0
        self._writing: list[Future[RowWritten | None]] = []
        self._changed = threading.Condition()
        self._failed = False
        self._threads = ThreadPoolExecutor(_ROWS_AHEAD, "lorascope-row")
        self.written_rows: list[int] = []
        """Rows committed so far, in the order of their commits."""
        self.seconds_waited = self.seconds_encode = self.seconds_write = 0.0
        self.stored_bytes = self.raw_bytes = 0

    def __enter__(self) -> Self:
        """Return the queue itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait for the rows handed over (after an error, only for those being written), and close the copier."""
        # After an error the rows being written are finished and no others are started: committed rows stay whole.
        try:
            self._threads.shutdown(cancel_futures=error is not None)
        finally:
            self.copier.close()

    def has_expected_rows(self, start: int, n_tokens: int) -> bool:
        """Whether any of the `n_tokens` tokens from `start` on belongs to a row that will be written."""
        return bool(self._expected[start // ROW_TOKENS : -(-(start + n_tokens) // ROW_TOKENS)].any())

    def drop_unstarted_rows(self) -> None:
        """Give up every row that has no tokens yet: only a row already started will be written."""
        first = -(-self._taken // ROW_TOKENS)  # tokens come in order
        self._expected[first:] = False

    def take(self, start: int, n_tokens: int) -> list[Segment]:
        """Return places for the next `n_tokens` tokens from `start` on: one `Segment` per row that will be written.

        It waits while no buffer is free.
        """
        assert start >= self._taken
        self._taken = start + n_tokens
        if not self._fills:
            return []
        segments = []
        for row in range(start // ROW_TOKENS, -(-self._taken // ROW_TOKENS)):
            if self._expected[row]:
                first, last = max(start, row * ROW_TOKENS), min(self._taken, (row + 1) * ROW_TOKENS)
                if row not in self._open:
                    self._open[row] = self._wait_for_buffer(row)
                place = slice(first - row * ROW_TOKENS, last - row * ROW_TOKENS)
                segments.append(Segment(self._open[row], slice(first - start, last - start), place))
        return segments

    def put(self) -> None:
        """Hand every full row to a writing thread, which first waits for the row's copies into host memory.

        Raises
        ------
        CaptureError
            If an array of such a row wasn't filled once for every token.
        """
        for row in [row for row in self._open if self._taken >= self._row_tokens(row).stop]:
            tokens = self._row_tokens(row)
            self._open[row].require_filled(row, tokens.stop - tokens.start)
            written = self._threads.submit(self._write_row, row, self._open.pop(row))
            written.add_done_callback(self._notify_waiting)  # a failure is seen only once the future itself knows it
            self._writing.append(written)
        self._collect_written(self._writing)

    def drain(self) -> None:
        """Wait until every row handed to a writing thread is on the disk; raise the error of one that failed."""
        start = time.perf_counter()
        while self._writing:
            self._collect_written(self._writing[:1], wait=True)
        self.seconds_waited += time.perf_counter() - start

    def _row_tokens(self, row: int) -> slice:
        """Return the slice of the run's token axis that a row covers."""
        return slice(row * ROW_TOKENS, min((row + 1) * ROW_TOKENS, self._n_tokens))

    def _wait_for_buffer(self, row: int) -> RowBuffer:
        """Wait until a row buffer is free or may be allocated, and return it, reset for this row."""
        arrays = self._writer.row_arrays(row)
        start = time.perf_counter()
        with self._changed:
            while (buffer := self._find_buffer(arrays)) is None:
                self._collect_written(self._writing)
                self._changed.wait()
        self._collect_written(self._writing)
        self.seconds_waited += time.perf_counter() - start
        buffer.reset()
        return buffer

    def _find_buffer(self, arrays: RowArrays) -> RowBuffer | None:
        """Return a free buffer for these arrays, or a new one within the limit of bytes; None if there is no room."""
        for buffer in reversed(self._free):  # the last one back: its memory is the likeliest to be in a cache
            if buffer.tensors.keys() == arrays.keys():
                self._free.remove(buffer)
                return buffer
        size = _arrays_bytes(arrays)
        while self._free and self._held_bytes + size > self.n_bytes:
            memory = self._free.pop(0).memory
            self.copier.unpin(memory)
            self._held_bytes -= memory.nbytes
        if self._held_bytes + size > self.n_bytes:
            return None
        buffer = RowBuffer(arrays)
        self.copier.pin(buffer.memory)
        self._held_bytes += buffer.memory.nbytes
        return buffer

    def _collect_written(self, futures: Iterable[Future[RowWritten | None]], *, wait: bool = False) -> None:
        """Add written rows' sizes and times to the totals; raise a writer's error. With `wait`, wait for the rows."""
        for future in [future for future in futures if wait or future.done()]:
            self._writing.remove(future)
            if (written := future.result()) is not None:
                self.written_rows.append(written.row)
                self.stored_bytes += written.stored_bytes
                self.raw_bytes += written.raw_bytes
                self.seconds_encode += written.seconds_encode
                self.seconds_write += written.seconds_write

    def _write_row(self, row: int, buffer: RowBuffer) -> RowWritten | None:
        """Write one row in a thread and return its sizes and times; return None if an earlier row failed."""
        if self._failed:
            return None
        tokens = self._row_tokens(row)
        try:
            if buffer.wait is not None:
                buffer.wait()
            written = self._writer.write_row(row, buffer.blocks(tokens.stop - tokens.start))
        except BaseException:
            self._failed = True
            raise
        finally:
            with self._changed:
                if not self._failed:
                    self._free.append(buffer)
        return written

    def _notify_waiting(self, _: Future[RowWritten | None]) -> None:
        """Wake a forward pass that waits for a row buffer, once a row's writing has ended."""
        with self._changed:
            self._changed.notify_all()


def _arrays_bytes(arrays: RowArrays) -> int:
    """Return the bytes of memory that a row's arrays take in a `RowBuffer`."""
    return buffer_bytes(map(array_bytes, arrays.values()))


def row_spans(starts: np.ndarray, batches: Sequence[slice]) -> list[range]:
    """Return the range of rows (1024 tokens each) that each batch fills, from samples' first tokens `starts`.

    `starts` is (sample + 1,): its last value is the number of tokens.
    """
    return [
        range(int(starts[batch.start]) // ROW_TOKENS, -(-int(starts[batch.stop]) // ROW_TOKENS)) for batch in batches
    ]


def queue_bytes_needed(sizes: Sequence[int], spans: Sequence[range], queue_bytes: int | None) -> int:
    """Return the most bytes that a `RowQueue` takes: one batch's rows, and some ahead if the limit allows.

    `sizes` has the bytes of each row's arrays in memory, 0 for rows that aren't written; `queue_bytes` is that of
    `RowQueue`. Raises a ValueError if a batch fills more than the limit.
    """
    filled, most = max(((sum(sizes[row] for row in span), len(span)) for span in spans), default=(0, 0))
    allowed = max(QUEUE_BYTES, filled + max(sizes, default=0)) if queue_bytes is None else queue_bytes
    if filled > allowed:
        raise ValueError(
            f"`queue` is {allowed} bytes, but a batch fills {most} rows at once, which take {filled} bytes; give at "
            "least that many"
        )
    return min(allowed, filled + _ROWS_AHEAD * max(sizes, default=0), sum(sizes))
