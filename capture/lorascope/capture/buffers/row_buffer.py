"""One row in memory, and the account of what has been filled of it."""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch

from lorascope.stores.places.folder import BLOCK_BYTES

from ..errors import CaptureError
from .copies import Wait

RowArrays = Mapping[str, tuple[tuple[int, ...], np.dtype[Any]]]
"""Path -> (shape of a full row, dtype)."""


def buffer_bytes(sizes: Iterable[int], *, pinned: bool) -> int:
    """Memory that arrays of these bytes take: torch makes every page-locked one a power of two."""
    return sum(1 << (size - 1).bit_length() if pinned and size else size for size in sizes)


def array_bytes(array: tuple[tuple[int, ...], np.dtype[Any]]) -> int:
    """Bytes of one of a row's arrays."""
    shape, dtype = array
    return math.prod(shape) * dtype.itemsize


class RowBuffer:
    """One row's blocks, as torch tensors that share their memory with what the writer takes.

    It keeps account of what was filled: nothing else tells a block that a pass left out from an earlier row's.
    """

    def __init__(self, arrays: RowArrays, *, pinned: bool) -> None:
        self.n_bytes = buffer_bytes(map(array_bytes, arrays.values()), pinned=pinned)
        """Bytes of memory that the buffer holds."""
        self.tensors: dict[str, torch.Tensor] = {}
        self._arrays: dict[str, np.ndarray] = {}
        for path, (shape, dtype) in arrays.items():
            # Zarr holds bfloat16 as uint16; no other array of a row is uint16.
            logical = torch.bfloat16 if dtype == np.uint16 else getattr(torch, dtype.name)
            tensor = torch.empty(shape, dtype=logical, pin_memory=True) if pinned else _page_aligned(shape, logical)
            self.tensors[path] = tensor
            self._arrays[path] = (
                tensor.view(torch.int16).numpy().view(np.uint16) if dtype == np.uint16 else tensor.numpy()
            )
        self._filled: dict[str, dict[tuple[int, int], int]] = {}
        self._later: list[Callable[[], None]] = []
        self.wait: Wait | None = None
        """Returns once all copies into this row are done."""

    def begin(self) -> None:
        """Forget the row before. What is measured of some tokens only becomes NaN; all else must be filled."""
        self._filled = {path: {} for path in self.tensors if not _is_measured(path)}
        self._later = []
        self.wait = None
        for path, tensor in self.tensors.items():
            if _is_measured(path):
                tensor.fill_(float("nan"))

    def claim(self, path: str, columns: slice, tokens: slice) -> torch.Tensor | None:
        """The array whose columns are about to be filled for these tokens; None if the row doesn't hold it.

        Raises
        ------
        CaptureError
            If the columns are filled there already, or not for every token before.
        """
        if path in self._filled:
            filled = self._filled[path]
            key = (columns.start, columns.stop)
            if filled.get(key, 0) != tokens.start:
                raise CaptureError(
                    f"{path!r} comes for tokens {tokens.start} to {tokens.stop} of a row after {filled.get(key, 0)} of "
                    "its tokens; a pass put it twice, or left it out"
                )
            filled[key] = tokens.stop
        return self.tensors.get(path)

    def later(self, step: Callable[[], None]) -> None:
        """Leave a step for when the copies into this row are done."""
        self._later.append(step)

    def check(self, row: int, n_tokens: int) -> None:
        """Raise `CaptureError` unless every array was filled once for every token, in all its columns."""
        for path, filled in self._filled.items():
            width = int(np.prod(self.tensors[path].shape[1:]))
            stop = 0
            for (first, last), n in sorted(filled.items()):
                if first != stop or n != n_tokens:
                    break
                stop = last
            if stop != width:
                raise CaptureError(
                    f"row {row} isn't written: its {n_tokens} tokens of {path!r} were filled up to column {stop} of "
                    f"{width}, by (first, last) column: {filled or 'nothing'}"
                )

    def complete(self) -> None:
        """Wait for the copies into this row, then take the steps left for it."""
        if self.wait is not None:
            self.wait()
        for step in self._later:
            step()
        self._later = []

    def blocks(self, n_tokens: int) -> dict[str, np.ndarray]:
        """The first n_tokens of every block."""
        return {path: array[:n_tokens] for path, array in self._arrays.items()}


class Segment(NamedTuple):
    """The part of a batch that goes into one row."""

    buffer: RowBuffer
    source: slice
    """Which of the batch's captured tokens."""
    target: slice
    """Where in the row."""

    def claim(self, path: str, columns: slice) -> torch.Tensor | None:
        """The row's array whose columns are about to be filled for these tokens; None if the row doesn't hold it."""
        return self.buffer.claim(path, columns, self.target)


def _page_aligned(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """An uninitialised tensor from the start of a page on, as page-locked ones are: it is written without a copy."""
    n_bytes = math.prod(shape) * dtype.itemsize
    memory = torch.empty(n_bytes + BLOCK_BYTES, dtype=torch.uint8)
    start = -memory.data_ptr() % BLOCK_BYTES
    return memory[start : start + n_bytes].view(dtype).view(shape)


def _is_measured(path: str) -> bool:
    """Whether an array may lack values of some tokens or components."""
    return path.startswith("reductions/") or path.rpartition("/")[2] in {"js", "swallowed", "kl", "delta_norm"}
