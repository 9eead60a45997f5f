"""Parts of a run's provenance, and its comparison with the run or training that is to continue."""

import hashlib
import platform
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lorascope.stores import StoreError
from lorascope.stores.format.digests import DECISIVE_LIBRARIES, canonical_json

from ..samples.encoded import EncodedSample

LIBRARIES = (
    "torch",
    "transformers",
    "peft",
    "accelerate",
    "tokenizers",
    "safetensors",
    "gguf",
    "datasets",
    "numpy",
    "zarr",
    "numcodecs",
    "lorascope",
)
COMPARED = (
    "weights of model and adapters, tokenizer, data, prompts, settings that shape numbers, type of device, and "
    f"versions of {', '.join(DECISIVE_LIBRARIES)}"
)
"""Parts of a run's identity, as a phrase; see `lorascope.stores.format.digests`."""
SHOWN = 6
"""Largest number of differences that an error names; it counts the others."""
_ABSENT = object()


def library_versions() -> dict[str, str]:
    """Return name -> version of Python and of libraries that shape numbers; `absent` if one isn't installed."""
    return {"python": platform.python_version(), **{name: _version(name) for name in LIBRARIES}}


def device_description(device: str | torch.device) -> dict[str, Any]:
    """Return type and name of a CPU or GPU, and torch's settings that decide its rounding, as JSON values."""
    device = torch.device(device)
    backends: Any = torch.backends
    settings = {
        "type": device.type,
        "torch": torch.__version__,
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
        "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
    }
    if device.type == "cpu":
        return {
            **settings,
            "name": _cpu_name(),
            "threads": torch.get_num_threads(),
            "instructions": backends.cpu.get_cpu_capability(),
            "mkldnn": backends.mkldnn.is_available(),
        }
    if device.type == "cuda":
        return {
            **settings,
            "name": torch.cuda.get_device_name(device),
            "capability": ".".join(map(str, torch.cuda.get_device_capability(device))),
            "cuda": torch.version.cuda,
            "cudnn": backends.cudnn.version(),
            "tf32": backends.cuda.matmul.allow_tf32,
        }
    raise ValueError(f"`device` is {str(device)!r}; allowed are 'cpu', 'cuda' and 'cuda:0' ...")


def data_fingerprint(samples: Sequence[EncodedSample]) -> str:
    """Return the SHA-256, in hexadecimal, of all samples' names, tokens, roles, choices and targets, in order."""
    digest = hashlib.sha256()
    for sample in samples:
        names = [sample.id, sample.dataset, sample.split, sample.prompt, int(sample.answer), len(sample.token_ids)]
        choices = [[choice.text, [int(token) for token in choice.token_ids]] for choice in sample.choices]
        # A JSON line ends itself and holds the length of what follows, so no two data sets give the same bytes.
        # Targets that differ from what the roles say are written out, so that old data keep their fingerprints.
        targets = [] if sample.targets is None else [np.flatnonzero(sample.targets).tolist()]
        digest.update(canonical_json([*names, choices, *targets]) + b"\n")
        digest.update(np.ascontiguousarray(sample.token_ids, dtype="<i8").tobytes())
        digest.update(np.ascontiguousarray(sample.roles, dtype="u1").tobytes())
    return digest.hexdigest()


def _version(name: str) -> str:
    """Return the version of an installed library, or `absent`."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"


def _cpu_name(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Return the CPU's model name: from Linux's `cpuinfo` file if it exists, else from `platform`."""
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            key, _, name = line.partition(":")
            if key.strip() == "model name":
                return name.strip()
    return platform.processor() or platform.machine()


def require_same_identity(
    stored: Mapping[str, Any],
    expected: Mapping[str, Any],
    what: str,
    advice: str = "repeat the command that began it, or name a new folder",
) -> None:
    """Raise StoreError if two identities (JSON values) differ: `what`, then each difference, then `advice`.

    Raises
    ------
    StoreError
        If anything differs: it names each difference as `where: stored -> expected`.
    """
    differing = list(differences(stored, expected))
    if differing:
        more = f", and {len(differing) - SHOWN} more" if len(differing) > SHOWN else ""
        raise StoreError(f"{what}: {'; '.join(differing[:SHOWN])}{more}; {advice}")


def differences(stored: Any, expected: Any, where: str = "") -> Iterator[str]:
    """Yield each difference between two trees of JSON values as a text, `where: stored -> expected`."""
    if isinstance(stored, Mapping) and isinstance(expected, Mapping):
        for key in sorted({*stored, *expected}):
            path = f"{where}.{key}" if where else str(key)
            yield from differences(stored.get(key, _ABSENT), expected.get(key, _ABSENT), path)
    elif _as_json(stored) != _as_json(expected):
        yield f"{where}: {_format_value(stored)} -> {_format_value(expected)}"


def _as_json(value: Any) -> Any:
    """Return a value with every tuple replaced by a list, as JSON would give it back."""
    return [_as_json(item) for item in value] if isinstance(value, list | tuple) else value


def _format_value(value: Any) -> str:
    """Return a JSON value as text for a message, at most 40 characters; "nothing" if it is absent."""
    if value is _ABSENT:
        return "nothing"
    text = repr(_as_json(value))
    return text if len(text) <= 40 else f"{text[:36]}...{text[-1]}"
