"""A run in an object store: each object written by one request, and errors of one line."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from typing import Any, ClassVar

from .byte_cache import process_cache
from .files import require_size

CLIENT_DEFAULTS = {"connect_timeout": "10s", "timeout": "180s"}
"""Default timeouts, in which the largest chunk must be uploaded; set `AWS_TIMEOUT` for a slow connection."""
RETRY: Any = {
    "max_retries": 12,
    "backoff": {"init_backoff": timedelta(seconds=0.25), "max_backoff": timedelta(seconds=15), "base": 2},
    "retry_timeout": timedelta(minutes=4),
}
"""Settings of retries, which last about a minute until an unreachable store counts as lost."""
CLIENT_OPTIONS = ("allow_http", "allow_invalid_certificates", "connect_timeout", "proxy_url", "timeout")
PREFIXES = {"s3": "AWS_", "s3a": "AWS_", "gs": "GOOGLE_", "az": "AZURE_", "abfs": "AZURE_", "abfss": "AZURE_"}
"""Scheme of a url -> prefix of its store's environment variables."""


@dataclass(frozen=True)
class ObjectPlace:
    """Storage of one run below a prefix in an object store; each object is written whole by one request.

    It is pickled as its url: the process that unpickles it uses credentials of its own environment and its own cache.
    """

    path: str
    remote: ClassVar[bool] = True
    opened: str | None = None
    """Key of this opened run in the cache of chunks; None without a cache."""

    def __reduce__(self) -> tuple[type["ObjectPlace"], tuple[str, str | None]]:
        """Pickle the url and the key in the cache, without connection and credentials."""
        return ObjectPlace, (self.path, self.opened)

    @cached_property
    def _store(self) -> Any:
        """Connection to the object store, made at the first access."""
        from obstore.store import from_url

        with _explain_remote_errors(self.path):
            return from_url(self.path, client_options=_client_options(self.path), retry_config=RETRY)

    @property
    def name(self) -> str:
        """Url of the run."""
        return self.path

    def read(self, key: str, *, at_most: int) -> bytes:
        """Return an object's bytes, of a chunk through the cache; raises StoreError above `at_most`."""
        content = self._read_cached(key, at_most)
        if content is not None:
            return content
        with _explain_remote_errors(self.path):
            answer = self._store.get(key)
            require_size(f"{self.path}/{key}", answer.meta["size"], at_most)  # its body isn't loaded yet
            return bytes(answer.bytes())

    def read_part(self, key: str, start: int, stop: int | None, *, at_most: int) -> bytes:
        """Return bytes `start` to `stop` of an object, or the last ones, as a slice does; only they are requested.

        A chunk's part is cached, and taken from the whole chunk if that is cached.
        """
        cache, part = process_cache(), (self.opened, key, start, stop)
        n_bytes = -start if stop is None else stop - start
        if self.opened is None or not _is_unchanging_key(key) or n_bytes > cache.largest_bytes:
            return self._request_part(key, start, stop)
        whole = cache.cached((self.opened, key))
        return whole[start:stop] if whole else cache.get(part, lambda: self._request_part(key, start, stop)) or b""

    def _request_part(self, key: str, start: int, stop: int | None) -> bytes:
        """Request bytes `start` to `stop` of an object, or its last ones, and return them."""
        try:
            with _explain_remote_errors(self.path):
                if stop is None and start < 0:
                    return bytes(self._store.get(key, options={"range": {"suffix": -start}}).bytes())
                return bytes(self._store.get_range(key, start=start, end=stop))
        except FileNotFoundError:
            raise
        except OSError:  # servers refuse a range beyond the end of an object, and Azure's one from its end
            size = self.size(key)
            if size is None or 0 <= start < size:
                raise
            return self._request_part(key, max(size + start, 0), size) if start < 0 < size else b""

    def size(self, key: str) -> int | None:
        """Return an object's size in bytes; None if there is no such object."""
        try:
            content = self._read_cached(key, process_cache().largest_bytes)
            if content is not None:
                return len(content)
            with _explain_remote_errors(self.path):
                return int(self._store.head(key)["size"])
        except FileNotFoundError:
            return None

    def mark(self, key: str) -> str | None:
        """Return an object's entity tag, or else its time and size, as text; None if there is no such object."""
        try:
            with _explain_remote_errors(self.path):
                answer = self._store.head(key)
        except FileNotFoundError:
            return None
        return str(answer["e_tag"] or (answer["last_modified"], answer["size"]))

    def _read_cached(self, key: str, at_most: int) -> bytes | None:
        """Return a chunk's bytes through the cache; None without a cache, for other keys and for large chunks."""
        if self.opened is None or not _is_unchanging_key(key):
            return None
        cache = process_cache()

        def fetch() -> bytes | None:
            """Request the object, and return its bytes; None if it is too large for the cache."""
            with _explain_remote_errors(self.path):
                answer = self._store.get(key)
                return bytes(answer.bytes()) if answer.meta["size"] <= min(at_most, cache.largest_bytes) else None

        return cache.get((self.opened, key), fetch)

    def sizes(self, folder: str = "") -> Iterator[tuple[str, int]]:
        """Yield (key, size in bytes) of every object below a folder."""
        with _explain_remote_errors(self.path):
            for batch in self._store.list(prefix=folder or None):
                yield from ((item["path"], item["size"]) for item in batch)

    def keys(self, folder: str = "") -> Iterator[str]:
        """Yield the key of every object below a folder."""
        return (key for key, _ in self.sizes(folder))

    def temporary_files(self) -> Iterator[str]:
        """Return an empty iterator, since an interrupted request leaves no object."""
        return iter(())  # an interrupted request leaves nothing

    def write(self, key: str, *pieces: bytes | memoryview) -> None:
        """Write an object in one request, and remove it from the cache; raises OSError if the store fails."""
        try:
            with _explain_remote_errors(self.path):
                self._store.put(key, b"".join(pieces), use_multipart=False)
        except FileNotFoundError:
            raise FileNotFoundError(
                f"`{self.path}` can't be written to: there is no such bucket; create it first"
            ) from None
        finally:  # it may have been written though the answer was lost
            self._forget(key)

    def flush(self, folder: str) -> None:
        """Do nothing, since objects are durable once they are written."""

    def delete(self, keys: Iterable[str]) -> None:
        """Delete objects, and remove them from the cache; raises OSError if the store fails."""
        keys = list(keys)
        try:
            with _explain_remote_errors(self.path):
                self._store.delete(keys)
        finally:
            for key in keys:
                self._forget(key)

    def _forget(self, key: str) -> None:
        """Remove an object and its parts from the cache; without a cache nothing of it is there."""
        if self.opened is not None:
            process_cache().discard((self.opened, key))

    def free_bytes(self) -> int | None:
        """Return None, since the free space of an object store isn't known."""
        return None


