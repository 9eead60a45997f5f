"""Places of runs: folders of this machine, or prefixes in an object store. Nothing is ever written by halves."""

import uuid
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from ..errors import StoreError
from .folder import FolderPlace
from .remote import PREFIXES, ObjectPlace


class Place(Protocol):
    """Named bytes of one run; keys are relative to it, with `/`."""

    @property
    def path(self) -> Path | str:
        """The folder, or the url."""

    @property
    def name(self) -> str:
        """The path as text, for people."""

    @property
    def remote(self) -> bool:
        """Whether each request goes over a network."""

    def read(self, key: str, *, at_most: int) -> bytes:
        """All bytes of a key; nothing is taken before its size is known.

        Raises
        ------
        FileNotFoundError, NotADirectoryError
            If there is none.
        StoreError
            If it has more than `at_most` bytes, or is no regular file.
        """

    def read_part(self, key: str, start: int, stop: int, *, at_most: int) -> bytes:
        """Bytes start to stop of a key, fewer where it ends before; all of it has `at_most`; raises as `read`."""

    def size(self, key: str) -> int | None:
        """Bytes of a key; None where there is none."""

    def mark(self, key: str) -> str | None:
        """Mark that tells a key's content from whatever takes its place; None where there is none."""

    def sizes(self, folder: str = "") -> Iterator[tuple[str, int]]:
        """Every key at and below a folder with its bytes; temporary files are passed over."""

    def temporary_files(self) -> Iterator[str]:
        """Keys that interrupted writers left unfinished."""

    def write(self, key: str, *pieces: bytes | memoryview) -> None:
        """Put these bytes there one after the other, whole or not at all; it lasts once its folder is flushed too.

        The run's own folder is made with its root alone: one that was deleted stays deleted.
        """

    def flush(self, folder: str) -> None:
        """Make the names in a folder last."""

    def delete(self, keys: Iterable[str]) -> None:
        """Take these keys away, in any order, and folders that are empty then; one that isn't there is passed over."""

    def keys(self, folder: str = "") -> Iterator[str]:
        """Every key at and below a folder, as `sizes`."""

    def free_bytes(self) -> int | None:
        """Bytes that may still be written; None where nobody knows."""


def open_place(path: str | Path | Place) -> Place:
    """The place at a path or url, or the place itself; nothing is read yet.

    Parameters
    ----------
    path
        A folder, or a url such as `s3://bucket/run.zarr`. Credentials and options of an object store come from the
        usual environment variables (`AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT_URL`, `AWS_ALLOW_HTTP`, ...) alone.

    Raises
    ------
    StoreError
        If the url is of an unknown kind, or has credentials in it.
    """
    if not isinstance(path, str | Path):
        return path
    if isinstance(path, Path) or "://" not in path:
        return FolderPlace(Path(path))
    scheme, _, rest = path.partition("://")
    if scheme == "file":
        return FolderPlace(Path(rest))
    if "@" in rest.partition("/")[0] or "?" in rest:
        raise StoreError(f"a url of kind {scheme!r} with credentials or options in it isn't taken; set the environment")
    if not rest.strip("/"):
        raise StoreError(f"`path` is {path!r}, without a bucket; name one, as in 's3://bucket/run.zarr'")
    if scheme not in PREFIXES:
        raise StoreError(f"`path` is {path!r}; name a folder, or an object store such as 's3://bucket/run.zarr'")
    return ObjectPlace(path.rstrip("/"))


def cached(place: Place) -> Place:
    """A place like this one whose chunks stay in memory once they are read, if requests go over a network.

    For reading committed rows of one opened run, whose chunks never change; not for writers, nor for who must see what
    is there now. A place opened anew begins with nothing.
    """
    return replace(place, opened=uuid.uuid4().hex) if isinstance(place, ObjectPlace) else place
