"""Cache in memory for objects of an object store, so that each is requested once."""

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import CancelledError, Future
from typing import TypeAlias

CACHE_BYTES = 256 * 2**20
"""Size of the cache of one process, however many runs it reads."""
ENTRY_SHARE = 4
"""Only objects of at most 1 / this of the cache are kept: larger ones would push out all others."""
ENTRY_BYTES = 256
"""Approximate size of an entry without its content."""

Key: TypeAlias = tuple[Hashable, ...]
"""Key of an object in the cache; that of a part of it begins with the object's own."""


class ByteCache:
    """Thread-safe cache of bytes by key, which drops the least recently used entries beyond `max_bytes`."""

    def __init__(self, max_bytes: int) -> None:
        """Create an empty cache for at most `max_bytes`."""
        self.max_bytes = max_bytes
        self.largest_bytes = max_bytes // ENTRY_SHARE
        """Size of the largest object that is kept."""
        self.n_bytes = 0
        self._entries: OrderedDict[Key, bytes | None] = OrderedDict()
        self._asked: dict[Key, Future[bytes | None]] = {}
        self._lock = threading.Lock()

    def cached(self, key: Key) -> bytes | None:
        """Return the content of a key from the cache; None if it isn't there, or too large to be kept."""
        with self._lock:
            return self._entries.get(key)

    def get(self, key: Key, fetch: Callable[[], bytes | None]) -> bytes | None:
        """Return the content of a key from the cache, or else from `fetch`, whose result is then cached.

        Threads that ask for the key meanwhile wait for the result or get the same error. `fetch` returns None for an
        object that is too large to be kept; None is cached too. If the fetching thread is interrupted, a waiting one
        fetches instead.
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
            self._store_fetched(key, mine)
            mine.set_exception(error)
            raise
        except BaseException:  # an interrupt concerns one thread, not the object
            self._store_fetched(key, mine)
            mine.cancel()
            raise
        self._store_fetched(key, mine, content)
        mine.set_result(content)
        return content

    def discard(self, beginning: Key) -> None:
        """Remove all keys that begin so from the cache; what is being fetched for one now won't be cached."""
        with self._lock:
            for key in [key for key in (*self._asked, *self._entries) if key[: len(beginning)] == beginning]:
                self._asked.pop(key, None)
                if key in self._entries:
                    self._remove(key)

    def _store_fetched(self, key: Key, asked: Future[bytes | None], *content: bytes | None) -> None:
        """End the fetching of a key, and cache its content if the fetch succeeded and nobody discarded the key."""
        with self._lock:
            if self._asked.get(key) is not asked:
                return
            del self._asked[key]
            for entry in content:
                self.n_bytes += _entry_bytes(entry)
                while self._entries and self.n_bytes > self.max_bytes:
                    self._remove(next(iter(self._entries)))
                self._entries[key] = entry

    def _remove(self, key: Key) -> None:
        """Remove an entry, and subtract its size from `n_bytes`."""
        self.n_bytes -= _entry_bytes(self._entries.pop(key))


def _entry_bytes(content: bytes | None) -> int:
    """Return the approximate bytes of memory that a cache entry with this content takes."""
    return ENTRY_BYTES + len(content or b"")


_cache = ByteCache(CACHE_BYTES)
"""Cache of this process, shared by all its places; thousands of them may arrive pickled."""


def process_cache() -> ByteCache:
    """Return the cache that all runs in object stores share in this process."""
    return _cache


def _replace_cache_after_fork() -> None:
    """Create an empty cache in a forked process, since threads that fetch or hold the lock weren't forked."""
    global _cache
    _cache = ByteCache(_cache.max_bytes)


if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(after_in_child=_replace_cache_after_fork)