def _is_unchanging_key(key: str) -> bool:
    """Return whether a key is that of a chunk, which never changes; metadata and the digests of rows may."""
    return key.rpartition("/")[2].startswith("c.") and not key.startswith("rows/")


def _client_options(url: str) -> Any:
    """Return the timeouts and other options of the connection: ours, or those in environment variables.

    obstore reads those of the environment only if it is given no options.
    """
    prefix = PREFIXES[url.partition("://")[0]]
    names = {option: (prefix + option).upper() for option in CLIENT_OPTIONS}
    return {**CLIENT_DEFAULTS, **{option: os.environ[name] for option, name in names.items() if name in os.environ}}


@contextmanager
def _explain_remote_errors(place: str) -> Iterator[None]:
    """Turn errors of an object store into an OSError whose message names the run and says what to do."""
    from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError

    try:
        yield
    except FileNotFoundError as error:
        raise FileNotFoundError(f"`{place}`: {_first_line(error)}") from None
    except (PermissionDeniedError, UnauthenticatedError) as error:
        message = f"`{place}` refuses access ({_first_line(error)}); check the credentials in the environment"
        raise PermissionError(message) from None
    except BaseError as error:
        message = f"`{place}` failed ({_first_line(error)}); once it answers again, the same command goes on from here"
        raise OSError(message) from None


def _first_line(error: BaseException) -> str:
    """Return the first line of an error's message, without the server's XML, at most 300 characters."""
    line = (str(error).splitlines() or [type(error).__name__])[0]
    return line.partition(": <?xml")[0][:300]
