"""Settings of this process: memory that the C library keeps, and handlers of signals."""

import ctypes
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Numbers of two of glibc's settings, from its `malloc.h`."""
_DEFAULT_BYTES = 32 * 2**20
"""Value that glibc's own mmap threshold reaches once a process has freed large blocks."""
_MAX_BYTES = 2**30
"""Size of the largest block that is kept; newer versions of glibc accept it as a threshold."""


@contextmanager
def keeping_freed_memory() -> Iterator[None]:
    """Keep freed memory in the process inside of this context, and give it back to the system at its end.

    The system clears and maps each page at its first use, which takes a good part of the time in which blocks of
    several megabytes are filled. With another C library than glibc this does nothing.
    """
    is_set = keep_freed_memory()
    try:
        yield
    finally:
        if is_set:
            restore_memory_settings()


def keep_freed_memory() -> bool:
    """Keep freed memory in the process from now on; returns False if the C library doesn't allow it."""
    library = _find_glibc()
    # Older versions refuse more than the default; without that threshold the other one would only do harm.
    if library is None or not (
        library.mallopt(_MMAP_THRESHOLD, _MAX_BYTES) or library.mallopt(_MMAP_THRESHOLD, _DEFAULT_BYTES)
    ):
        return False
    library.mallopt(_TRIM_THRESHOLD, _MAX_BYTES)
    return True


def restore_memory_settings() -> None:
    """Set glibc's thresholds back to their defaults, and give free memory back to the system."""
    library = _find_glibc()
    if library is not None:
        library.mallopt(_MMAP_THRESHOLD, _DEFAULT_BYTES)
        library.mallopt(_TRIM_THRESHOLD, 2 * _DEFAULT_BYTES)
        library.malloc_trim(0)


def _find_glibc() -> ctypes.CDLL | None:
    """Return the C library of this process if it is glibc, else None."""
    try:
        library = ctypes.CDLL(None)
    except TypeError:  # Windows has no such handle
        return None
    return library if hasattr(library, "gnu_get_libc_version") and hasattr(library, "mallopt") else None


@contextmanager
def handling_signals(handler: Any, *signals: signal.Signals) -> Iterator[None]:
    """Call `handler` on these signals inside of this context; outside of the main thread, change nothing."""
    try:
        before = {number: signal.signal(number, handler) for number in signals}
    except ValueError:  # "signal only works in main thread"
        before = {}
    try:
        yield
    finally:
        for number, usual in before.items():
            signal.signal(number, usual)
