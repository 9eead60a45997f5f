"""Digests of saved results: every byte of a Zarr or NetCDF result is covered, so that a change can be found."""

import json
import mmap
import os
import re
import secrets
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from blake3 import blake3

from lorascope.stores.errors import Problem, StoreError
from lorascope.stores.format.digests import DIGEST_PLACEHOLDER, combine_digests
from lorascope.stores.json_document import read_json
from lorascope.stores.places.files import atomic_write, open_regular

DONE = "done"
"""Name of the array in an unfinished result that says which components are done."""
DIGEST = "digest"
"""Root attribute: digest of a NetCDF file's bytes, or of a Zarr result's metadata and the sizes of its chunks."""
CHUNKS_DIGEST = "chunks_digest"
"""Root attribute of a Zarr result: digest of the bytes of its chunks."""
DIGESTS = {DIGEST, CHUNKS_DIGEST}
MARK = "lorascope-blake3:"
"""Start of the value of `DIGEST`. A search finds it in a file's bytes, since HDF5 may crash on a damaged file."""


def verify_result(path: str | Path) -> tuple[Problem, ...]:
    """Compare every byte of a saved result (`.zarr` or `.nc`) with its digests, and return every Problem.

    Raises
    ------
    FileNotFoundError
        If there is no result at `path`.
    StoreError
        If its root attributes can't be read, or it was saved before results had digests.
    """
    path = Path(path)
    changed = is_changed(path)
    if not changed and _stored_digest(path) is None:
        raise StoreError(f"`{path}` was saved before results had digests; whether it was changed since can't be found")
    names = []
    if changed:
        names.append("metadata or sizes of files" if path.is_dir() else "bytes of the file")
    if path.is_dir() and _chunks_digest(path) != read_attributes(path).get(CHUNKS_DIGEST):
        names.append("chunks")
    return tuple(Problem(name, "digest", f"{name} aren't what was written: their digest differs") for name in names)


def add_digests(path: Path) -> None:
    """Write the digests of a result, which must be complete otherwise, into its root attributes."""
    file, mark = path, secrets.token_hex(32)  # occurs nowhere else
    value = MARK + mark
    if path.is_dir():
        file = path / "zarr.json"
        document = json.loads(file.read_bytes())
        document["attributes"] |= {CHUNKS_DIGEST: _chunks_digest(path), DIGEST: value}
        with atomic_write(file) as partial:
            partial.write_text(json.dumps(document, indent=2))
    else:
        import netCDF4  # a tenth of a second

        with netCDF4.Dataset(path, "a") as dataset:
            dataset.setncattr_string(DIGEST, value)  # HDF5 has no checksum of such texts: it can be replaced in place
    digest = _digest(path, mark)
    with file.open("r+b") as opened:  # not written through a map: some disks have none, and a full one ends the process
        with mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
            opened.seek(content.find(mark.encode()))
        opened.write(digest.encode())


def read_attributes(path: Path) -> Mapping[str, Any]:
    """Return the root attributes of a saved result; raises StoreError if they can't be read."""
    if path.suffix == ".nc":
        import netCDF4

        try:
            with netCDF4.Dataset(path) as dataset:
                return {name: dataset.getncattr(name) for name in dataset.ncattrs()}
        except FileNotFoundError:
            raise
        except (OSError, RuntimeError, AttributeError, ValueError) as error:  # which one depends on the damage
            raise StoreError(f"`{path}` isn't readable NetCDF ({error}); compute it again") from error
    document = read_json(path / "zarr.json")
    attributes = document.get("attributes") if isinstance(document, dict) else None
    if not isinstance(attributes, dict):
        raise StoreError(f"`{path}` isn't a result: its 'zarr.json' has no attributes")
    return attributes


def is_changed(path: Path) -> bool:
    """Return whether a result that was saved with digests has lost that of `DIGEST`, or it is wrong."""
    if (stored := _stored_digest(path)) is not None:
        return _digest(path, stored) != stored
    if not DIGESTS.isdisjoint(read_attributes(path)):
        return True
    # Older results have no checksums, and xarray drops the root's attributes where it appends.
    nodes = (file for _, file in _files(path) if path.is_dir() and file.name == "zarr.json")
    return any(b'"crc32c"' in file.read_bytes() for file in nodes)


def _stored_digest(path: Path) -> str | None:
    """Return the digest `DIGEST`, in hexadecimal, as found in the bytes of a result; None if it has no such mark."""
    with open_regular(path / "zarr.json" if path.is_dir() else path, at_most=sys.maxsize) as opened:
        if os.fstat(opened.fileno()).st_size == 0:
            return None
        with mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
            match = re.search(MARK.encode() + rb"([0-9a-f]{64})", content)
            return match[1].decode() if match else None


def _digest(path: Path, own: str) -> str:
    """Return the digest `DIGEST` of a result, in which the digest itself, `own`, counts as zeros."""
    parts = []
    for key, file in _files(path):
        n_bytes = file.stat().st_size
        if n_bytes == 0 or (path.is_dir() and file.name != "zarr.json"):  # an empty file can't be mapped
            parts.append((key, blake3(str(n_bytes).encode()).digest()))
            continue
        with open_regular(file, at_most=sys.maxsize) as opened:
            content = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
        with content, memoryview(content) as view:
            start = content.find(own.encode())
            digest = blake3(view[: max(start, 0)]).update(DIGEST_PLACEHOLDER.encode())
            parts.append((key, digest.update(view[start + len(own) if start >= 0 else 0 :]).digest()))
    return combine_digests(parts).hex()


def _chunks_digest(path: Path) -> str:
    """Return the digest of the bytes of all chunks of a Zarr result."""
    chunks = ((key, file) for key, file in _files(path) if file.name != "zarr.json")
    return combine_digests((key, blake3().update_mmap(file).digest()) for key, file in chunks).hex()


def _files(path: Path) -> Iterator[tuple[str, Path]]:
    """Yield (key, path) of every file of a result, except those that are deleted once it is finished."""
    if not path.is_dir():
        yield "", path
    for file in path.rglob("*"):
        key = file.relative_to(path).as_posix()
        # Files with a dot are an operating system's, or what an interrupted writer left.
        if file.is_file() and not file.name.startswith(".") and not key.startswith(f"{DONE}/"):
            yield key, file
