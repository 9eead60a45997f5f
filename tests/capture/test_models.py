"""Other architectures and LoRA settings: what is stored is what their layers put out."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    GemmaConfig,
    GPT2Config,
    GPTNeoXConfig,
    MistralConfig,
    OPTConfig,
    Phi3Config,
    Qwen2Config,
)

from lorascope.capture import CaptureConfig, capture
from lorascope.capture.finetune import lora_targets
from lorascope.capture.preflight import lora_layers
from lorascope.stores import verify

WIDE: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 0,
    "eos_token_id": 1,
}
ARCHITECTURES = {
    "mistral": lambda v: MistralConfig(vocab_size=v, **WIDE),
    "qwen2": lambda v: Qwen2Config(vocab_size=v, **WIDE),
    "phi3": lambda v: Phi3Config(vocab_size=v, **WIDE),
    "gemma": lambda v: GemmaConfig(vocab_size=v, head_dim=8, **WIDE),
    "gpt2": lambda v: GPT2Config(vocab_size=v, n_embd=32, n_layer=2, n_head=4, n_positions=128, bos_token_id=0),
    "gpt_neox": lambda v: GPTNeoXConfig(vocab_size=v, **{k: x for k, x in WIDE.items() if k != "num_key_value_heads"}),
    "opt": lambda v: OPTConfig(
        vocab_size=v, hidden_size=32, ffn_dim=48, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=128, word_embed_proj_dim=32,
    ),
}  # fmt: skip
SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "rank-stabilised": {"use_rslora": True},
    "patterns": {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"down_proj": 3}},
}


def captured(model: Any, tokenizer: Any, tmp_path: Path, **lora: Any) -> None:
    config = LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=8, **{"target_modules": lora_targets(model), **lora})
    adapted: Any = get_peft_model(model, config)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter.data, std=0.1)
    adapted.eval()
    (tmp_path / "item.jsonl").write_text('{"id": "a", "question": "2 + 2?", "choices": ["4", "the"], "answer": 1}\n')
    run = capture(
        CaptureConfig(
            model="tiny", adapter="none", data=(str(tmp_path / "item.jsonl"),), out=str(tmp_path / "run"), js_share=1.0
        ),
        model=adapted,
        tokenizer=tokenizer,
    )
    assert verify(run.path, level="decode").ok
    layers = lora_layers(adapted)
    assert set(run.component_paths) == set(layers)
    seen: dict[str, torch.Tensor] = {}
    handles = [
        layer.register_forward_hook(lambda m, a, output, path=path: seen.__setitem__(path, output.clone()))
        for path, layer in layers.items()
    ]
    with torch.inference_mode():
        adapted(torch.from_numpy(run.tokens["token_id"].values[None]).long(), use_cache=False)
    for handle in handles:
        handle.remove()
    for path, layer in layers.items():
        factor = torch.from_numpy(run.factor(path).values)[None]
        delta = torch.nn.functional.linear(factor, torch.from_numpy(run.lora_B(path).values)) * layer.scaling["default"]
        base = torch.from_numpy(run.base(path).values)
        assert torch.equal((base + delta[0]).flatten(), seen[path].flatten()), path


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_architectures(name: str, tiny_tokenizer: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(ARCHITECTURES[name](len(tiny_tokenizer))).eval()
    captured(model, tiny_tokenizer, tmp_path, fan_in_fan_out=name == "gpt2")  # its layers are Conv1D


@pytest.mark.parametrize("name", SETTINGS)
def test_settings(name: str, tiny_model: Any, tiny_tokenizer: Any, tmp_path: Path) -> None:
    captured(tiny_model, tiny_tokenizer, tmp_path, **SETTINGS[name])


def test_an_adapter_on_some_layers_alone(tiny_model: Any, tiny_tokenizer: Any, tmp_path: Path) -> None:
    captured(tiny_model, tiny_tokenizer, tmp_path, target_modules=["q_proj", "down_proj"], layers_to_transform=[1])
