"""What computes an array, whatever it is: threads, processes or a cluster."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import dask.array as da
import numpy as np

__all__ = ["Workers", "assemble"]


class Workers(NamedTuple):
    """What computes an array."""

    compute: Callable[[da.Array, Callable[[], None]], np.ndarray]
    """(array, what to call when a task is done) -> the array's values."""
    n_threads: int
    """Tasks that it does at a time."""
    most_together: int = 1
    """How many times as large as on this machine's threads tasks may be: each costs a scheduler of its own time."""


def assemble(array: da.Array, blocks: Iterable[tuple[tuple[Any, ...], np.ndarray]]) -> np.ndarray:
    """The array out of its blocks, each with its key: the array's name and its place along each dimension."""
    out = np.empty(array.shape, array.dtype)
    edges = [np.concatenate([[0], np.cumsum(sizes)]) for sizes in array.chunks]
    for (_, *places), block in blocks:
        out[tuple(slice(*edge[[i, i + 1]]) for edge, i in zip(edges, places, strict=True))] = block
    return out
