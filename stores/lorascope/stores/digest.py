"""Checksums of what lies on disk, and the flushes that make a commit last."""

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

__all__ = ["combine", "flush_directory", "hash_file", "replace_file"]


def hash_file(path: Path, *, flush: bool = False) -> bytes:
    """SHA-256 of a file's bytes; with `flush` the file is on the disk itself when this returns."""
    with open(path, "rb") as file:
        if flush:
            os.fsync(file.fileno())
        return hashlib.file_digest(file, "sha256").digest()


def combine(parts: Iterable[tuple[str, bytes]]) -> bytes:
    """SHA-256 over (key, SHA-256 of that chunk) pairs in ascending order of key: the digest of a row.

    Each pair enters as the key in UTF-8, a newline, the 32 bytes, a newline.
    """
    digest = hashlib.sha256()
    for key, part in sorted(parts):
        digest.update(key.encode() + b"\n" + part + b"\n")
    return digest.digest()


def flush_directory(path: Path) -> None:
    """Make the names in a folder last: a rename alone may be lost with the power."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_file(path: Path, content: bytes) -> None:
    """Put new content in a file's place; whatever interrupts it, the file holds the old or the new, whole."""
    # Zarr renames too, but doesn't flush before: a power loss could leave the new name on an empty file.
    partial = path.with_name(f".{path.name}.partial")
    with open(partial, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    flush_directory(path.parent)
