"""What a capture will hold in memory, on the device and on the host, part by part, and what is free there."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import nn

from lorascope.stores import RunSpec
from lorascope.stores.format.spec import DTYPES, ROW_TOKENS
from lorascope.stores.size import format_size

from ..buffers.copies import IN_FLIGHT_BYTES
from ..buffers.rows import queue_bytes_needed
from ..models.device import is_here
from ..recording.js import part_values
from ..samples.likelihood import part_logits
from .estimate import Estimate

__all__ = ["Need", "device_needs", "free_device_bytes", "free_host_bytes", "host_needs", "job_groups", "tensor_bytes"]

CGROUPS = Path("/sys/fs/cgroup")


class Need(NamedTuple):
    """Memory that one thing takes."""

    where: Literal["device", "host"]
    what: str
    n_bytes: int
    basis: str
    """What the number rests on."""


def tensor_bytes(model: nn.Module) -> dict[str, int]:
    """Bytes of a model's weights and buffers by type, shared ones once; on the meta device too."""
    tensors = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    sizes: Counter[str] = Counter()
    for tensor in tensors.values():
        sizes[str(tensor.dtype).removeprefix("torch.")] += tensor.numel() * tensor.element_size()
    return dict(sizes)


def device_needs(weights: Mapping[str, int], spec: RunSpec, *, batch_tokens: int, vocabulary: int) -> list[Need]:
    """What the device holds while the largest batch passes.

    Parameters
    ----------
    weights
        Bytes of the adapted model by type.
    spec
        What the run holds.
    batch_tokens
        Tokens of the largest batch, padding included.
    vocabulary
        Logits of a token.

    Notes
    -----
    Kernels' own workspaces, the allocator's slack and what CUDA itself takes (about half a gigabyte) aren't counted.
    """
    itemsize = max(DTYPES[c.dtype][0].itemsize for c in spec.components)
    states = batch_tokens * sum(c.d_out * DTYPES[c.dtype][0].itemsize for c in spec.components)
    by_layer: dict[int, int] = defaultdict(int)
    for component in spec.components:
        by_layer[component.layer] += component.d_out
    widest = max(component.d_out for component in spec.components)
    n_widths = len({(component.d_out, component.dtype) for component in spec.components})
    # js takes base and delta, the swallowed share output too, and the proof the sizes of delta's terms besides.
    n_values = min(
        n_widths * part_values(torch.device("cuda")),
        batch_tokens * sum(component.d_out for component in spec.components),
    )
    waiting = n_values * (6 * itemsize + 16)
    n_logits = batch_tokens * vocabulary * (2 if spec.stream == "pair" or spec.kl else 1)
    n_widest = batch_tokens * widest
    # A dozen float64 temporaries of a part (`recording.js`).
    measuring = n_widest * (itemsize + 8) + min(n_widest, part_values(torch.device("cuda"))) * 12 * 8
    # nll takes float32 and the log softmax; KL float64, with the log softmax, of both sides, and a product.
    softmax = min(batch_tokens * vocabulary, part_logits(torch.device("cuda"))) * (40 if spec.kl else 8)
    needs = [Need("device", f"weights in {dtype}", size, "exact") for dtype, size in sorted(weights.items())]
    needs += [
        Need("device", "activations", batch_tokens * itemsize * max(by_layer.values()), "all outputs of one layer"),
        Need("device", "logits", n_logits * itemsize, "of every token of a batch"),
        Need("device", "softmax of logits", softmax, "a part of them at a time"),
        Need("device", "measuring js", measuring, "base and delta of the widest layer, a part of it in float64"),
        Need("device", "waiting to be measured", waiting, f"outputs of {n_widths} widths, a part of each"),
    ]
    if spec.states != "none":
        ranks = sum(rank for a in spec.adapters for rank, has in zip(a.rank, a.factored, strict=True) if has)
        needs.append(Need("device", "factors", batch_tokens * ranks * 3 * 4, "of all layers, and copies on their way"))
        in_flight = min(states, IN_FLIGHT_BYTES)
        needs.append(Need("device", "copies under way", in_flight, "states of a batch, within the limit"))
    if spec.stream == "pair":
        needs.append(Need("device", "base of a pair", states, "held until the adapted pass"))
    return needs


def host_needs(
    estimated: Estimate, spans: Sequence[range], *, queue_bytes: int | None, n_threads: int, pinned: bool = False
) -> list[Need]:
    """What the host holds beside a model: rows on their way to the store, and what encodes them.

    Parameters
    ----------
    estimated
        What the run takes.
    spans
        Rows that each batch reaches into (`row_spans`).
    queue_bytes
        Most bytes of rows that are held; None for what suits.
    n_threads
        Threads that encode chunks.
    pinned
        Whether rows are page-locked, as they are for a GPU.

    Raises
    ------
    ValueError
        If `queue_bytes` is less than one batch needs.
    """
    held = queue_bytes_needed(estimated.row_sizes(pinned=pinned), spans, queue_bytes)
    chunk = estimated.largest_chunk_bytes
    return [
        Need("host", "row buffers", held, f"rows of {ROW_TOKENS} tokens, {format_size(estimated.row_bytes)} each"),
        Need("host", "encoding", n_threads * 2 * chunk, f"a chunk and what becomes of it, in {n_threads} threads"),
    ]


def free_device_bytes(device: torch.device) -> int | None:
    """Free memory of a GPU, of the host for a CPU; None where nobody says, as on a machine without this GPU."""
    if device.type == "cpu":
        return free_host_bytes()
    if device.type == "cuda" and is_here(device):
        return int(torch.cuda.mem_get_info(device)[0])
    return None


def free_host_bytes(meminfo: Path = Path("/proc/meminfo"), groups: Sequence[Path] | None = None) -> int | None:
    """Memory that this process may still take; None where the system doesn't say (Linux alone does).

    Parameters
    ----------
    meminfo
        The kernel's account of the machine.
    groups
        Folders of the control groups whose limits hold; None for this process's own.
    """
    found = []
    if meminfo.is_file():
        lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        found.append(int(lines["MemAvailable"].split()[0]) * 1024)
    for group in job_groups() if groups is None else groups:
        limit, used = group / "memory.max", group / "memory.current"
        if limit.is_file() and limit.read_text().strip() != "max":
            found.append(max(int(limit.read_text()) - int(used.read_text()), 0))
    return min(found, default=None)


def job_groups(cgroup: Path = Path("/proc/self/cgroup"), root: Path = CGROUPS) -> tuple[Path, ...]:
    """Folders of this process's control group and those above it, which limit a container or a job (version 2)."""
    lines = cgroup.read_text().splitlines() if cgroup.is_file() else []
    names = [line.removeprefix("0::") for line in lines if line.startswith("0::")]
    own = root / names[0].strip("/") if names else root
    return tuple(folder for folder in (own, *own.parents) if folder.is_relative_to(root))
