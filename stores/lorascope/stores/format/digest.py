"""Checksums of what a row, or all that is written once, is made of."""

import hashlib
from collections.abc import Iterable

__all__ = ["combine"]


def combine(parts: Iterable[tuple[str, bytes]]) -> bytes:
    """SHA-256 over (key, SHA-256 of that chunk) pairs in ascending order of key: the digest of a row.

    Each pair enters as the key in UTF-8, a newline, the 32 bytes, a newline.
    """
    digest = hashlib.sha256()
    for key, part in sorted(parts):
        digest.update(key.encode() + b"\n" + part + b"\n")
    return digest.digest()
