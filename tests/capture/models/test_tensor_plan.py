"""Models that can be spread over processes, and those that are refused."""

from typing import Any

import pytest
import torch
from transformers import CohereConfig, GPT2Config, Llama4TextConfig, LlamaConfig, Phi3Config, Qwen3Config

from lorascope.capture.models.model import model_on_meta
from lorascope.capture.models.tensor_plan import require_shardable, split_axis

SMALL = {
    "vocab_size": 301,
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 12,
    "num_key_value_heads": 6,
    "head_dim": 4,
    "pad_token_id": None,
}


def on_meta(config: Any) -> Any:
    return model_on_meta(config, torch.bfloat16)


@pytest.mark.parametrize("kind", [LlamaConfig, Qwen3Config, Phi3Config])
def test_every_divisor_of_all_sizes_is_allowed(kind: Any) -> None:
    for n in (1, 2, 3, 6):
        require_shardable(on_meta(kind(**SMALL)), tensor_parallel=n, fully_shard=False)
    require_shardable(on_meta(kind(**SMALL)), tensor_parallel=1, fully_shard=True)


def test_a_model_that_gathers_its_heads_may_divide_them() -> None:
    require_shardable(on_meta(Phi3Config(**SMALL)), tensor_parallel=4, fully_shard=False)


REFUSED: dict[str, tuple[Any, int, str]] = {
    "key-value heads": (
        LlamaConfig(**SMALL),
        4,
        "which doesn't divide `num_key_value_heads` of this Llama.*, 6; give a",
    ),
    "heads": (LlamaConfig(**SMALL), 5, "doesn't divide `num_attention_heads` of this LlamaForCausalLM, 12; give a"),
    "features": (
        LlamaConfig(**SMALL | {"intermediate_size": 97}),
        2,
        "divide `out_features` of `model.layers.0.mlp.gate_proj` of this LlamaForCausalLM, 97; give a divisor, or",
    ),
    "no plan": (
        GPT2Config(n_layer=1, n_embd=8, n_head=2),
        2,
        "no plan of how to split a GPT2LMHeadModel; leave it out",
    ),
    "norms of heads": (
        CohereConfig(**SMALL, use_qk_norm=True),
        2,
        "doesn't split `model.layers.*.self_attn.q_norm.weight`, of all heads; leave it out",
    ),
    "experts": (
        Llama4TextConfig(**SMALL, num_local_experts=2),
        2,
        "splits `model.layers.*.feed_forward.experts` by 'moe_tp_experts'; leave it out, and spread the model by "
        "`fully_shard` or `device_map` .by `device_map` alone where the adapter is on experts",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cant_be_split_is_refused_by_name(what: str) -> None:
    config, n, words = REFUSED[what]
    with pytest.raises(ValueError, match=f"`tensor_parallel` is {n}, .*{words.replace('*.', '.*')}"):
        require_shardable(on_meta(config), tensor_parallel=n, fully_shard=False)
    require_shardable(on_meta(config), tensor_parallel=1, fully_shard=True)


@pytest.mark.parametrize(("n", "words"), [(2, "`tensor_parallel` is 2"), (1, "`fully_shard` is True")])
def test_quantised_weights_are_refused(n: int, words: str) -> None:
    model = on_meta(LlamaConfig(**SMALL))
    model.config.quantization_config = {"quant_method": "gptq"}
    require_shardable(model, tensor_parallel=1, fully_shard=False)
    with pytest.raises(ValueError, match=f"{words}, but the model's weights are quantised; take one whose"):
        require_shardable(model, tensor_parallel=n, fully_shard=n == 1)


@pytest.mark.parametrize(
    ("style", "weight", "n_axes", "axis"),
    [
        ("colwise", "weight", 2, 0),
        ("colwise", "bias", 1, 0),
        ("colwise", "lora_A.default.weight", 2, None),
        ("colwise", "lora_B.default.weight", 2, 0),
        ("colwise_gather_output", "weight", 2, 0),
        ("colwise_gather_output", "lora_B.default.weight", 2, None),
        ("rowwise", "weight", 2, 1),
        ("rowwise", "bias", 1, None),
        ("rowwise", "lora_A.default.weight", 2, 1),
        ("rowwise", "lora_B.default.weight", 2, None),
        ("rowwise_split_input", "weight", 2, 1),
        ("rowwise_split_input", "lora_A.default.weight", 2, None),
        ("embedding_rowwise", "weight", 2, 0),
        (None, "weight", 2, None),
    ],
)
def test_axis_that_is_split(style: str | None, weight: str, n_axes: int, axis: int | None) -> None:
    assert split_axis(style, weight, n_axes) == axis
