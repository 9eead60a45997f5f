"""Computing arrays on a cluster of `dask.distributed`; imported only if one is used."""

import logging
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import distributed
import numpy as np

from lorascope.stores.process import keep_freed_memory, restore_memory_settings

from .compute import Workers, assemble_blocks

TIMEOUT_SECONDS = 10
"""Time that a scheduler has to answer a connection."""
PROTOCOLS = ("tcp", "tls", "ucx", "ws", "wss", "inproc")
"""Protocols that an address of a scheduler may begin with."""
MOST_GROUPS_PER_TASK = 8
"""Largest number of component groups in one task: each task costs the scheduler about a millisecond."""
_log = logging.getLogger(__name__)


class KeepFreedMemory(distributed.WorkerPlugin):
    """Dask plugin that makes workers keep freed memory while it is registered.

    Workers started by a nanny give every freed block back to the system, which makes reading twice as slow.
    """

    def __init__(self) -> None:
        """Give the plugin a unique name, with which it is unregistered later."""
        self.name = f"lorascope-{uuid.uuid4().hex}"  # other computations may use the same client

    def setup(self, worker: Any) -> None:
        """Make a worker keep freed memory; Dask calls it on each worker, also on one that joins later."""
        keep_freed_memory()

    def teardown(self, worker: Any) -> None:
        """Restore the usual memory settings; Dask calls it when the plugin is unregistered."""
        restore_memory_settings()


@contextmanager
def cluster_workers(scheduler: Any) -> Iterator[Workers]:
    """Yield the `Workers` of a Dask scheduler, given by its address or a client; then close a client made here."""
    client = _connect(scheduler) if isinstance(scheduler, str) else scheduler
    plugin = KeepFreedMemory()
    try:
        client.register_plugin(plugin)
        n_threads = sum(client.nthreads().values())
        if not n_threads:  # an adaptive cluster starts them when there are tasks
            _log.warning("the Dask scheduler has no workers yet; tasks wait until one joins")
        yield Workers(partial(_compute_on_cluster, client), max(1, n_threads), MOST_GROUPS_PER_TASK)
    finally:
        with suppress(Exception):  # if the scheduler is gone, another error says so
            client.unregister_worker_plugin(plugin.name)
        if isinstance(scheduler, str):
            client.close()


def _connect(address: str) -> Any:
    """Return a client of the Dask scheduler at an address; raise OSError if none answers, ValueError if malformed."""
    if address.partition("://")[0] not in PROTOCOLS:
        raise ValueError(f"`scheduler` is {address!r}; its address begins with one of {PROTOCOLS}")
    try:
        return distributed.Client(address, timeout=TIMEOUT_SECONDS, set_as_default=False)
    except (OSError, ValueError) as error:
        message = f"no Dask scheduler answers at {address!r} ({error}); start one with `dask scheduler`, and workers"
        raise OSError(message) from error


def _compute_on_cluster(client: Any, array: Any, done: Callable[[], None]) -> np.ndarray:
    """Return a Dask array's values, computed on a cluster; call `done` per block, and repeat blocks of lost workers."""
    # The client isn't made current: that is a setting of the whole process, which other threads may be changing.
    futures = distributed.futures_of(client.persist(array), client=client)

    def blocks() -> Iterator[tuple[tuple[Any, ...], np.ndarray]]:
        """Yield key and values of each block once it is computed, and then call `done`."""
        for future, block in distributed.as_completed(futures, loop=client.loop, with_results=True):
            yield future.key, block
            done()

    try:
        return assemble_blocks(array, blocks())
    except distributed.KilledWorker as error:
        message = f"workers died again and again at one task ({error}); look at their logs and memory"
        raise RuntimeError(message) from error
    except (CancelledError, distributed.client.FuturesCancelledError) as error:
        raise RuntimeError("the Dask scheduler is gone; start it again, and the same command") from error
