"""Settings of this process: memory that the C library keeps, and handlers of signals."""

import ctypes
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Names of two of glibc's settings, from its `malloc.h`."""
_USUAL = 32 * 2**20
"""Bytes at which glibc's own threshold for memory from the system ends up, where a process frees large blocks."""
_MOST = 2**30
"""Bytes of a block that is kept at most; newer versions of glibc take it as a threshold."""


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """While it lasts, freed memory stays with the process; afterwards what is free goes back to the system.

    A page that the system hands out anew is cleared and mapped at its first use, which for blocks of several megabytes
    takes a good part of the time in which they are filled. Elsewhere than under glibc nothing happens.
    """
    is_set = keep_freed_memory()
    try:
        yield
    finally:
        if is_set:
            usual_memory()


def keep_freed_memory() -> bool:
    """Keep freed memory in the process from now on; False if the C library doesn't allow it."""
    library = _glibc()
    # Older versions refuse more than the usual; without that threshold the other one would only do harm.
    if library is None or not (library.mallopt(_MMAP_THRESHOLD, _MOST) or library.mallopt(_MMAP_THRESHOLD, _USUAL)):
        return False
    library.mallopt(_TRIM_THRESHOLD, _MOST)
    return True


def usual_memory() -> None:
    """Back to what glibc does by itself, and what is free back to the system."""
    library = _glibc()
    if library is not None:
        library.mallopt(_MMAP_THRESHOLD, _USUAL)
        library.mallopt(_TRIM_THRESHOLD, 2 * _USUAL)
        library.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    """The C library of this process if it is glibc."""
    try:
        library = ctypes.CDLL(None)
    except TypeError:  # Windows has no such handle
        return None
    return library if hasattr(library, "gnu_get_libc_version") and hasattr(library, "mallopt") else None


@contextmanager
def answering(handler: Any, *signals: signal.Signals) -> Iterator[None]:
    """Have these signals call `handler` meanwhile; outside of the main thread, where Python hears none, do nothing."""
    try:
        before = {number: signal.signal(number, handler) for number in signals}
    except ValueError:  # "signal only works in main thread"
        before = {}
    try:
        yield
    finally:
        for number, usual in before.items():
            signal.signal(number, usual)
