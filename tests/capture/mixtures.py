"""Adapters on tiny mixtures, and what a block of experts puts out, written out expert by expert in plain PyTorch."""

from collections.abc import Collection
from typing import Any

import torch
from peft.tuners.lora.layer import ParamWrapper
from torch import nn
from torch.nn.functional import linear, silu

from .recorded import adapt

GATE_UP, DOWN = "experts.gate_up_proj", "experts.down_proj"
INNER, CHOICES = 24, {"mixtral": 2, "qwen3": 2, "gptoss": 2, "llama4": 1}


def adapt_experts(model: Any, targets: Collection[str] = (GATE_UP, DOWN), **options: Any) -> Any:
    """A copy of the model with a trained-looking adapter on its experts."""
    return adapt(model, **{"r": 3, "lora_alpha": 6, "target_modules": [], "target_parameters": [*targets], **options})


def block_paths(model: Any) -> list[str]:
    return [name.removeprefix("base_model.model.") for name, module in model.named_modules() if is_block(module)]


def is_block(module: Any) -> bool:
    return isinstance(getattr(module, "experts", None), nn.Module)


def written_block(kind: str, block: Any, x: torch.Tensor, off: Collection[str] = ()) -> tuple[torch.Tensor, Any]:
    """A block's output (token, feature) in float64 without the adapters of the parameters in `off`, and a size.

    The size (token,) is the sum of the norms of what experts put out, to compare rounding with.
    """
    weights = [expert_weights(kind, block, expert, off) for expert in range(block.experts.num_experts)]
    output, size = torch.zeros(x.shape, dtype=torch.float64), torch.zeros(len(x), dtype=torch.float64)
    for token, (chosen, shares) in enumerate(zip(*routing(kind, block, x), strict=True)):
        for expert, share in zip(chosen.tolist(), shares.double(), strict=True):
            own = x[token].double()
            if kind == "llama4":
                part = one_expert(kind, weights[expert], own * share)
            else:
                part = one_expert(kind, weights[expert], own) * share
            output[token] += part
            size[token] += part.norm()
        if kind == "llama4":
            gate, up, down = (
                getattr(block.shared_expert, f"{name}_proj").weight.double() for name in ("gate", "up", "down")
            )
            own = x[token].double()
            shared = linear(silu(linear(own, gate)) * linear(own, up), down)
            output[token] += shared
            size[token] += shared.norm()
    return output, size


def routing(kind: str, block: Any, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The experts (token, choice) of tokens, and their weights, from the router's own numbers."""
    router = block.router if kind in {"gptoss", "llama4"} else block.gate
    router = router.base_layer if isinstance(router, ParamWrapper) else router
    logits = linear(x, router.weight, getattr(router, "bias", None))
    if kind == "llama4":
        values, chosen = logits.topk(CHOICES[kind], dim=-1)
        return chosen, values.float().sigmoid()
    if kind == "gptoss":
        values, chosen = logits.topk(CHOICES[kind], dim=-1)
        return chosen, values.softmax(-1)
    shares, chosen = logits.float().softmax(-1).topk(CHOICES[kind], dim=-1)
    return chosen, shares / shares.sum(-1, keepdim=True) if kind == "mixtral" else shares


def expert_weights(kind: str, block: Any, expert: int, off: Collection[str]) -> dict[str, Any]:
    """Weights (output, input) and biases of an expert in float64, with the adapters that aren't off."""
    wrappers, experts, weights = {}, block.experts, {}
    while isinstance(experts, ParamWrapper):
        wrappers[experts.parameter_name] = experts
        experts = experts.base_layer
    for name in ("gate_up_proj", "down_proj"):
        weight = getattr(experts, name)[expert].double()
        if name in wrappers and name not in off:
            wrapper = wrappers[name]
            a, b = (side["default"].weight.double() for side in (wrapper.lora_A, wrapper.lora_B))
            rank = len(a) // experts.num_experts
            added = wrapper.scaling["default"] * b[:, expert :: experts.num_experts] @ a[expert * rank :][:rank]
            weight = weight + (added.T if kind == "gptoss" else added)
        weights[name] = weight.T if kind in {"gptoss", "llama4"} else weight
        bias = getattr(experts, f"{name}_bias", None)
        weights[f"{name}_bias"] = None if bias is None else bias[expert].double()
    return weights


def one_expert(kind: str, weights: dict[str, Any], x: torch.Tensor) -> torch.Tensor:
    """What an expert puts out for one token, before its weight."""
    both = linear(x, weights["gate_up_proj"], weights["gate_up_proj_bias"])
    if kind == "gptoss":
        gate, up = both[::2].clamp(max=7), both[1::2].clamp(-7, 7)
        inside = (up + 1) * gate * torch.sigmoid(1.702 * gate)
    else:
        gate, up = both.chunk(2)
        inside = silu(gate) * up
    return linear(inside, weights["down_proj"], weights["down_proj_bias"])
