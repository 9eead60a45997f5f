"""Digests of chunks, of rows and of the root's metadata, and the fingerprint of what shaped a run's numbers."""

import hashlib
import json
import secrets
from collections.abc import Iterable, Mapping
from typing import Any

from blake3 import blake3

FREE_SETTINGS = frozenset(
    {
        *("model", "adapter", "data", "prompt", "examples"),  # their paths may differ: their hashes are compared
        *("share", "shared_layers", "share_from"),  # their result is part of the model's identity
        *("out", "device", "device_map", "queue", "overfill", "budget", "trust_remote_code"),
        *("tensor_parallel", "fully_shard"),
        *("measure_overhead", "unembedding", "importance", "null_adapters", "changes"),
    }
)
"""Settings of a capture that don't affect its numbers."""
DECISIVE_LIBRARIES = ("torch", "transformers", "peft", "tokenizers")
"""Libraries whose version may affect the numbers."""
UNCOMPARED_ENTRIES = frozenset({"source", "lorascope", "time"})
"""Entries of a copying step about where and when it happened."""
DIGEST_PLACEHOLDER = "0" * 64
"""Text in place of the root's digest while that digest is computed."""


def canonical_json(value: Any) -> bytes:
    """Return a value as bytes of canonical JSON (sorted keys, no spaces); raises ValueError for NaN and infinity."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode()


def fingerprint(values: Mapping[str, Any]) -> str:
    """Return the SHA-256, in hexadecimal, of values as canonical JSON; raises ValueError for NaN and infinity."""
    return hashlib.sha256(canonical_json(values)).hexdigest()


def run_fingerprint(provenance: Any) -> str:
    """Return a run's fingerprint, in hexadecimal: a hash of the parts of its provenance that affect its numbers.

    Raises
    ------
    ValueError
        If a number in it is NaN or infinite.
    """
    pulls = [step for step in copying_steps(provenance) if step.get("how") == "pull"]
    return fingerprint(step_identity(pulls[-1]) if pulls else provenance_identity(provenance))


def copying_steps(provenance: Any) -> list[Mapping[str, Any]]:
    """Return the records of copying in a run's provenance, oldest first; empty for a run that was captured."""
    steps = _mapping_or_empty(provenance).get("copied")
    return [_mapping_or_empty(step) for step in steps] if isinstance(steps, list) else []


def with_fingerprint(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return root attributes with the fingerprint of their provenance added, unless they have no provenance."""
    added = {"fingerprint": run_fingerprint(attributes["provenance"])} if "provenance" in attributes else {}
    return {**attributes, **added}


def step_identity(step: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries of a record of copying that decide what was copied, without source, time and version."""
    return {key: value for key, value in step.items() if key not in UNCOMPARED_ENTRIES}


def provenance_identity(provenance: Any) -> dict[str, Any]:
    """Return the entries of a run's provenance that affect its numbers: equal for two attempts at one capture.

    Names and paths of files are excluded, since their content is hashed; so are times, the number of threads and the
    device's name (not its type), since another node may resume a run.
    """
    whole = _mapping_or_empty(provenance)
    libraries = _mapping_or_empty(whole.get("libraries"))
    return {
        **{key: whole.get(key) for key in ("adapters", "tokenizer", "data", "prompt", "js_share")},
        "model": {key: value for key, value in _mapping_or_empty(whole.get("model")).items() if key != "name"},
        "settings": {
            k: value for k, value in _mapping_or_empty(whole.get("settings")).items() if k not in FREE_SETTINGS
        },
        "libraries": {name: libraries.get(name) for name in DECISIVE_LIBRARIES},
        "device": _mapping_or_empty(whole.get("device")).get("type"),
    }


def _mapping_or_empty(value: Any) -> Mapping[str, Any]:
    """Return the value if it is a mapping, else an empty mapping."""
    return value if isinstance(value, Mapping) else {}


def with_root_digest(document: Mapping[str, Any]) -> bytes:
    """Return the bytes of a run's root `zarr.json`, on one line, with a `root_digest` of all its bytes added."""
    mark = secrets.token_hex(32)  # occurs nowhere else
    content = json.dumps({**document, "attributes": {**document["attributes"], "root_digest": mark}})
    digest = hashlib.sha256(content.replace(mark, DIGEST_PLACEHOLDER).encode()).hexdigest()
    return content.replace(mark, digest).encode()


def is_root_digest_right(content: bytes, root_digest: Any) -> bool:
    """Return whether the bytes of a root `zarr.json` still have the hash that is its `root_digest`."""
    if not isinstance(root_digest, str) or content.count(root_digest.encode()) != 1:
        return False
    return hashlib.sha256(content.replace(root_digest.encode(), DIGEST_PLACEHOLDER.encode())).hexdigest() == root_digest


def chunk_digest(version: int, *pieces: bytes | memoryview) -> bytes:
    """Return the 32-byte hash of a chunk's bytes: BLAKE3, or SHA-256 in a run of format version 1."""
    digest = hashlib.sha256() if version == 1 else blake3()
    for piece in pieces:
        digest.update(piece)
    return digest.digest()


def combine_row_digests(digests: Mapping[int, bytes]) -> str:
    """Return the digest, in hexadecimal, of the digests of some rows, given by their indices."""
    return combine_digests((f"{row:012d}", digest) for row, digest in digests.items()).hex()


def combine_digests(parts: Iterable[tuple[str, bytes]]) -> bytes:
    """Return the SHA-256 over (key, digest) pairs sorted by key, such as a row's digest from those of its chunks.

    Each pair contributes the key in UTF-8, a newline, the 32 bytes, and a newline.
    """
    digest = hashlib.sha256()
    for key, part in sorted(parts):
        digest.update(key.encode() + b"\n" + part + b"\n")
    return digest.digest()
