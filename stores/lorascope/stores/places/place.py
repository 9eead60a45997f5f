"""Places of runs: folders of this machine, or prefixes in an object store; each file is written whole or not at all."""

import uuid
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from ..errors import StoreError
from .folder import FolderPlace
from .remote import PREFIXES, ObjectPlace


class Place(Protocol):
    """Storage of one run, in a folder or an object store: bytes by key, a path relative to the run with `/`."""

    @property
    def path(self) -> Path | str:
        """Folder or url of the run."""

    @property
    def name(self) -> str:
        """Path or url of the run as text, for messages."""

    @property
    def remote(self) -> bool:
        """Whether the run is in an object store, so that requests go over a network."""

    def read(self, key: str, *, at_most: int) -> bytes:
        """Return all bytes of a key (a file's path in the run), after checking that there are at most `at_most`.

        Raises
        ------
        FileNotFoundError, NotADirectoryError
            If there is no such key.
        StoreError
            If it has more than `at_most` bytes, or isn't a regular file.
        """

    def read_part(self, key: str, start: int, stop: int, *, at_most: int) -> bytes:
        """Return bytes `start` to `stop` of a key, fewer if it ends before.

        `at_most` limits its whole size.
        """

    def size(self, key: str) -> int | None:
        """Return the bytes stored under a key (a file's path in the run), as a number; None for a missing key."""

    def mark(self, key: str) -> str | None:
        """Return text that changes when the file of a key is replaced; None if there is no such key."""

    def sizes(self, folder: str = "") -> Iterator[tuple[str, int]]:
        """Yield (key, size in bytes) of every file below a folder, without temporary files."""

    def temporary_files(self) -> Iterator[str]:
        """Yield the keys of unfinished files of interrupted writers."""

    def write(self, key: str, *pieces: bytes | memoryview) -> None:
        """Write these pieces as the content of a key, whole or not at all; `flush` its folder to make it durable.

        The run's own folder is created only with its root, so that a deleted run stays deleted.
        """

    def flush(self, folder: str) -> None:
        """Make the names of new files in a folder survive a power failure."""

    def delete(self, keys: Iterable[str]) -> None:
        """Delete these keys, in any order, and folders that are empty then; missing keys are ignored."""

    def keys(self, folder: str = "") -> Iterator[str]:
        """Yield every key below a folder, without temporary files."""

    def free_bytes(self) -> int | None:
        """Return the bytes that can still be written; None if unknown."""


def open_place(path: str | Path | Place) -> Place:
    """Return the storage of a run, a Place, from its path or url; a Place is returned as it is; nothing is read.

    Parameters
    ----------
    path
        A folder, or a url such as `s3://bucket/run.zarr`. Credentials and options of an object store come from the
        usual environment variables (`AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT_URL`, `AWS_ALLOW_HTTP`, ...) alone.

    Raises
    ------
    StoreError
        If the url's scheme is unknown, or it contains credentials.
    """
    if not isinstance(path, str | Path):
        return path
    if isinstance(path, Path) or "://" not in path:
        return FolderPlace(Path(path))
    scheme, _, rest = path.partition("://")
    if scheme == "file":
        return FolderPlace(Path(rest))
    if "@" in rest.partition("/")[0] or "?" in rest:
        raise StoreError(
            f"a url of kind {scheme!r} with credentials or options in it isn't accepted; set environment variables"
        )
    if not rest.strip("/"):
        raise StoreError(f"`path` is {path!r}, without a bucket; name one, as in 's3://bucket/run.zarr'")
    if scheme not in PREFIXES:
        raise StoreError(f"`path` is {path!r}; name a folder, or an object store such as 's3://bucket/run.zarr'")
    return ObjectPlace(path.rstrip("/"))


def with_cache(place: Place) -> Place:
    """Return an object store's place with a cache for the chunks that it reads; a folder's place as it is.

    Use it to read committed rows of one opened run, whose chunks never change; not to write, nor to see the current
    content. Each call begins with an empty cache.
    """
    return replace(place, opened=uuid.uuid4().hex) if isinstance(place, ObjectPlace) else place
