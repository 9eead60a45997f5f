"""One thread for each product of small matrices: our own threads are as many as there are processors already."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from multiprocessing import parent_process
from typing import Any

from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

_lock = threading.Lock()
_limits: list[Any] = []
"""The limit of BLAS once for each `one_blas_thread` that lasts: the first sets it, the last one lifts it."""


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
