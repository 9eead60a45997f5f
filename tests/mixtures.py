"""Tiny mixtures of experts as transformers makes them, and LoRA on the stacked weights of their experts; with torch."""

from collections.abc import Sequence
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    GptOssConfig,
    GptOssForCausalLM,
    Llama4ForCausalLM,
    Llama4TextConfig,
    MixtralConfig,
    MixtralForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from .tiny import SHAPE

MODELS: dict[str, Any] = {
    "mixtral": (MixtralConfig, MixtralForCausalLM),
    "qwen3": (Qwen3MoeConfig, Qwen3MoeForCausalLM),
    "gptoss": (GptOssConfig, GptOssForCausalLM),
    "llama4": (Llama4TextConfig, Llama4ForCausalLM),
}
KINDS = tuple(MODELS)
TARGETS = ("experts.gate_up_proj", "experts.down_proj")


def mixture(kind: str, *, n_experts: int = 5, **changes: Any) -> Any:
    """A model of 2 layers, hidden 32, experts of 24 features; two experts a token, in Llama 4 one; seeded."""
    sizes: dict[str, Any] = {
        "mixtral": {"intermediate_size": 24, "num_local_experts": n_experts},
        "qwen3": {"moe_intermediate_size": 24, "num_experts": n_experts, "norm_topk_prob": False},
        "gptoss": {"intermediate_size": 24, "num_local_experts": n_experts, "sliding_window": 8},
        "llama4": {"intermediate_size": 24, "num_local_experts": n_experts, "interleave_moe_layer_step": 1},
    }[kind]
    chosen = {"head_dim": 8, "vocab_size": 300, "num_experts_per_tok": 1 if kind == "llama4" else 2}
    config, model_type = MODELS[kind]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = model_type(config(**SHAPE | chosen | sizes | changes))
        for name, parameter in model.named_parameters():  # transformers leaves routers and biases at zero
            if "norm" not in name:
                is_router = "router" in name or name.endswith("gate.weight")
                torch.nn.init.normal_(parameter, std=0.3 if is_router else 0.08)
    return model.eval()


def lora_on_experts(model: Any, targets: Sequence[str] = TARGETS, *, rank: int = 3, **settings: Any) -> Any:
    """PEFT's model with an adapter on these parameters, whose A and B are random; seeded."""
    settings = {"target_modules": [], **settings}
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_parameters=list(targets), **settings)
    adapted = get_peft_model(model, config).eval()
    generator = torch.Generator().manual_seed(1)
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            std = 0.3 / parameter.shape[1] ** 0.5 if "lora_A" in name else 0.3
            parameter.data = (std * torch.randn(parameter.shape, generator=generator)).to(parameter.dtype)
    return adapted
