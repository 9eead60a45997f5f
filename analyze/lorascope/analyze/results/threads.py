"""One thread for each product of small matrices: our own threads are as many as there are processors already."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from multiprocessing import parent_process

from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """While it lasts, BLAS computes in the thread that calls it.

    A setting of the whole process: enter it around threads, not in them, for of two that overlap one would set back
    what the other has set. Threads of BLAS beside those of ours wait for each other in loops, on a busy machine thirty
    times as long as the work takes.
    """
    with threadpool_limits(limits=1, user_api="blas"):
        yield


@cache
def keep_one_blas_thread() -> None:
    """Limit BLAS for good to the thread that calls it, where this process was started to do tasks for another one."""
    if parent_process() is not None:
        threadpool_limits(limits=1, user_api="blas")
