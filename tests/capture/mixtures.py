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
    wrappers, experts, weights = wrappers_of(block), block.experts.get_base_layer(), {}
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


def wrappers_of(block: Any) -> dict[str, Any]:
    """PEFT's wrappers around the experts of a block, by parameter, from the outermost."""
    wrappers, experts = {}, block.experts
    while isinstance(experts, ParamWrapper):
        wrappers[experts.parameter_name] = experts
        experts = experts.base_layer
    return wrappers


@torch.no_grad()
def written_choices(kind: str, block: Any, x: torch.Tensor, name: str) -> dict[str, torch.Tensor]:
    """Js, norms and z of each chosen expert's own output (token, choice, ...) for the adapter on one parameter."""
    wrapper = wrappers_of(block)[name]
    a, b = (side["default"].weight.double() for side in (wrapper.lora_A, wrapper.lora_B))
    n = wrapper.num_experts
    rank = len(a) // n
    chosen, shares = routing(kind, block, x)
    rows: dict[str, list[torch.Tensor]] = {"js": [], "base_norm": [], "delta_norm": [], "z": []}
    for token in range(len(x)):
        for expert, share in zip(chosen[token].tolist(), shares[token].double(), strict=True):
            own = x[token].double() * (share if kind == "llama4" else 1)
            on, off = (expert_weights(kind, block, expert, parts) for parts in ((), (name,)))
            base, total = one_expert(kind, off, own), one_expert(kind, on, own)
            p, q = base.softmax(-1), total.softmax(-1)
            middle = (p + q) / 2
            rows["js"].append(sum((side * (side / middle).log()).sum() / 2 for side in (p, q)))
            rows["base_norm"].append(base.norm())
            rows["delta_norm"].append((total - base).norm())
            right = b[:, expert::n].T if kind == "llama4" else a[expert * rank :][:rank]
            rows["z"].append(right @ (own if name == "gate_up_proj" else activated(kind, on, own)))
    return {measure: torch.stack(values).unflatten(0, chosen.shape) for measure, values in rows.items()}


def one_expert(kind: str, weights: dict[str, Any], x: torch.Tensor) -> torch.Tensor:
    """What an expert puts out for one token, before its weight."""
    return linear(activated(kind, weights, x), weights["down_proj"], weights["down_proj_bias"])


def activated(kind: str, weights: dict[str, Any], x: torch.Tensor) -> torch.Tensor:
    """The input of an expert's `down_proj` for one token."""
    both = linear(x, weights["gate_up_proj"], weights["gate_up_proj_bias"])
    if kind == "gptoss":
        gate, up = both[::2].clamp(max=7), both[1::2].clamp(-7, 7)
        return (up + 1) * gate * torch.sigmoid(1.702 * gate)
    gate, up = both.chunk(2)
    return silu(gate) * up
