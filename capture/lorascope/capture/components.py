"""Which layers an adapter changes, and what each of them is: the components of a run."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from peft import PeftModel
from peft.tuners.lora import Linear, LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper, ModulesToSaveWrapper

from lorascope.stores import Problem

from .preflight import lora_layers, plain_path, require

__all__ = ["LoraComponent", "find_components", "lora_b", "require_supported", "unsupported"]

RowRanges = tuple[tuple[str, int, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraComponent:
    """One linear layer that an adapter changes."""

    path: str
    """Module path in the plain model, e.g. `model.layers.3.self_attn.q_proj`."""
    layer: int
    """Index of the decoder layer, -1 outside of one."""
    kind: str
    """Last name of the path, e.g. `q_proj`."""
    d_in: int
    d_out: int
    rank: int
    scaling: float
    """What B A x is multiplied by, as the module holds it: rsLoRA, alpha patterns and later rescaling included."""
    fused: RowRanges
    """(name, start, stop) of the output rows of a fused projection; empty where the layer isn't fused, where its parts
    are interleaved head by head (GPT-NeoX, Bloom, Falcon, CodeGen), and for a kind of model that isn't known."""


def find_components(model: PeftModel, adapter: str) -> list[LoraComponent]:
    """Every layer that the adapter changes, in module order.

    Raises
    ------
    AdapterError
        If one of them can't be captured, so that none is left out unseen.
    """
    require_supported(model, adapter)
    base: Any = model.get_base_model()
    return [
        _describe(path, layer, adapter, base.config)
        for path, layer in lora_layers(model).items()
        if adapter in layer._get_available_adapters()
    ]


def unsupported(model: PeftModel, adapter: str) -> list[Problem]:
    """Everything about the adapter that isn't plain LoRA on a linear layer; empty where nothing is."""
    config: Any = model.peft_config[adapter]
    problems = []
    if config.bias != "none":
        message = f"`bias` is {config.bias!r}, so the adapter trains the base's own biases; only 'none' can be captured"
        problems.append(Problem(adapter, "bias", message))
    if getattr(config, "layer_replication", None):
        message = "`layer_replication` makes another base of the model; it can't be captured"
        problems.append(Problem(adapter, "replication", message))
    for path, module in model.named_modules():
        problems += _module_problems(plain_path(path), module, adapter)
    return problems


def require_supported(model: PeftModel, adapter: str) -> None:
    """Raise one readable `AdapterError` for all that isn't plain LoRA on a linear layer.

    Raises
    ------
    AdapterError
        If `unsupported` finds anything.
    """
    require(unsupported(model, adapter), adapter)


def lora_b(module: Any, adapter: str) -> np.ndarray:
    """The adapter's B of one layer, float32 (feature, rank), a copy."""
    return np.array(module.lora_B[adapter].weight.detach().float().cpu().numpy())


def _module_problems(path: str, module: Any, adapter: str) -> Iterator[Problem]:
    if isinstance(module, AuxiliaryTrainingWrapper) and adapter in module._get_available_adapters():
        option = "modules_to_save" if isinstance(module, ModulesToSaveWrapper) else "trainable_token_indices"
        yield Problem(path, option, f"`{option}` replaces weights of the base, which no LoRA branch shows")
    if not isinstance(module, LoraLayer) or adapter not in module._get_available_adapters():
        return
    if isinstance(module.base_layer, BaseTunerLayer):
        yield Problem(path, "nested", "two adapters are wrapped around each other; only one LoRA layer can be captured")
    elif type(module) is not Linear:
        inner = type(module.get_base_layer()).__name__
        yield Problem(
            path,
            "layer",
            f"LoRA on {inner} (PEFT's {type(module).__name__}) isn't supported, only on Linear and Conv1D",
        )
    variant = module.lora_variant.get(adapter)
    if variant is not None:
        name = type(variant).__name__.removesuffix("Variant")
        yield Problem(path, "variant", f"the adapter is a variant of LoRA, {name}; only plain LoRA is supported")
    if module.lora_bias.get(adapter):
        yield Problem(path, "lora_bias", "lora_B has a bias (`lora_bias`); only plain LoRA is supported")


def _describe(path: str, module: Any, adapter: str, config: Any) -> LoraComponent:
    names = path.split(".")
    return LoraComponent(
        path=path,
        layer=next((int(name) for name in names if name.isdecimal()), -1),
        kind=names[-1],
        d_in=int(module.in_features),
        d_out=int(module.out_features),
        rank=int(module.r[adapter]),
        scaling=float(module.scaling[adapter]),
        fused=_row_ranges(config, names[-1], int(module.out_features)),
    )


def _row_ranges(config: Any, kind: str, d_out: int) -> RowRanges:
    """Row ranges of a fused projection whose layout is known; empty where the sizes don't add up to it."""
    layout = FUSED.get((getattr(config, "model_type", ""), kind))
    sizes = layout(config) if layout is not None else {}
    if sum(sizes.values()) != d_out:
        return ()
    stops = np.cumsum(list(sizes.values()))
    return tuple((name, int(stop) - size, int(stop)) for (name, size), stop in zip(sizes.items(), stops, strict=True))


def _grouped(config: Any) -> dict[str, int]:
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    shared = config.num_key_value_heads * head
    return {"q": config.num_attention_heads * head, "k": shared, "v": shared}


def _thirds(config: Any) -> dict[str, int]:
    return dict.fromkeys("qkv", int(config.hidden_size))


def _multi_query(config: Any) -> dict[str, int]:
    """GPTBigCode: one key and value head for all; its multi-head form is interleaved."""
    head = config.hidden_size // config.num_attention_heads
    return {"q": config.hidden_size, "k": head, "v": head} if config.multi_query else {}


def _gated(config: Any) -> dict[str, int]:
    return dict.fromkeys(("gate", "up"), int(config.intermediate_size))


FUSED: dict[tuple[str, str], Callable[[Any], dict[str, int]]] = {
    ("phi3", "qkv_proj"): _grouped,
    ("phi3", "gate_up_proj"): _gated,
    ("glm", "gate_up_proj"): _gated,
    ("glm4", "gate_up_proj"): _gated,
    ("gpt2", "c_attn"): _thirds,
    ("gpt_bigcode", "c_attn"): _multi_query,
    ("mpt", "Wqkv"): _thirds,
}
"""(model type, kind) -> size of each part in the order of the rows, read from the forward pass of each model in
transformers 5. A name alone doesn't tell: CodeGen's `qkv_proj` is interleaved."""
