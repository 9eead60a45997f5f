"""Places of runs: folders of this machine, or prefixes in an object store; each file is written whole or not at all."""

import uuid
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

from ..errors import StoreError
from .folder import FolderPlace
from .remote import PREFIXES, ObjectPlace

Place: TypeAlias = FolderPlace | ObjectPlace
"""Storage of one run, in a folder or an object store: bytes by key, a file's path relative to the run with `/`.

A key that doesn't exist raises FileNotFoundError or NotADirectoryError, one that has more than `at_most` bytes or isn't
a regular file StoreError. A key is written whole or not at all; `flush` its folder to make it durable. The run's own
folder is created only with its root, so that a deleted run stays deleted."""


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
