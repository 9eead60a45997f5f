"""A few tokens at many components, past Dask: each chunk read once, and only the blocks decoded that hold them."""

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from ..format.spec import ROW_TOKENS
from .rows import DeltaSource, RowArray, delta_block

N_THREADS = 8
"""Threads that read chunks at once: each mostly waits for the disk, or for an object store."""


class TokenSource(NamedTuple):
    """One component of a run, ready to be read."""

    base: RowArray
    delta: DeltaSource | None
    """None where the adapter leaves the component alone."""


def take_tokens(
    sources: Mapping[str, TokenSource], tokens: Any, *, n_tokens: int, n_threads: int = N_THREADS
) -> xr.DataTree:
    """Base and delta of these tokens of a run of `n_tokens`, read now: one node a component, as `Run.take` says."""
    if n_threads < 1:
        raise ValueError(f"`n_threads` is {n_threads}; it must be at least 1")
    tokens = _checked(tokens, n_tokens)
    deltas = {path: one.delta for path, one in sources.items() if one.delta is not None}
    rows = ({path: one.base for path, one in sources.items()}, {path: one.rows for path, one in deltas.items()})
    base, stored = (
        {path: np.full((len(tokens), one.shape[1]), np.nan, np.float32) for path, one in found.items()}
        for found in rows
    )
    reads: dict[str, _Read] = {}
    for wanted, outs in zip(rows, (base, stored), strict=True):
        for path, one in wanted.items():
            read = reads.setdefault(one.path, _Read(one, [], []))
            read.columns.append(one.columns)
            read.outs.append(outs[path])
    with ThreadPoolExecutor(n_threads, thread_name_prefix="lorascope-take") as pool:
        jobs = [pool.submit(_read, read, *part) for part in _by_row(tokens) for read in reads.values()]
        weights = {path: pool.submit(one.weights) for path, one in deltas.items()}
        try:
            for job in jobs:
                job.result()
            delta = {
                path: _delta(one, stored[path], base[path], weights[path].result()) for path, one in deltas.items()
            }
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    nodes = {}
    for path in base:
        found = {"base": base[path]} | ({"delta": delta[path]} if path in delta else {})
        arrays = {name: (("token", "feature"), block) for name, block in found.items()}
        nodes[path] = xr.Dataset(arrays, coords={"token": tokens})
    return xr.DataTree.from_dict(nodes)


def _checked(tokens: Any, n_tokens: int) -> np.ndarray:
    found = np.asarray(tokens)
    if found.ndim != 1 or (found.size and found.dtype.kind not in "iu"):
        raise ValueError(
            f"`tokens` is {found.dtype} of shape {found.shape}; it must be a sequence of integers (of a mask, take "
            "`numpy.flatnonzero`)"
        )
    outside = found[(found < 0) | (found >= n_tokens)]
    if len(outside):
        raise IndexError(f"`tokens` holds {int(outside[0])}; this run's tokens are 0 to {n_tokens - 1}")
    return found.astype(np.intp)


class _Read(NamedTuple):
    """One array, and what is wanted of it: several components' columns of a packed factor."""

    rows: RowArray
    columns: list[slice]
    outs: list[np.ndarray]


def _by_row(tokens: np.ndarray) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """(row, where its tokens stand among those asked for, their places in the row)."""
    rows = tokens // ROW_TOKENS
    for row in np.unique(rows).tolist():
        asked = np.flatnonzero(rows == row)
        yield row, asked, tokens[asked] % ROW_TOKENS


def _read(read: _Read, row: int, asked: np.ndarray, offsets: np.ndarray) -> None:
    for out, block in zip(read.outs, read.rows.read_chosen(row, offsets, read.columns), strict=True):
        out[asked] = block


def _delta(source: DeltaSource, stored: np.ndarray, base: np.ndarray, weights: dict[str, Any]) -> np.ndarray:
    """Out of what is stored of it, (token, rank) or (token, feature)."""
    if source.base is not None:
        return np.asarray(stored - base)
    return delta_block(stored, **weights) if weights else stored
