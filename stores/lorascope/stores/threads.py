"""Work on threads: results in order in bounded memory, and BLAS limited to one thread."""

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from multiprocessing import parent_process
from typing import Any, TypeVar

from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

MAX_BYTES = 256 * 2**20
"""Most bytes of tasks that may run ahead of the result in use."""
MIN_THREADS = 8
"""Fewest threads by default: each mostly waits for a disk or an object store."""

N_REQUESTS = 32
"""Number of small documents that are requested from an object store at the same time."""

Task = TypeVar("Task")
Result = TypeVar("Result")

_lock = threading.Lock()
_limits: list[Any] = []
"""The limit of BLAS, once for each open `limiting_blas_to_one_thread`: the first one sets it, the last one lifts it."""


def map_in_order(
    function: Callable[[Task], Result],
    tasks: Iterable[Task],
    *,
    n_threads: int | None = None,
    n_bytes: Callable[[Task], int] = lambda task: 0,
    max_bytes: int = MAX_BYTES,
) -> Iterator[Result]:
    """Yield `function(task)` for each task, in the order of tasks, computed by threads that run ahead.

    Each thread runs ahead by at most two tasks, and all of them by at most `max_bytes`; `n_bytes` gives a task's bytes.
    BLAS is limited to one thread meanwhile. The first error ends the work; tasks that haven't begun are dropped.
    """
    n_threads = max(MIN_THREADS, os.cpu_count() or 1) if n_threads is None else n_threads
    if n_threads == 1:
        with limiting_blas_to_one_thread():
            yield from map(function, tasks)
        return
    waiting: deque[tuple[Future[Result], int]] = deque()
    n_ahead = 0
    with limiting_blas_to_one_thread(), ThreadPoolExecutor(n_threads, thread_name_prefix="lorascope") as pool:
        try:
            for task in tasks:
                size = n_bytes(task)
                while waiting and (len(waiting) > 2 * n_threads or n_ahead + size > max_bytes):
                    yield waiting[0][0].result()
                    n_ahead -= waiting.popleft()[1]
                waiting.append((pool.submit(function, task), size))
                n_ahead += size
            while waiting:
                yield waiting.popleft()[0].result()
        finally:
            for future, _ in waiting:
                future.cancel()


@contextmanager
def limiting_blas_to_one_thread() -> Iterator[None]:
    """Limit BLAS, which multiplies matrices, to the calling thread inside of this context.

    The limit holds for the whole process while any of these contexts is open. Threads of BLAS next to ours wait for
    each other in loops, on a busy machine thirty times as long as the work takes.
    """
    with _lock:
        _limits.append(_limits[0] if _limits else threadpool_limits(limits=1, user_api="blas"))
    try:
        yield
    finally:
        with _lock:
            limit = _limits.pop()
            if not _limits:
                limit.restore_original_limits()


@cache
def limit_worker_to_one_blas_thread() -> None:
    """Limit BLAS to the calling thread for good, if this is a worker process that another process started."""
    if parent_process() is not None:
        threadpool_limits(limits=1, user_api="blas")
