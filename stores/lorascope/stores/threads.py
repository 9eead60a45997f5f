"""Work on threads: results in order and in a bounded memory, and one thread for each product of small matrices."""

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
"""Most bytes of tasks that have begun before the result that is looked at is done with."""
N_THREADS = 8
"""Threads at least: each mostly waits for a disk, or for an object store."""

N_REQUESTS = 32
"""Small documents that are asked for at once where each is a request of its own to an object store."""

Task = TypeVar("Task")
Result = TypeVar("Result")

_lock = threading.Lock()
_limits: list[Any] = []
"""The limit of BLAS once for each `one_blas_thread` that lasts: the first sets it, the last one lifts it."""


def in_order(
    function: Callable[[Task], Result],
    tasks: Iterable[Task],
    *,
    n_threads: int | None = None,
    n_bytes: Callable[[Task], int] = lambda task: 0,
    max_bytes: int = MAX_BYTES,
) -> Iterator[Result]:
    """Results of a function of each task, in the order of tasks, from threads that run ahead by a bounded amount.

    Threads are ahead by two tasks each, and by tasks of `max_bytes` in all, as `n_bytes` counts a task's. BLAS computes
    in the thread that calls it while this lasts. The first error ends it, and tasks that have not begun are dropped.
    """
    n_threads = max(N_THREADS, os.cpu_count() or 1) if n_threads is None else n_threads
    if n_threads == 1:
        with one_blas_thread():
            yield from map(function, tasks)
        return
    waiting: deque[tuple[Future[Result], int]] = deque()
    n_ahead = 0
    with one_blas_thread(), ThreadPoolExecutor(n_threads, thread_name_prefix="lorascope") as pool:
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
def one_blas_thread() -> Iterator[None]:
    """While it lasts, BLAS computes in the thread that calls it.

    A setting of the whole process, for the time in which any of these lasts. Threads of BLAS beside those of ours wait
    for each other in loops, on a busy machine thirty times as long as the work takes.
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
def keep_one_blas_thread() -> None:
    """Limit BLAS for good to the thread that calls it, where this process was started to do tasks for another one."""
    if parent_process() is not None:
        threadpool_limits(limits=1, user_api="blas")
