"""Processes that hold one model together, by tensor parallel or FSDP2: weights of each, and bytes between them."""

import re
from collections import defaultdict
from collections.abc import Mapping
from heapq import nlargest
from typing import Any

from torch import nn
from transformers.distributed.parallel_utils import replace_layer_number_by_wildcard

from lorascope.stores.format.spec import DTYPES, ROW_TOKENS

from ..config import CaptureConfig
from ..models.tensor_plan import COLUMNS, EMBEDDING, ROWS, split_axis, split_layers
from ..models.weights import plain_model
from ..recording.layout import Layout
from ..recording.partial_sums import NORMALISERS, SUMS


def shards(model: nn.Module, tensor_parallel: int) -> dict[str, int]:
    """Return path -> number of processes that have some output features each, of the layers that are split so."""
    columns = [path for path, style, _ in split_layers(model) if style == "colwise"]
    return dict.fromkeys(columns if tensor_parallel > 1 else [], tensor_parallel)


def weight_bytes(model: nn.Module, tensor_parallel: int, *, fully_shard: bool, processes: int) -> dict[str, int]:
    """Return part -> bytes of weights in the first process, which holds the most; shared weights count once.

    FSDP2, which also joins groups of tensor parallel, puts weights together to compute: counted are its two largest
    units, as the next one arrives during the pass of one, and those that stay together, such as the head. Adapters
    aren't sharded by it: PEFT attaches them later.
    """
    base: Any = plain_model(model)
    styles = {path: style for path, style, _ in split_layers(base)}
    own = {}
    for path, weight in base.named_parameters():
        owner = re.fullmatch(r"(.+?)\.(?:base_layer\.)?(lora_.+|[^.]+)", path)
        assert owner is not None, path
        axis = split_axis(styles.get(owner[1]), owner[2], weight.ndim)
        if fully_shard:
            axis = None if owner[2].startswith("lora_") else 0
        n_parts = 1 if axis is None else processes if fully_shard else tensor_parallel
        length = (*weight.shape, 1)[axis or 0]
        own[id(weight)] = weight.nbytes // length * -(-length // n_parts)
    parts = {"weights": sum(own.values()) + sum(buffer.nbytes for buffer in base.buffers())}
    if processes > tensor_parallel:
        units = _fsdp_units(base, {} if fully_shard else own)
        parts["weights put together"] = sum(nlargest(2, units["free_full_weight"])) + sum(units["keep_full_weight"])
    return parts


def _fsdp_units(base: Any, sizes: Mapping[int, int]) -> dict[str, list[int]]:
    """Return style -> bytes of each unit that FSDP2 puts together: `free_full_weight`, `keep_full_weight` afterwards.

    `sizes` has id of a weight -> its bytes, if it isn't put together whole.
    """
    units: dict[str, list[int]] = defaultdict(list)
    for path, module in base.named_modules():
        if style := base.fsdp_plan.get(replace_layer_number_by_wildcard(path)):
            weights = [weight for name, weight in module.named_parameters() if ".lora_" not in name]
            units[style].append(sum(sizes.get(id(weight), weight.nbytes) for weight in weights))
    return units


def link_bytes(
    model: nn.Module, layout: Layout, config: CaptureConfig, *, processes: int, n_passed: int
) -> dict[str, int]:
    """Return exchange -> bytes that a process receives from others during the passes of a capture, {} if it is alone.

    Of tensor parallel it is one that writes, which receives the most. `n_passed` tokens pass the model, padding
    included. Passes for scores, changes and ablations aren't counted.
    """
    base: Any = plain_model(model)
    spec, n = layout.spec, config.tensor_parallel
    n_passes = 2 if spec.stream == "pair" else 1
    if config.fully_shard:
        units = _fsdp_units(base, {})
        repeated = n_passes * -(-len(layout.batches) // processes) * sum(units["free_full_weight"])
        return {"weights put together": (repeated + sum(units["keep_full_weight"])) * (processes - 1) // processes}
    if n == 1:
        return {}
    summed = gathered = factors = 0  # bytes of a token; factors are summed in the pass with the adapter alone
    for _, style, module in split_layers(base):
        if style == EMBEDDING:
            summed += next(module.parameters()).shape[-1] * base.dtype.itemsize  # PEFT may have wrapped it
        elif style in ROWS:
            summed += module.out_features * base.dtype.itemsize
        elif style in COLUMNS - {"colwise"}:
            gathered += module.out_features * base.dtype.itemsize
        if style == "rowwise":
            factors += sum(a.weight.shape[0] * a.weight.itemsize for a in getattr(module, "lora_A", {}).values())
    split = shards(base, n)
    columns = [component for component in spec.components if component.path in split]
    base_bytes = sum(component.d_out * DTYPES[component.dtype][0].itemsize for component in columns)
    n_kept = {"all": spec.n_tokens, "none": 0}.get(spec.states, ROW_TOKENS * sum(spec.state_rows))
    n_measured = int(layout.plan.measured.sum()) if spec.states == "all" else spec.n_tokens
    part, ring = (n - 1) / n, 2 * (n - 1) / n  # of a value that is gathered, or summed in a ring
    measures = len(columns) * len(spec.adapters) * 8 * ((n - 1) * NORMALISERS + ring * SUMS)
    received = {
        "sums of the model": ring * (n_passes * summed + factors) * n_passed,
        "outputs gathered by the model": n_passes * part * gathered * n_passed,
        "base gathered to be stored": n_passes * part * base_bytes * n_kept,
        "sums that measure": n_passes * measures * n_measured,
    }
    return {what: round(size * n / processes) for what, size in received.items()}  # groups of n take other batches
