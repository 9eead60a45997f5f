"""Rows in memory: filled by the forward pass, handed to the writer when full, and used again when written."""

import queue
import time
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import NamedTuple, Self

import numpy as np
import torch

from lorascope.stores import RunWriter
from lorascope.stores.layout import ROW_TOKENS
from lorascope.stores.write import RowWritten

__all__ = ["RowBuffer", "RowQueue", "Segment"]


class RowBuffer:
    """One row's blocks, as torch tensors that share their memory with what the writer takes."""

    def __init__(self, writer: RunWriter, *, pinned: bool) -> None:
        self.tensors: dict[str, torch.Tensor] = {}
        self._arrays: dict[str, np.ndarray] = {}
        for path, (shape, dtype) in writer.row_arrays.items():
            # Zarr holds bfloat16 as uint16; no other array of a row is uint16.
            logical = torch.bfloat16 if dtype == np.uint16 else getattr(torch, dtype.name)
            tensor = torch.empty(shape, dtype=logical, pin_memory=pinned)
            self.tensors[path] = tensor
            self._arrays[path] = (
                tensor.view(torch.int16).numpy().view(np.uint16) if dtype == np.uint16 else tensor.numpy()
            )

    def reset(self) -> None:
        """Make everything NaN, so that what a pass doesn't fill never carries a number of an earlier row."""
        for tensor in self.tensors.values():
            tensor.fill_(float("nan"))

    def blocks(self, n_tokens: int) -> dict[str, np.ndarray]:
        """The first n_tokens of every block."""
        return {path: array[:n_tokens] for path, array in self._arrays.items()}

    @property
    def n_bytes(self) -> int:
        """Bytes of memory that the buffer holds."""
        return sum(array.nbytes for array in self._arrays.values())


class Segment(NamedTuple):
    """The part of a batch that goes into one row."""

    buffer: RowBuffer
    source: slice
    """Which of the batch's captured tokens."""
    target: slice
    """Where in the row."""


class RowQueue:
    """The bounded way from the forward pass to the disk: a fixed number of row buffers going round.

    Tokens come in order. `take` hands out the places of the next tokens and waits while every buffer is full or being
    written: the forward pass waits, and nothing is dropped. `put` tells that they are filled.
    """

    def __init__(self, writer: RunWriter, *, n_buffers: int, n_tokens: int, pinned: bool = False) -> None:
        self._writer = writer
        self._n_tokens = n_tokens
        self._free: queue.SimpleQueue[RowBuffer] = queue.SimpleQueue()
        buffers = [RowBuffer(writer, pinned=pinned) for _ in range(n_buffers)]
        for buffer in buffers:
            self._free.put(buffer)
        self.n_bytes = sum(buffer.n_bytes for buffer in buffers)
        self._open: dict[int, RowBuffer] = {}
        self._taken = 0
        self._writing: list[Future[RowWritten]] = []
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="lorascope-row")
        self.seconds_waited = 0.0
        self.stored_bytes = 0
        self.raw_bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # On an error the row being written is finished and no other begun: what is committed stays whole.
        self._thread.shutdown(cancel_futures=error is not None)

    def take(self, n_tokens: int) -> list[Segment]:
        """Places for the next n_tokens, by row."""
        segments, done = [], 0
        while done < n_tokens:
            row, offset = divmod(self._taken, ROW_TOKENS)
            n = min(n_tokens - done, ROW_TOKENS - offset)
            if row not in self._open:
                self._open[row] = self._wait_for_buffer()
            segments.append(Segment(self._open[row], slice(done, done + n), slice(offset, offset + n)))
            done += n
            self._taken += n
        return segments

    def put(self) -> None:
        """Hand every row that is now full to the writer."""
        for row in [row for row in self._open if self._taken >= min((row + 1) * ROW_TOKENS, self._n_tokens)]:
            self._writing.append(self._thread.submit(self._write, row, self._open.pop(row)))

    def drain(self) -> None:
        """Wait until every row is on the disk; raises what a writer raised."""
        start = time.perf_counter()
        self._collect(wait=True)
        self.seconds_waited += time.perf_counter() - start

    def _wait_for_buffer(self) -> RowBuffer:
        start = time.perf_counter()
        while True:
            self._collect(wait=False)
            try:
                buffer = self._free.get(timeout=0.2)  # wakes to see whether the writer failed
            except queue.Empty:
                continue
            self.seconds_waited += time.perf_counter() - start
            buffer.reset()
            return buffer

    def _collect(self, *, wait: bool) -> None:
        for future in [future for future in self._writing if wait or future.done()]:
            written = future.result()
            self._writing.remove(future)
            self.stored_bytes += written.stored_bytes
            self.raw_bytes += written.raw_bytes

    def _write(self, row: int, buffer: RowBuffer) -> RowWritten:
        tokens = self._writer.row_tokens(row)
        written = self._writer.write_row(row, buffer.blocks(tokens.stop - tokens.start))
        self._free.put(buffer)
        return written
