"""Models that several processes hold together: how tensor parallel splits each layer, and which models it can split.

Column layers are split by output features, so that a rank (a process) computes a part of their output; row layers by
input features, so that the ranks' outputs are summed. The plan is transformers' own, and PEFT follows it.
"""

from collections.abc import Iterator
from itertools import chain
from typing import Any

from torch import nn
from transformers.distributed.parallel_utils import replace_layer_number_by_wildcard
from transformers.distributed.tensor_parallel import get_kv_heads_per_rank

from .weights import plain_model

COLUMNS = frozenset({"colwise", "colwise_rep", "colwise_gather_output"})
"""Styles of column layers; the output of `colwise` stays in shards, those of the others are gathered on all ranks."""
ROWS = frozenset({"rowwise", "rowwise_rep", "rowwise_split_input"})
"""Styles of row layers."""
EMBEDDING = "embedding_rowwise"
"""Style of an embedding that is split by tokens, whose ranks' outputs are summed."""
_STYLES = COLUMNS | ROWS | {EMBEDDING, "replicate", "replicated_with_grad_allreduce"}
"""Styles of layers that can be captured; those of experts and of latent attention can't."""


def split_layers(model: nn.Module) -> Iterator[tuple[str, str, Any]]:
    """Yield (module path, style, module) for each layer that the plan of a model, plain or with adapters, names."""
    base: Any = plain_model(model)
    for path, module in base.named_modules():
        if style := base.tp_plan.get(replace_layer_number_by_wildcard(path)):
            yield path, style, module


def split_axis(style: str | None, weight: str, n_axes: int) -> int | None:
    """Return the axis along which a layer's `weight`, such as `lora_B.default.weight`, is split; None if it is whole.

    `style` is the layer's style in the plan. lora_B is split where the layer's output stays in shards, lora_A where its
    input comes in shards.
    """
    if weight.startswith("lora_"):
        if style == "colwise" and weight.startswith("lora_B."):
            return 0
        return 1 if style == "rowwise" and weight.startswith("lora_A.") else None
    if style in COLUMNS or style == EMBEDDING:
        return 0
    return n_axes - 1 if style in ROWS and n_axes > 1 else None  # every rank holds a row layer's bias


def require_shardable(model: nn.Module, *, tensor_parallel: int, fully_shard: bool) -> None:
    """Raise ValueError if a model, which may be on the meta device, can't be spread over processes by these settings.

    Quantised weights can't be. Tensor parallel needs transformers' plan for this kind of model, and has to divide its
    heads, its key-value heads and the features of the layers that it splits.
    """
    if tensor_parallel == 1 and not fully_shard:
        return
    base: Any = plain_model(model)
    kind, plan, n = type(base).__name__, base.tp_plan, tensor_parallel
    setting = f"`tensor_parallel` is {n}" if n > 1 else "`fully_shard` is True"
    if getattr(base.config, "quantization_config", None) is not None:
        raise ValueError(f"{setting}, but the model's weights are quantised; take one whose weights aren't")
    if n == 1:
        return
    ways = "leave it out, and spread the model by `fully_shard` or `device_map`"
    if not plan:
        raise ValueError(f"{setting}, but transformers has no plan of how to split a {kind}; {ways}")
    for path, part in chain(base.named_modules(), base.named_parameters()):
        rule = replace_layer_number_by_wildcard(path)
        if plan.get(rule, EMBEDDING) not in _STYLES:
            ways += " (by `device_map` alone where the adapter is on experts)" if "experts" in rule else ""
            raise ValueError(f"{setting}, but the plan for a {kind} splits `{rule}` by {plan[rule]!r}; {ways}")
        if path.endswith("_norm.weight") and part.ndim > 1:  # as of Cohere's `use_qk_norm`
            raise ValueError(f"{setting}, but the plan for a {kind} doesn't split `{rule}`, of all heads; {ways}")
    if uneven := next(_uneven_sizes(base, n), None):
        what, size = uneven
        raise ValueError(f"{setting}, which doesn't divide {what} of this {kind}, {size}; give a divisor, or {ways}")


def _uneven_sizes(base: Any, n: int) -> Iterator[tuple[str, Any]]:
    """Yield (name, size) of each size of a model that tensor parallel divides, and that `n` doesn't divide."""
    config = base.config.get_text_config()
    for name in ("num_attention_heads", "num_key_value_heads"):
        heads = getattr(config, name, None)
        if heads and get_kv_heads_per_rank(base.tp_plan, heads, n) is None:  # where heads are split at all
            yield f"`{name}`", heads
    for path, style, module in split_layers(base):
        features = {"colwise": "out_features", "rowwise": "in_features"}.get(style)
        layer = getattr(module, "base_layer", module)  # a wrapper of PEFT's has the features of a part
        if features and getattr(layer, features) % n:
            yield f"`{features}` of `{path}`", getattr(layer, features)
