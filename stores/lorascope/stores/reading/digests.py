"""Digests of what a row, or all that is written once, is made of; those of a run's rows say what is committed."""

import hashlib
from collections.abc import Iterable

import numpy as np
from blake3 import blake3

from ..errors import StoreError
from ..format.stored_array import StoredArray
from ..places.place import Place
from ..threads import N_REQUESTS, in_order


def chunk_digest(version: int, *pieces: bytes | memoryview) -> bytes:
    """Digest of a chunk's bytes in a run of this format version: BLAKE3, in version 1 SHA-256."""
    digest = hashlib.sha256() if version == 1 else blake3()
    for piece in pieces:
        digest.update(piece)
    return digest.digest()


def combine(parts: Iterable[tuple[str, bytes]]) -> bytes:
    """SHA-256 over (key, digest of that chunk or file) pairs in ascending order of key: the digest of a row.

    Each pair enters as the key in UTF-8, a newline, the 32 bytes, a newline.
    """
    digest = hashlib.sha256()
    for key, part in sorted(parts):
        digest.update(key.encode() + b"\n" + part + b"\n")
    return digest.digest()


def read_digests(array: StoredArray, place: Place) -> np.ndarray:
    """Digests of all rows, uint8 (row, byte); all zero where a row isn't committed.

    Raises
    ------
    StoreError
        If the file of one is broken.
    """
    digests = np.zeros(array.shape, np.uint8)
    listed = map(_digest_row, place.keys(array.path))
    rows = [row for row in listed if row is not None and row < len(digests)]
    read = in_order(lambda row: _read_digest(array, place, row), rows, n_threads=N_REQUESTS if place.remote else 1)
    for row, digest in zip(rows, read, strict=True):
        digests[row] = digest
    return digests


def _digest_row(key: str) -> int | None:
    """Row of a digest's key; None for another file's."""
    name = key.rpartition("/")[2].split(".")
    return int(name[1]) if len(name) == 3 and name[1].isdecimal() else None


def _read_digest(array: StoredArray, place: Place, row: int) -> np.ndarray:
    key = array.key(row)
    try:
        return np.asarray(array.decode(row, place.read(key, at_most=array.max_bytes))[0])
    except FileNotFoundError:  # deleted since it was listed
        return np.zeros(array.shape[1], np.uint8)
    except (ValueError, RuntimeError) as error:
        message = f"digest {key!r} is broken ({error}); restore this file, or delete it to give row {row} up"
        raise StoreError(message) from error
