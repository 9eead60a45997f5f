"""Parts of a run's provenance: library versions, the device, and the fingerprint of data."""

import hashlib
import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lorascope.stores.format.digests import canonical_json

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


def library_versions() -> dict[str, str]:
    """Version of Python and of each library that shapes captured numbers; `absent` for one that isn't installed."""
    return {"python": platform.python_version(), **{name: _version(name) for name in LIBRARIES}}


def device_description(device: str | torch.device) -> dict[str, Any]:
    """Kind and name of a CPU or CUDA device, and the torch settings that decide its rounding."""
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
    """SHA-256, in hexadecimal, over every sample's names, tokens, roles, choices and targets, in order."""
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
    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"


def _cpu_name(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Model name of the CPU; only Linux has it in a file."""
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            key, _, name = line.partition(":")
            if key.strip() == "model name":
                return name.strip()
    return platform.processor() or platform.machine()
