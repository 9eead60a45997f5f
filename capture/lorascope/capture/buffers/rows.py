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

from .copies import Copier, DirectCopier
from .row_buffer import RowArrays, RowBuffer, Segment, array_bytes, buffer_bytes

QUEUE_BYTES = 4 * 2**30
"""Host memory for rows where nothing else is asked for."""
_ROWS_AHEAD = 2
"""Rows held beyond those that one batch fills: one that is written, one that waits for it. More only take memory."""


class RowWriter(Protocol):
    """Takes whole rows, from several threads: a `RunWriter`, or something that only compares or counts them."""

    def row_arrays(self, row: int) -> RowArrays:
        """Shape and type of each array of this row."""
        ...

    def write_row(self, row: int, blocks: Mapping[str, np.ndarray]) -> RowWritten:
        """Take a row; its blocks are the caller's again when this returns."""
        ...


class RowQueue:
    """Row buffers between the forward pass and the disk, used again and again within a number of bytes.

    Tokens come in order. `take` hands out the places of the next tokens and waits while every buffer is full or being
    written: the forward pass waits, and nothing is dropped. `put` tells that they are filled, or will be at their mark.

    Parameters
    ----------
    writer
        Takes the rows.
    n_tokens
        Length of the token axis.
    spans
        Rows that each batch reaches into (`row_spans`).
    queue_bytes
        Most bytes of row buffers; None for 4 GiB, or what one batch fills and a row ahead of it if that is more.
    rows
        Bool (row,): rows to write; None for all. Tokens of others get no place.
    copier
        Copies into the rows; it is closed when they are.

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
        copier: Copier | None = None,
    ) -> None:
        self.copier: Copier = copier or DirectCopier()
        """The copier into the rows."""
        self._writer = writer
        self._n_tokens = n_tokens
        n_rows = -(-n_tokens // ROW_TOKENS)
        self._expected = np.ones(n_rows, np.bool_) if rows is None else rows.copy()
        sizes = [_bytes(writer.row_arrays(row)) if self._expected[row] else 0 for row in range(n_rows)]
        self.n_bytes = queue_bytes_needed(sizes, spans, queue_bytes)
        """Most bytes that the buffers hold together."""
        self._held_bytes = 0
        self._free: list[RowBuffer] = []
        self._open: dict[int, RowBuffer] = {}
        self._taken = 0
        self._writing: list[Future[RowWritten | None]] = []
        self._changed = threading.Condition()
        self._failed = False
        self._threads = ThreadPoolExecutor(_ROWS_AHEAD, "lorascope-row")
        self.written_rows: list[int] = []
        """Rows committed so far, as they came."""
        self.seconds_waited = self.seconds_encode = self.seconds_write = 0.0
        self.stored_bytes = self.raw_bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # On an error the rows being written are finished and no other begun: what is committed stays whole.
        try:
            self._threads.shutdown(cancel_futures=error is not None)
        finally:
            self.copier.close()

    def wants(self, start: int, n_tokens: int) -> bool:
        """Whether any of these tokens lies in a row that is to be written."""
        return bool(self._expected[start // ROW_TOKENS : -(-(start + n_tokens) // ROW_TOKENS)].any())

    def begin_no_more(self) -> None:
        """Drop all rows of which no token is here yet."""
        started = [row for row in self._open if self._expected[row]]
        self._expected[:] = False
        self._expected[started] = True

    def take(self, start: int, n_tokens: int) -> list[Segment]:
        """Places for tokens of the run's axis from `start` on, by row; never before those taken earlier."""
        assert start >= self._taken
        self._taken = start + n_tokens
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
        """Hand every row that is now full to the writer, which waits for the row's mark.

        Raises
        ------
        CaptureError
            If an array of such a row wasn't filled once for every token.
        """
        for row in [row for row in self._open if self._taken >= self._row_tokens(row).stop]:
            tokens = self._row_tokens(row)
            self._open[row].check(row, tokens.stop - tokens.start)
            written = self._threads.submit(self._write, row, self._open.pop(row))
            written.add_done_callback(self._tell)  # a failure is seen only once the future itself knows it
            self._writing.append(written)
        self._collect(self._writing)

    def drain(self) -> None:
        """Wait until every row handed over is on the disk; raises what a writer raised."""
        start = time.perf_counter()
        while self._writing:
            self._collect(self._writing[:1], wait=True)
        self.seconds_waited += time.perf_counter() - start

    def _row_tokens(self, row: int) -> slice:
        return slice(row * ROW_TOKENS, min((row + 1) * ROW_TOKENS, self._n_tokens))

    def _wait_for_buffer(self, row: int) -> RowBuffer:
        arrays = self._writer.row_arrays(row)
        start = time.perf_counter()
        with self._changed:
            while (buffer := self._find(arrays)) is None:
                self._collect(self._writing)
                self._changed.wait()
        self._collect(self._writing)
        self.seconds_waited += time.perf_counter() - start
        buffer.begin()
        return buffer

    def _find(self, arrays: RowArrays) -> RowBuffer | None:
        """A free buffer for these arrays, or a new one within the budget, for which free ones of other rows may go."""
        for buffer in reversed(self._free):  # the last one back: its memory is the likeliest to be in a cache
            if buffer.tensors.keys() == arrays.keys():
                self._free.remove(buffer)
                return buffer
        size = _bytes(arrays)
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

    def _collect(self, futures: Iterable[Future[RowWritten | None]], *, wait: bool = False) -> None:
        for future in [future for future in futures if wait or future.done()]:
            self._writing.remove(future)
            if (written := future.result()) is not None:
                self.written_rows.append(written.row)
                self.stored_bytes += written.stored_bytes
                self.raw_bytes += written.raw_bytes
                self.seconds_encode += written.seconds_encode
                self.seconds_write += written.seconds_write

    def _write(self, row: int, buffer: RowBuffer) -> RowWritten | None:
        """Write one row, in a thread; None if another one failed before."""
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

    def _tell(self, _: Future[RowWritten | None]) -> None:
        with self._changed:
            self._changed.notify_all()


def _bytes(arrays: RowArrays) -> int:
    return buffer_bytes(map(array_bytes, arrays.values()))


def row_spans(starts: np.ndarray, batches: Sequence[slice]) -> list[range]:
    """Rows that each batch of samples reaches into; `starts` has each sample's first captured token (sample + 1,)."""
    return [
        range(int(starts[batch.start]) // ROW_TOKENS, -(-int(starts[batch.stop]) // ROW_TOKENS)) for batch in batches
    ]


def queue_bytes_needed(sizes: Sequence[int], spans: Sequence[range], queue_bytes: int | None) -> int:
    """Bytes that a `RowQueue` holds at most: what a batch fills, and some rows ahead as far as they are allowed.

    `sizes` has the bytes of each row's arrays in memory, 0 for those that aren't wanted; `queue_bytes` is as for
    `RowQueue`. Raises a ValueError if a batch fills more than is allowed.
    """
    filled, most = max(((sum(sizes[row] for row in span), len(span)) for span in spans), default=(0, 0))
    allowed = max(QUEUE_BYTES, filled + max(sizes, default=0)) if queue_bytes is None else queue_bytes
    if filled > allowed:
        raise ValueError(
            f"`queue` is {allowed} bytes, but a batch fills {most} rows at once, which take {filled} bytes; give at "
            "least that many"
        )
    return min(allowed, filled + _ROWS_AHEAD * max(sizes, default=0), sum(sizes))
