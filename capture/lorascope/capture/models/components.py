"""Components of a run: the layers that an adapter changes, with their sizes, ranks and kinds."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from peft import PeftModel
from peft.tuners.lora.layer import Conv1d, Conv2d, Conv3d, LoraLayer, MultiheadAttention, ParamWrapper
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import nn
from torch.distributed.tensor import DTensor
from transformers.pytorch_utils import Conv1D

from lorascope.stores.format.spec import Ablate, block_path
from lorascope.stores.names import matching_indices

from .branches import DeltaForm, delta_form, effective_scaling
from .experts import EXPERT, experts_reason, parameter_path, weight_sizes
from .shards import Shards, output_shards
from .weights import plain_path

RowRanges = tuple[tuple[str, int, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraComponent:
    """One layer that an adapter changes: a linear layer, an embedding, or trained weights that replace one."""

    path: str
    """Path in the plain model, e.g. `model.layers.3.self_attn.q_proj`; of experts, that of their parameter."""
    order: int
    """Index among the model's modules."""
    layer: int
    """Index of the decoder layer, -1 outside of one."""
    kind: str
    """Last name of the path, e.g. `q_proj`; of experts the last two, `experts.down_proj`."""
    d_in: int
    """Number of input features, or of token ids of an embedding."""
    d_out: int
    rank: int
    """Rank of the change of weight: min(d_in, d_out) where the adapter keeps trained weights (`modules_to_save`)."""
    scaling: float
    """Factor that multiplies B A x, as the module has it: rsLoRA, alpha patterns, later rescaling and the scale of a
    scaled embedding included."""
    delta_source: DeltaForm
    """Form of delta: `factor`, whole from the adapter's `branch`, or as a `difference` of outputs."""
    biased: bool
    """Whether lora_B has a bias."""
    fused: RowRanges
    """(name, start, stop) of the output rows of a fused projection; empty where the layer isn't fused, where its parts
    are interleaved head by head (GPT-NeoX, Bloom, Falcon, CodeGen), and for a kind of model that isn't known."""
    shards: Shards | None = field(default=None, repr=False, compare=False)
    """Processes that each compute some output features of the layer; None where every process has them all."""
    module: Any = field(repr=False, compare=False)
    """PEFT's module in the model: a LoRA layer, or a wrapper of trained weights."""
    block: Any = field(default=None, repr=False, compare=False)
    """Block of experts whose output is base plus delta, where the component is their weight; None for other layers."""


def find_components(model: PeftModel, adapter: str, *, skip: Collection[str] = ()) -> list[LoraComponent]:
    """Return one LoraComponent per layer that an adapter changes and that can be captured, in module order.

    Layers whose path is in `skip` are excluded.

    `inspect_adapter` must have accepted the adapter; `exclusion_reason` says which layers can't be captured.
    """
    base: Any = model.get_base_model()
    return [
        _make_component(path, order, module, adapter, base)
        for path, (order, module) in adapted_modules(model, adapter).items()
        if path not in skip and exclusion_reason(path, module) is None
    ]


def select_components(
    model: PeftModel, adapters: Sequence[str], patterns: Sequence[str], *, skip: Collection[str] = ()
) -> dict[str, list[LoraComponent]]:
    """Return adapter -> its components whose path matches a pattern, or all of them if there are no patterns.

    See `find_components` for `skip`.

    Raises
    ------
    StoreError
        If a pattern matches no component of any adapter.
    ValueError
        If an adapter has no component that matches.
    """
    by_adapter = {name: find_components(model, name, skip=skip) for name in adapters}
    axis = [component.path for component in component_axis(by_adapter)]
    paths = {
        axis[place] for place in matching_indices(axis, patterns or None, of="components that the adapter changes")
    }
    chosen = {name: [component for component in own if component.path in paths] for name, own in by_adapter.items()}
    for name, components in chosen.items():
        if not components:
            raise ValueError(
                f"`component` is {list(patterns)}, and adapter {name!r} changes none of these; leave it out, or name "
                f"one of its components, such as {by_adapter[name][0].path!r}"
            )
    return chosen


def adapted_modules(model: nn.Module, adapter: str) -> dict[str, tuple[int, Any]]:
    """Return path -> (index among the model's modules, PEFT's module) of every module that an adapter changes."""
    return {
        parameter_path(plain_path(path), module): (order, module)
        for order, (path, module) in enumerate(model.named_modules())
        if isinstance(module, LoraLayer | AuxiliaryTrainingWrapper) and adapter in module._get_available_adapters()
    }


def component_axis(components: Mapping[str, Sequence[LoraComponent]]) -> list[LoraComponent]:
    """Merge the components of all adapters into one list in module order, each path once: the run's component axis."""
    union = {component.path: component for some in components.values() for component in some}
    return sorted(union.values(), key=lambda component: component.order)


def group_for_ablation(components: Iterable[LoraComponent], by: Ablate) -> dict[str, list[LoraComponent]]:
    """Return group -> components that an ablation switches off together, grouped by component, layer or kind."""
    parts: dict[str, list[LoraComponent]] = {}
    for component in components:
        name = {"components": component.path, "layers": str(component.layer), "kinds": component.kind}[by]
        parts.setdefault(name, []).append(component)
    return parts


