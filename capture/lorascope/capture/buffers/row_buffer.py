"""One row in memory, and the account of what has been filled of it."""

import math
import mmap
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch

from lorascope.stores.places.folder import BLOCK_BYTES

from ..errors import CaptureError
from .copies import Wait

RowArrays = Mapping[str, tuple[tuple[int, ...], np.dtype[Any]]]
"""Path -> (shape of a full row, dtype)."""


def buffer_bytes(sizes: Iterable[int]) -> int:
    """Memory that arrays of these bytes take in one piece, each from the start of a page on."""
    return sum(map(_whole_pages, sizes))


def array_bytes(array: tuple[tuple[int, ...], np.dtype[Any]]) -> int:
    """Bytes of one of a row's arrays."""
    shape, dtype = array
    return math.prod(shape) * dtype.itemsize


class RowBuffer:
    """One row's blocks, as torch tensors that share their memory with what the writer takes.

    It keeps account of what was filled: nothing else tells a block that a pass left out from an earlier row's.
    """

    def __init__(self, arrays: RowArrays) -> None:
        sizes = {path: array_bytes(array) for path, array in arrays.items()}
        self.memory = _pages(buffer_bytes(sizes.values()))
        """All blocks, uint8 (byte,): whole pages of the system, and nobody else's."""
        self.tensors: dict[str, torch.Tensor] = {}
        self._arrays: dict[str, np.ndarray] = {}
        start = 0
        for path, (shape, dtype) in arrays.items():
            # Zarr holds bfloat16 as uint16; no other array of a row is uint16.
            logical = torch.bfloat16 if dtype == np.uint16 else getattr(torch, dtype.name)
            block = self.memory[start : start + sizes[path]]
            self.tensors[path] = block.view(logical).view(shape)
            self._arrays[path] = block.numpy().view(dtype).reshape(shape)
            start += _whole_pages(sizes[path])
        self._filled: dict[str, dict[tuple[int, int], int]] = {}
        self.wait: Wait | None = None
        """Returns once all copies into this row are done."""

    def begin(self) -> None:
        """Forget the row before. Arrays that are measured of some tokens only become NaN; all others must be filled."""
        self._filled = {path: {} for path in self.tensors if not _is_measured(path)}
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

    def blocks(self, n_tokens: int) -> dict[str, np.ndarray]:
        """The first n_tokens of every block."""
        return {path: array[:n_tokens] for path, array in self._arrays.items()}


class Segment(NamedTuple):
    """The part of a batch that goes into one row."""

    buffer: RowBuffer
    source: slice
    """Places among the batch's captured tokens."""
    target: slice
    """Places in the row."""

    def claim(self, path: str, columns: slice) -> torch.Tensor | None:
        """The row's array whose columns are about to be filled for these tokens; None if the row doesn't hold it."""
        return self.buffer.claim(path, columns, self.target)


def _whole_pages(n_bytes: int) -> int:
    return -(-n_bytes // BLOCK_BYTES) * BLOCK_BYTES


def _pages(n_bytes: int) -> torch.Tensor:
    """New memory, uint8 (byte,), from the start of a page on: it is written without a copy, and can be pinned.

    It goes back to the system with the last tensor of it.
    """
    return torch.frombuffer(mmap.mmap(-1, n_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS), dtype=torch.uint8)


def _is_measured(path: str) -> bool:
    """Whether an array may lack values of some tokens or components."""
    return path.startswith("reductions/") or path.rpartition("/")[2] in {
        "js",
        "swallowed",
        "kl",
        "ablation",
        "delta_norm",
    }
