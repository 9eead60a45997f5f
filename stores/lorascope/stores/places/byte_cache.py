"""Contents of an object store kept in memory by their reader: one request an object, however it is read."""

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import CancelledError, Future

CACHE_BYTES = 256 * 2**20
"""Bytes that one process keeps, however many runs it reads."""
LARGEST_SHARE = 4
"""An object of more than this part of the cache is never kept: it would push out all else."""
ENTRY_BYTES = 256
"""An entry takes about so many bytes beside its content."""


class ByteCache:
    """Contents by key, the latest used ones, bounded in bytes; for any number of threads."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.largest_bytes = max_bytes // LARGEST_SHARE
        """Bytes of the largest object that is still kept."""
        self.n_bytes = 0
        self._entries: OrderedDict[Hashable, bytes | None] = OrderedDict()
        self._asked: dict[Hashable, Future[bytes | None]] = {}
        self._lock = threading.Lock()

    def get(self, key: Hashable, fetch: Callable[[], bytes | None]) -> bytes | None:
        """Content that `fetch` returned for this key, now or before; who asks meanwhile waits for it, or fails with it.

        It returns None for an object that is too large to be kept; that too is remembered. If who fetches is
        interrupted, one of those who wait fetches in its place.
        """
        while True:
            with self._lock:
                if key in self._entries:
                    self._entries.move_to_end(key)
                    return self._entries[key]
                asked = self._asked.get(key)
                if asked is None:
                    mine = self._asked[key] = Future()
                    break
            try:
                return asked.result()
            except CancelledError:
                continue
        try:
            content = fetch()
        except Exception as error:
            self._settle(key, mine)
            mine.set_exception(error)
            raise
        except BaseException:  # an interrupt is of one thread, not of the object
            self._settle(key, mine)
            mine.cancel()
            raise
        self._settle(key, mine, content)
        mine.set_result(content)
        return content

    def discard(self, key: Hashable) -> None:
        """Forget a key, also one that is being fetched."""
        with self._lock:
            self._asked.pop(key, None)
            if key in self._entries:
                self._drop(key)

    def _settle(self, key: Hashable, asked: Future[bytes | None], *content: bytes | None) -> None:
        """Keep what was fetched, unless it was discarded meanwhile."""
        with self._lock:
            if self._asked.get(key) is not asked:
                return
            del self._asked[key]
            for entry in content:
                self.n_bytes += _entry_bytes(entry)
                while self._entries and self.n_bytes > self.max_bytes:
                    self._drop(next(iter(self._entries)))
                self._entries[key] = entry

    def _drop(self, key: Hashable) -> None:
        self.n_bytes -= _entry_bytes(self._entries.pop(key))


def _entry_bytes(content: bytes | None) -> int:
    return ENTRY_BYTES + len(content or b"")


_cache = ByteCache(CACHE_BYTES)
"""One for the process, so that places which arrive pickled by the thousand share its bound, and what they read."""


def process_cache() -> ByteCache:
    """The cache that all places of this process share."""
    return _cache


def _begin_anew() -> None:
    """A cache for a process that was forked: who fetched or held the lock in the old one isn't there."""
    global _cache
    _cache = ByteCache(_cache.max_bytes)


if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(after_in_child=_begin_anew)
