"""The same tasks on a cluster of `dask.distributed`; imported only where one is used."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import dask.array as da
import distributed
import numpy as np
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from lorascope.stores.allocator import keep_freed_memory, usual_memory

from .compute import Workers, assemble

__all__ = ["cluster_workers"]

TIMEOUT_SECONDS = 10
MOST_TOGETHER = 8
"""A task takes the scheduler about a millisecond, whatever is in it."""
_log = logging.getLogger(__name__)


class OneThreadEach(distributed.WorkerPlugin):
    """While it is registered, a task's matrix products take one thread, and a worker keeps the memory it has freed.

    Workers started by a nanny give every freed block back to the system, which makes reading twice as slow.
    """

    name = "lorascope"
    idempotent = True

    def setup(self, worker: Any) -> None:
        """Called on each worker, also on one that joins later."""
        self._limits = threadpool_limits(1, user_api="blas")
        keep_freed_memory()

    def teardown(self, worker: Any) -> None:
        """Called when the plugin is taken away."""
        self._limits.restore_original_limits()
        usual_memory()


@contextmanager
def cluster_workers(scheduler: Any) -> Iterator[Workers]:
    """The workers of a scheduler, given by address or by client; see `compute.workers`."""
    client = _connect(scheduler) if isinstance(scheduler, str) else scheduler
    try:
        client.register_plugin(OneThreadEach())
        n_threads = sum(client.nthreads().values())
        if not n_threads:  # an adaptive cluster starts them when there are tasks
            _log.warning("the Dask scheduler has no workers yet; tasks wait until one joins")
        with client.as_current():
            yield Workers(partial(_compute, client), max(1, n_threads), MOST_TOGETHER)
    finally:
        client.unregister_worker_plugin(OneThreadEach.name)
        if isinstance(scheduler, str):
            client.close()


def _connect(address: str) -> Any:
    try:
        return distributed.Client(address, timeout=TIMEOUT_SECONDS, set_as_default=False)
    except (OSError, ValueError) as error:
        message = f"no Dask scheduler answers at {address!r} ({error}); start one with `dask scheduler`, and workers"
        raise OSError(message) from error


def _compute(client: Any, array: da.Array, done: Callable[[], None]) -> np.ndarray:
    """Blocks come back one by one, as they are done; those of a worker that is lost are computed again elsewhere."""
    futures = distributed.futures_of(client.persist(array))

    def blocks() -> Iterator[tuple[tuple[Any, ...], np.ndarray]]:
        for future, block in distributed.as_completed(futures, with_results=True):
            yield future.key, block
            done()

    return assemble(array, blocks())
