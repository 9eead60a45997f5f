"""Tasks on a cluster of `dask.distributed`; imported only where one is used."""

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

from .compute import Workers, assemble

TIMEOUT_SECONDS = 10
PROTOCOLS = ("tcp", "tls", "ucx", "ws", "wss", "inproc")
MOST_TOGETHER = 8
"""Most groups of components in one task: each task costs the scheduler about a millisecond, whatever is in it."""
_log = logging.getLogger(__name__)


class MemoryKept(distributed.WorkerPlugin):
    """While it is registered, a worker keeps the memory it has freed.

    Workers started by a nanny give every freed block back to the system, which makes reading twice as slow.
    """

    def __init__(self) -> None:
        self.name = f"lorascope-{uuid.uuid4().hex}"  # others may compute by the same client

    def setup(self, worker: Any) -> None:
        """Called on each worker, also on one that joins later."""
        keep_freed_memory()

    def teardown(self, worker: Any) -> None:
        """Called when the plugin is taken away."""
        restore_memory_settings()


@contextmanager
def cluster_workers(scheduler: Any) -> Iterator[Workers]:
    """The workers of a scheduler, given by address or by client; see `compute.workers`."""
    client = _connect(scheduler) if isinstance(scheduler, str) else scheduler
    plugin = MemoryKept()
    try:
        client.register_plugin(plugin)
        n_threads = sum(client.nthreads().values())
        if not n_threads:  # an adaptive cluster starts them when there are tasks
            _log.warning("the Dask scheduler has no workers yet; tasks wait until one joins")
        yield Workers(partial(_compute, client), max(1, n_threads), MOST_TOGETHER)
    finally:
        with suppress(Exception):  # where the scheduler is gone there is nothing to set back, and another error to tell
            client.unregister_worker_plugin(plugin.name)
        if isinstance(scheduler, str):
            client.close()


def _connect(address: str) -> Any:
    if address.partition("://")[0] not in PROTOCOLS:
        raise ValueError(f"`scheduler` is {address!r}; its address begins with one of {PROTOCOLS}")
    try:
        return distributed.Client(address, timeout=TIMEOUT_SECONDS, set_as_default=False)
    except (OSError, ValueError) as error:
        message = f"no Dask scheduler answers at {address!r} ({error}); start one with `dask scheduler`, and workers"
        raise OSError(message) from error


def _compute(client: Any, array: Any, done: Callable[[], None]) -> np.ndarray:
    """Blocks come back one by one, as they are done; those of a worker that is lost are computed again elsewhere."""
    # Never by making the client current: that is a setting of the whole process, which other threads may be changing.
    futures = distributed.futures_of(client.persist(array), client=client)

    def blocks() -> Iterator[tuple[tuple[Any, ...], np.ndarray]]:
        for future, block in distributed.as_completed(futures, loop=client.loop, with_results=True):
            yield future.key, block
            done()

    try:
        return assemble(array, blocks())
    except distributed.KilledWorker as error:
        message = f"workers died again and again at one task ({error}); look at their logs and memory"
        raise RuntimeError(message) from error
    except (CancelledError, distributed.client.FuturesCancelledError) as error:
        raise RuntimeError("the Dask scheduler is gone; start it again, and the same command") from error