def exclusion_reason(path: str, module: Any) -> str | None:
    """Return why a layer (an expert, a convolution ...) can't be captured, as a phrase; None if it can be.

    The stored states of other layers stay right, because the pass that they are taken from runs this layer too.
    """
    if EXPERT.search(path):
        return "an expert sees only the tokens that are routed to it"
    if isinstance(module, ParamWrapper):
        return experts_reason(path, module)
    if isinstance(module, MultiheadAttention) or ".base_layer." in path:
        return "PEFT merges LoRA into nn.MultiheadAttention for the pass, so no output without it exists"
    if isinstance(module, Conv1d | Conv2d | Conv3d):
        return "a convolution has no (token, feature) output"
    if isinstance(module, AuxiliaryTrainingWrapper) and _sizes(module.original_module) is None:
        kind = type(module.original_module).__name__
        return f"`modules_to_save` replaces a {kind}; only linear layers and embeddings are captured"
    return None


def _make_component(path: str, order: int, module: Any, adapter: str, base: Any) -> LoraComponent:
    """Return the LoraComponent of PEFT's `module` at this path; `order` is its index among the model's modules."""
    names = path.split(".")
    kind, block = names[-1], None
    is_lora = isinstance(module, LoraLayer)
    inner = module.get_base_layer() if is_lora else module.original_module
    is_split = isinstance(getattr(inner, "weight", None), DTensor)  # where PEFT's own sizes are those of a part
    d_in, d_out = (module.in_features, module.out_features) if is_lora and not is_split else _sizes(inner)  # type: ignore[misc]
    if isinstance(module, ParamWrapper):
        block, kind = base.get_submodule(str(block_path(path))), ".".join(names[-2:])
        d_in, d_out = weight_sizes(inner, names[-1])[0], weight_sizes(inner, "down_proj")[1]
    return LoraComponent(
        path=path,
        order=order,
        layer=next((int(name) for name in names if name.isdecimal()), -1),
        kind=kind,
        d_in=int(d_in),
        d_out=int(d_out),
        rank=int(module.r[adapter]) if is_lora else min(d_in, d_out),
        scaling=effective_scaling(module, adapter),
        delta_source=delta_form(module, adapter),
        biased=is_lora and bool(module.lora_bias.get(adapter)),
        fused=_fused_row_ranges(base.config, kind, int(d_out)),
        shards=output_shards(inner),
        module=module,
        block=block,
    )


def _sizes(inner: Any) -> tuple[int, int] | None:
    """Return (input, output) features of a module of the base model; None unless it is linear or an embedding."""
    if isinstance(inner, nn.Linear):
        return inner.in_features, inner.out_features
    if isinstance(inner, nn.Embedding):
        return inner.num_embeddings, inner.embedding_dim
    if isinstance(inner, Conv1D):
        return inner.nx, inner.nf
    return None


def _fused_row_ranges(config: Any, kind: str, d_out: int) -> RowRanges:
    """Return (name, start, stop) of the output rows of each part, such as q, of a fused projection; () if unknown."""
    layout = FUSED.get((getattr(config, "model_type", ""), kind))
    sizes = layout(config) if layout is not None else {}
    if sum(sizes.values()) != d_out:
        return ()
    stops = np.cumsum(list(sizes.values()))
    return tuple((name, int(stop) - size, int(stop)) for (name, size), stop in zip(sizes.items(), stops, strict=True))


def _head_sizes(config: Any) -> dict[str, int]:
    """Return name -> number of output rows of q, k and v in a fused projection; k and v may have fewer heads."""
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    shared = config.num_key_value_heads * head
    return {"q": config.num_attention_heads * head, "k": shared, "v": shared}


def _shared_head_sizes(config: Any) -> dict[str, int]:
    """Return name -> number of output rows of q, k and v in GPTBigCode; {} if they are interleaved.

    With `multi_query`, the heads share one key and value; without it, the rows are interleaved.
    """
    head = config.hidden_size // config.num_attention_heads
    return {"q": config.hidden_size, "k": head, "v": head} if config.multi_query else {}


FUSED: dict[tuple[str, str], Callable[[Any], dict[str, int]]] = {
    ("phi3", "qkv_proj"): _head_sizes,
    ("gpt_bigcode", "c_attn"): _shared_head_sizes,
    **dict.fromkeys(
        [("phi3", "gate_up_proj"), ("glm", "gate_up_proj"), ("glm4", "gate_up_proj")],
        lambda config: dict.fromkeys(("gate", "up"), config.intermediate_size),
    ),
    **dict.fromkeys(
        [("gpt2", "c_attn"), ("mpt", "Wqkv")],
        lambda config: dict.fromkeys("qkv", config.hidden_size),
    ),
}
"""(model type, kind) -> size of each part in the order of the rows, read from the forward pass of each model in
transformers 5. A name alone isn't enough: CodeGen's `qkv_proj` is interleaved."""
