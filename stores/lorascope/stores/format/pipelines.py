"""How an array is encoded, to the last setting; that it is by codecs of the format is known once a run is open."""

from collections.abc import Iterator
from typing import Any

from zarr.core.metadata import ArrayV3Metadata

from ..errors import Problem
from .codec import BLOCK_BYTES

__all__ = ["is_raw", "settings_problems"]


def settings_problems(path: str, metadata: ArrayV3Metadata) -> Iterator[Problem]:
    """Settings of an array's codecs that aren't the format's."""
    wanted = _settings(metadata)
    for codec in _inner(metadata):
        found = dict(codec.get("configuration") or {})
        if found != wanted.get(codec["name"], {}):
            message = (
                f"codec {codec['name']!r} of {path!r} has the settings {found}; they must be {wanted[codec['name']]}"
            )
            yield Problem(path, "codec", message)


def is_raw(metadata: ArrayV3Metadata) -> bool:
    """Whether an array's chunks are only checksummed, not compressed."""
    return all(codec["name"] != "blosc" for codec in _inner(metadata))


def _inner(metadata: ArrayV3Metadata) -> list[Any]:
    """Codecs of a chunk, within its shard where there are shards."""
    codecs: list[Any] = [codec.to_dict() for codec in metadata.codecs]
    return list(codecs[0]["configuration"]["codecs"]) if codecs[0]["name"] == "sharding_indexed" else codecs


def _settings(metadata: ArrayV3Metadata) -> dict[str, dict[str, Any]]:
    dtype = metadata.data_type.to_native_dtype()
    itemsize = 1 if dtype.kind == "T" else dtype.itemsize
    blosc = {
        "typesize": itemsize,
        "cname": "zstd",
        "clevel": 1,
        "shuffle": "shuffle" if itemsize > 1 else "noshuffle",
        "blocksize": BLOCK_BYTES,
    }
    return {"bytes": {"endian": "little"} if itemsize > 1 else {}, "blosc": blosc, "vlen-utf8": {}, "crc32c": {}}
