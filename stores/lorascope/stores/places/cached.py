"""An object store's chunks kept in memory by their reader: one request an object, however it is read."""

# ruff: noqa: D102 (place.Place says it)

import asyncio
import os
import threading
import uuid
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Iterator
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, field
from typing import Any, Self

from zarr.abc.buffer import Buffer
from zarr.abc.store import ByteRequest, OffsetByteRequest, RangeByteRequest, Store, SuffixByteRequest
from zarr.core.buffer import BufferPrototype

from .place import Place
from .remote import NamedStore, ObjectPlace

__all__ = ["CACHE_BYTES", "ByteCache", "CachedPlace", "cached"]

CACHE_BYTES = 256 * 2**20
"""Of one process, however many runs it reads."""
LARGEST_SHARE = 4
"""An object of more than this part of the cache is never kept: it would push out all else."""
ENTRY_BYTES = 256
"""What an entry takes beside its content, about."""


def cached(place: Place) -> Place:
    """The same place, its chunks kept once they are read if each request goes over a network.

    For reading committed rows of one opened run, whose chunks never change; not for writers, nor for who must see what
    is there now. A place opened anew begins with nothing.
    """
    return CachedPlace(place) if isinstance(place, ObjectPlace) else place


class ByteCache:
    """Contents by key, the latest used ones, bounded in bytes; for any number of threads."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.n_bytes = 0
        self._kept: OrderedDict[Hashable, bytes | None] = OrderedDict()
        self._asked: dict[Hashable, Future[bytes | None]] = {}
        self._lock = threading.Lock()

    @property
    def largest_bytes(self) -> int:
        """Of an object that is still kept."""
        return self.max_bytes // LARGEST_SHARE

    def get(self, key: Hashable, fetch: Callable[[], bytes | None]) -> bytes | None:
        """What `fetch` returned for this key, now or before; who asks meanwhile waits for it, or fails with it.

        It returns None for an object that is too large to be kept; that too is remembered. If who fetches is
        interrupted, one of those who wait fetches in its place.
        """
        while True:
            with self._lock:
                if key in self._kept:
                    self._kept.move_to_end(key)
                    return self._kept[key]
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
            if key in self._kept:
                self._drop(key)

    def _settle(self, key: Hashable, asked: Future[bytes | None], *content: bytes | None) -> None:
        """Keep what was fetched, unless it was discarded meanwhile."""
        with self._lock:
            if self._asked.get(key) is not asked:
                return
            del self._asked[key]
            for one in content:
                self.n_bytes += _entry_bytes(one)
                while self._kept and self.n_bytes > self.max_bytes:
                    self._drop(next(iter(self._kept)))
                self._kept[key] = one

    def _drop(self, key: Hashable) -> None:
        self.n_bytes -= _entry_bytes(self._kept.pop(key))


def _entry_bytes(content: bytes | None) -> int:
    return ENTRY_BYTES + len(content or b"")


_cache = ByteCache(CACHE_BYTES)
"""One for the process, so that places which arrive pickled by the thousand share its bound, and what they read."""


def _begin_anew() -> None:
    """A cache for a process that was forked: who fetched or held the lock in the old one isn't there."""
    global _cache
    _cache = ByteCache(_cache.max_bytes)


if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(after_in_child=_begin_anew)


@dataclass(frozen=True)
class CachedPlace:
    """An object store whose chunks are kept by this process once they are read.

    Pickled without them: elsewhere it begins with nothing but what the same run's other places read there.
    """

    inner: ObjectPlace
    opened: str = field(default_factory=lambda: uuid.uuid4().hex)
    """Tells the times apart that a run was opened: each sees what is there then."""

    @property
    def path(self) -> str:
        return self.inner.path

    @property
    def name(self) -> str:
        return self.inner.name

    @property
    def remote(self) -> bool:
        return True

    def zarr_store(self, *, read_only: bool) -> Store:
        if not read_only:
            raise ValueError(
                f"`read_only` is False, and chunks of `{self.name}` are kept; open the place to write to it"
            )
        return CachedStore(self)

    def kept(self, key: str) -> bytes | None:
        """All bytes of a chunk; None for another key, or where they are too many to be kept."""
        if not is_kept(key):
            return None
        return _cache.get((self.opened, key), lambda: self.inner.read_at_most(key, _cache.largest_bytes))

    def read(self, key: str) -> bytes:
        content = self.kept(key)
        return self.inner.read(key) if content is None else content

    def read_part(self, key: str, start: int, stop: int) -> bytes:
        content = self.kept(key)
        return self.inner.read_part(key, start, stop) if content is None else content[start:stop]

    def size(self, key: str) -> int | None:
        try:
            content = self.kept(key)
        except FileNotFoundError:
            return None
        return self.inner.size(key) if content is None else len(content)

    def sizes(self, folder: str = "") -> Iterator[tuple[str, int]]:
        return self.inner.sizes(folder)

    def keys(self, folder: str = "") -> Iterator[str]:
        return self.inner.keys(folder)

    def litter(self) -> Iterator[str]:
        return self.inner.litter()

    def write(self, key: str, content: bytes | memoryview) -> None:
        try:
            self.inner.write(key, content)
        finally:  # it may have arrived though its answer didn't
            _cache.discard((self.opened, key))

    def flush(self, folder: str) -> None:
        self.inner.flush(folder)

    def delete(self, keys: Iterable[str]) -> None:
        keys = list(keys)
        try:
            self.inner.delete(keys)
        finally:
            for key in keys:
                _cache.discard((self.opened, key))

    def free_bytes(self) -> int | None:
        return self.inner.free_bytes()


def is_kept(key: str) -> bool:
    """Whether this names a chunk that never changes once it may be read: neither metadata nor a row's commit."""
    return key.rpartition("/")[2].startswith("c.") and not key.startswith("rows/")


class CachedStore(NamedStore):
    """Zarr's own view of a cached place, to read only."""

    def __init__(self, place: CachedPlace) -> None:
        super().__init__(place.inner, read_only=True)
        self._cached = place

    def __reduce__(self) -> tuple[Any, ...]:
        return CachedStore, (self._cached,)

    def with_read_only(self, read_only: bool = False) -> Self:
        self._cached.zarr_store(read_only=read_only)
        return type(self)(self._cached)

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        try:
            content = await asyncio.to_thread(self._cached.kept, key) if is_kept(key) else None
        except FileNotFoundError:
            return None
        if content is None:
            return await super().get(key, prototype, byte_range)
        return prototype.buffer.from_bytes(content[_slice(byte_range, len(content))])

    async def exists(self, key: str) -> bool:
        return (
            await asyncio.to_thread(self._cached.size, key) is not None if is_kept(key) else await super().exists(key)
        )


def _slice(byte_range: ByteRequest | None, n_bytes: int) -> slice:
    match byte_range:
        case RangeByteRequest():
            return slice(byte_range.start, byte_range.end)
        case OffsetByteRequest():
            return slice(byte_range.offset, None)
        case SuffixByteRequest():
            return slice(max(n_bytes - byte_range.suffix, 0), None)
    return slice(None)
