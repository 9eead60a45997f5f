"""Workers that compute Dask arrays: threads or processes of this machine, or a cluster."""

import itertools
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import dask.base
import dask.config
import dask.system
import numpy as np
from dask.callbacks import Callback

from lorascope.analyze.results.options import require_whole
from lorascope.stores.process import keeping_freed_memory
from lorascope.stores.progress import Progress

LOCAL = ("threads", "processes", "synchronous")
"""Names of Dask's schedulers on this machine."""


class Workers(NamedTuple):
    """Threads, processes or a cluster that compute Dask arrays, as `open_workers` yields them."""

    compute: Callable[[Any, Callable[[], None]], np.ndarray]
    """(array, function to call after each task) -> the array's values."""
    n_threads: int
    """Number of tasks that run at the same time."""
    most_groups_per_task: int = 1
    """Largest number of component groups in one task; above 1 if each task costs the scheduler time."""


@contextmanager
def open_workers(scheduler: Any = None, n_workers: int | None = None) -> Iterator[Workers]:
    """Yield the threads, processes or cluster that compute Dask arrays, and close them at the end of the block.

    Parameters
    ----------
    scheduler
        Address of a running scheduler of `dask.distributed` (`tcp://...`), a client of one, or the name of a scheduler
        of Dask: `threads`, `processes` or `synchronous`. By default the client that is active in this process, else
        what Dask is configured to use, else threads.
    n_workers
        Threads or processes of this machine; by default one per processor.

    Raises
    ------
    ModuleNotFoundError
        If an address is given and `distributed` isn't installed.
    OSError
        If no scheduler answers at the address.
    ValueError
        If `scheduler` is none of these, `n_workers` isn't a whole number of at least 1, or is given for a cluster.
    """
    if n_workers is not None:
        require_whole("n_workers", n_workers)
    address = isinstance(scheduler, str) and "://" in scheduler
    client = scheduler if address or hasattr(scheduler, "persist") else _active_client() if scheduler is None else None
    if client is not None:
        from .cluster import cluster_workers

        if n_workers is not None:
            raise ValueError(f"`n_workers` is {n_workers}; a cluster has a fixed number of workers: don't give it")
        with cluster_workers(client) as cluster:
            yield cluster
        return
    name = scheduler or dask.config.get("scheduler", None) or "threads"
    if not isinstance(name, str) or name not in dask.base.named_schedulers:
        whose = "`scheduler`" if scheduler else "Dask's own setting `scheduler`"
        raise ValueError(f"{whose} is {name!r}; give an address such as 'tcp://host:8786', or one of {LOCAL}")
    with keeping_freed_memory():
        yield Workers(_local_compute(name, n_workers), n_workers or dask.system.CPU_COUNT)


def task_counter(progress: Progress | None, total: int) -> Callable[[], None]:
    """Return a function that reports one more finished task, of `total`, to `progress` at each call."""
    count = itertools.count(1)

    def count_task() -> None:
        """Report one more finished task."""
        if progress is not None:
            progress(next(count), total)

    return count_task


def assemble_blocks(array: Any, blocks: Iterable[tuple[tuple[Any, ...], np.ndarray]]) -> np.ndarray:
    """Return a Dask array's values from (key, block) pairs; a key: the array's name, and the block's index per axis."""
    out = np.empty(array.shape, array.dtype)
    edges = [np.concatenate([[0], np.cumsum(sizes)]) for sizes in array.chunks]
    for (_, *places), block in blocks:
        out[tuple(slice(*edge[[i, i + 1]]) for edge, i in zip(edges, places, strict=True))] = block
    return out


def _local_compute(name: str, n_workers: int | None) -> Callable[[Any, Callable[[], None]], np.ndarray]:
    """Return a function (array, done) -> values that computes with the Dask scheduler `name` on this machine."""
    options = {"scheduler": name, **({} if n_workers is None else {"num_workers": n_workers})}

    def compute(array: Any, done: Callable[[], None]) -> np.ndarray:
        """Return the values of a Dask array, and call `done` after each block."""

        def count_block(key: Any, *_: Any) -> None:
            """Call `done` if the task that has ended computed a block of the array."""
            if key[0] == array.name:
                done()

        blocks = array.to_delayed().ravel()  # computing the whole array, Dask would rename the task of a single block
        with dask.config.set(options), Callback(posttask=count_block):
            values = dask.base.compute(*blocks)
        return assemble_blocks(array, zip((block.key for block in blocks), values, strict=True))

    return compute


def _active_client() -> Any:
    """Return the client of `dask.distributed` that is active in this process, or None if there is no client."""
    with suppress(KeyError, ValueError):
        return sys.modules["distributed"].default_client()
    return None
