"""One whole chunk: its bytes read once from wherever the run lies, their digest, and the numbers in them."""

from hashlib import sha256
from typing import NamedTuple

import numpy as np

from ..errors import Problem
from ..format.stored_array import StoredArray
from ..places.place import Place

__all__ = ["Chunk", "read_chunk"]


class Chunk(NamedTuple):
    """One chunk as it was found."""

    key: str
    part: bytes | None
    """SHA-256 of its bytes; None where there are none."""
    block: np.ndarray | None = None
    """Its entries, as stored; None where they weren't asked for or can't be decoded."""
    problem: Problem | None = None


def read_chunk(place: Place, array: StoredArray, index: int, *, decode: bool) -> Chunk:
    """A chunk along the first axis of an array, read once, hashed, and decoded from the bytes that were hashed."""
    key = array.key(index)
    try:
        content = place.read(key)
    except FileNotFoundError:
        return Chunk(key, None, problem=Problem(key, "missing", f"chunk {key!r} is missing"))
    if not content:
        return Chunk(key, None, problem=Problem(key, "empty", f"chunk {key!r} is an empty file"))
    part = sha256(content).digest()
    if not decode:
        return Chunk(key, part)
    try:
        return Chunk(key, part, array.decode(index, content))
    except (ValueError, RuntimeError) as error:
        message = f"{key!r} can't be decoded: {type(error).__name__}: {error}"
        return Chunk(key, part, problem=Problem(key, "decode", message))
