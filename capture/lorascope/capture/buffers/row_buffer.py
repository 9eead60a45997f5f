"""One row of a run (1024 tokens of every array) in memory, and a record of what is filled in it."""

import math
import mmap
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch

from lorascope.stores.format.layout import is_measure
from lorascope.stores.places.folder import BLOCK_BYTES

from ..errors import CaptureError
from .copies import Wait

RowArrays = Mapping[str, tuple[tuple[int, ...], np.dtype[Any]]]
"""Path -> (shape of a full row, dtype)."""


def buffer_bytes(sizes: Iterable[int]) -> int:
    """Return the bytes of one block of memory for arrays of these sizes, each rounded up to whole pages."""
    return sum(map(_round_up_to_pages, sizes))


def array_bytes(array: tuple[tuple[int, ...], np.dtype[Any]]) -> int:
    """Return the size in bytes of an array that is given as (shape, dtype)."""
    shape, dtype = array
    return math.prod(shape) * dtype.itemsize


class RowBuffer:
    """Memory of one row of a run: its arrays as torch tensors, which the writer sees as NumPy arrays.

    It records which columns were filled for which tokens, since a block that a pass skipped still holds the values of
    an earlier row.
    """

    def __init__(self, arrays: RowArrays) -> None:
        """Allocate page-aligned memory for a row's arrays, given as path -> (shape, dtype)."""
        sizes = {path: array_bytes(array) for path, array in arrays.items()}
        self.memory = _allocate_pages(buffer_bytes(sizes.values()))
        """Memory of all arrays, uint8 (byte,): whole pages that nothing else uses."""
        self.tensors: dict[str, torch.Tensor] = {}
        self._arrays: dict[str, np.ndarray] = {}
        start = 0
        for path, (shape, dtype) in arrays.items():
            # Zarr holds bfloat16 as uint16; no other array of a row is uint16.
            logical = torch.bfloat16 if dtype == np.uint16 else getattr(torch, dtype.name)
            block = self.memory[start : start + sizes[path]]
            self.tensors[path] = block.view(logical).view(shape)
            self._arrays[path] = block.numpy().view(dtype).reshape(shape)
            start += _round_up_to_pages(sizes[path])
        self._filled: dict[str, dict[tuple[int, int], int]] = {}
        self.wait: Wait | None = None
        """Function that returns once all copies into this row are done."""

    def reset(self) -> None:
        """Prepare for the next row: mark its arrays as not filled; in arrays that may have gaps, set NaN, or id -1."""
        self._filled = {path: {} for path in self.tensors if not is_measure(path)}
        self.wait = None
        for path, tensor in self.tensors.items():
            if is_measure(path):
                tensor.fill_(float("nan") if tensor.is_floating_point() else -1)

    def claim(self, path: str, columns: slice, tokens: slice) -> torch.Tensor | None:
        """Record that `columns` of an array will be filled for `tokens`; return the array, or None if the row lacks it.

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
                    "its tokens; a pass put it twice, or skipped it"
                )
            filled[key] = tokens.stop
        return self.tensors.get(path)

    def require_filled(self, row: int, n_tokens: int) -> None:
        """Raise `CaptureError` unless every array was filled once for every token, in all its columns.

        Arrays that may have gaps aren't checked.
        """
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

    def blocks(self, n_tokens: int) -> dict[str, np.ndarray]:
        """Return path -> NumPy array of the row's first `n_tokens` tokens, in the buffer's own memory."""
        return {path: array[:n_tokens] for path, array in self._arrays.items()}


class Segment(NamedTuple):
    """Part of a batch that goes into one row: the row's buffer, and the tokens' places in batch and row."""

    buffer: RowBuffer
    source: slice
    """Range of the batch's captured tokens."""
    target: slice
    """Range of the row's tokens."""

    def claim(self, path: str, columns: slice) -> torch.Tensor | None:
        """Record that `columns` of the row's array will be filled for these tokens; return the array or None."""
        return self.buffer.claim(path, columns, self.target)


def _round_up_to_pages(n_bytes: int) -> int:
    """Return a number of bytes, rounded up to whole pages."""
    return -(-n_bytes // BLOCK_BYTES) * BLOCK_BYTES


def _allocate_pages(n_bytes: int) -> torch.Tensor:
    """Return page-aligned memory, uint8 (byte,), which can be pinned and is written to disk without a copy.

    The system gets it back when the last tensor in it is gone.
    """
    return torch.frombuffer(mmap.mmap(-1, n_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS), dtype=torch.uint8)
