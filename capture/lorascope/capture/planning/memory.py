"""Memory that a capture needs on the device, and memory that is free on device and host.

js and KL are divergences that a capture measures: of base and base + delta, and of next-token predictions.
"""

import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from peft.tuners.lora.layer import ParamWrapper

from lorascope.stores import RunSpec
from lorascope.stores.format.spec import DTYPES

from ..buffers.copies import IN_FLIGHT_BYTES
from ..models.components import LoraComponent
from ..models.device import is_present
from ..recording.expert_sums import MEASURED_VALUES
from ..recording.reduce import values_per_part
from ..samples.scoring import logits_per_part

CGROUPS = Path("/sys/fs/cgroup")
"""Folder in which Linux states the limits of a container or job."""
KERNEL_BYTES = 24
"""Bytes of the kernel's measures per token and component: six float32 values, kept until the batch is over."""


def device_bytes_needed(
    spec: RunSpec,
    *,
    weights: dict[str, int],
    shards: dict[str, int],
    batch_tokens: int,
    vocabulary: int,
    has_kernel: bool,
) -> dict[str, int]:
    """Return part (weights, logits ...) -> bytes that the device needs while the largest batch passes the model.

    `weights` are the parts that hold weights; `shards` has path -> number of ranks that share a layer's features. The
    batch has `batch_tokens` tokens, padding included, with `vocabulary` logits each.

    With `has_kernel`, the kernel measures, which keeps only its results (those of logits, a few bytes per token,
    aren't counted); else the float64 functions do. Kernels' own workspaces, the allocator's slack and what CUDA itself
    takes (about half a gigabyte) aren't counted.
    """
    itemsize = max(DTYPES[c.dtype][0].itemsize for c in spec.components)
    states = batch_tokens * sum(c.d_out * DTYPES[c.dtype][0].itemsize for c in spec.components)
    own = [dataclasses.replace(c, d_out=c.d_out // shards.get(c.path, 1)) for c in spec.components]
    spec = dataclasses.replace(spec, components=tuple(own))
    by_layer: dict[int, int] = defaultdict(int)
    for component in spec.components:
        by_layer[component.layer] += component.d_out
    n_logits = batch_tokens * vocabulary
    has_kl = spec.kl or spec.ablate is not None
    # Changes take float64: the logs of both softmax, their ratio, a product and the cumulated sum.
    softmax = min(n_logits, logits_per_part(torch.device("cuda"))) * 40 if spec.n_vocabulary else 0
    measuring = batch_tokens * len(spec.components) * len(spec.adapters) * KERNEL_BYTES
    if in_shards := [component.d_out for component in spec.components if component.path in shards]:
        measuring += _float64_bytes(batch_tokens * max(in_shards), itemsize)  # without the kernel
    if not has_kernel:
        softmax, measuring = _float64_needs(spec, batch_tokens, n_logits, itemsize)
    n_copies = (2 if spec.stream == "pair" or has_kl else 1) + bool(shards)  # another while they are gathered
    needs = {
        **weights,
        "outputs of a layer": batch_tokens * itemsize * max(by_layer.values()),
        "logits": n_logits * itemsize * n_copies + softmax,
        "measuring js": measuring,
    }
    if spec.states != "none":
        ranks = sum(rank for a in spec.adapters for rank, has in zip(a.rank, a.factored, strict=True) if has)
        needs["states under way"] = min(states, IN_FLIGHT_BYTES) + batch_tokens * ranks * 3 * 4  # factors, and copies
    if any(adapter.importance for adapter in spec.adapters):
        widths: dict[int, list[int]] = defaultdict(list)
        for component in spec.components:
            widths[component.layer] += [component.d_in, component.d_out]
        # What enters each layer, the graph of one, and the gradient by the logits.
        graph = sum(map(min, widths.values())) + max(map(sum, widths.values()))
        needs["gradients"] = itemsize * (batch_tokens * graph + n_logits)
    if any(adapter.n_variants for adapter in spec.adapters):
        pairs = [(a, r * c.d_out) for a in spec.adapters for r, c in zip(a.rank, spec.components, strict=True)]
        needs["null adapters"] = sum(4 * adapter.n_variants * size for adapter, size in pairs)
    if spec.stream == "pair":
        needs["base of a pair"] = states
    return needs


def expert_bytes(components: Iterable[LoraComponent], n_choices: int, batch_tokens: int) -> dict[str, int]:
    """Return part -> bytes that a device needs for experts that an adapter changes; {} without any.

    PEFT writes the weights of all experts of a block with the adapter while the block runs, and capture computes the
    outputs of single experts, `n_choices` for each token.
    """
    merged, values = 0, 0
    for component in (component for component in components if component.block is not None):
        wrappers: list[Any] = [module for module in component.block.modules() if isinstance(module, ParamWrapper)]
        merged = max(merged, sum(wrapper.get_param().nbytes for wrapper in wrappers))
        values = max(values, min(MEASURED_VALUES, batch_tokens * n_choices * component.d_out))
    # Output and both deltas, their copies in order, and base.
    return {"merged experts": merged, "experts one by one": 8 * 4 * values} if merged else {}


def _float64_needs(spec: RunSpec, batch_tokens: int, n_logits: int, itemsize: int) -> tuple[int, int]:
    """Return the bytes that js and KL take in float64, if no kernel measures: (for logits, for components)."""
    cuda = torch.device("cuda")
    # nll takes float32 and its log softmax; KL takes float64 and its log softmax for both sides, and a product.
    softmax = min(n_logits, logits_per_part(cuda)) * (40 if spec.kl or spec.ablate else 8)
    n_widest = batch_tokens * max(component.d_out for component in spec.components)
    n_widths = len({(component.d_out, component.dtype) for component in spec.components})
    n_waiting = min(
        n_widths * values_per_part(cuda), batch_tokens * sum(component.d_out for component in spec.components)
    )
    # The layer's output and the sizes of delta's terms are gathered too.
    return softmax, _float64_bytes(n_widest, itemsize) + n_waiting * (6 * itemsize + 16)


def _float64_bytes(n_values: int, itemsize: int) -> int:
    """Return the bytes that js takes on a layer: base, delta, and a dozen float64 temporaries of a part of them."""
    return n_values * (itemsize + 8) + min(n_values, values_per_part(torch.device("cuda"))) * 12 * 8


def free_device_bytes(device: torch.device) -> int | None:
    """Return the free bytes of a GPU, or of the host for a CPU; None if unknown, as without this GPU."""
    if device.type == "cpu":
        return free_host_bytes()
    if device.type == "cuda" and is_present(device):
        return int(torch.cuda.mem_get_info(device)[0])
    return None


def free_host_bytes(meminfo: Path = Path("/proc/meminfo"), groups: Sequence[Path] | None = None) -> int | None:
    """Return the bytes of memory that this process may still take, by its control groups; None except on Linux.

    `groups` replace the process's own control groups.
    """
    limits = []
    if meminfo.is_file():
        lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        limits.append(int(lines["MemAvailable"].split()[0]) * 1024)
    for group in job_groups() if groups is None else groups:
        limit, used = group / "memory.max", group / "memory.current"
        if limit.is_file() and limit.read_text().strip() != "max":
            limits.append(max(int(limit.read_text()) - int(used.read_text()), 0))
    return min(limits, default=None)


def job_groups(cgroup: Path = Path("/proc/self/cgroup"), root: Path = CGROUPS) -> tuple[Path, ...]:
    """Return the folders of this process's control group (version 2) and its parents, which state memory limits."""
    lines = cgroup.read_text().splitlines() if cgroup.is_file() else []
    names = [line.removeprefix("0::") for line in lines if line.startswith("0::")]
    own = root / names[0].strip("/") if names else root
    return tuple(folder for folder in (own, *own.parents) if folder.is_relative_to(root))
