"""A tiny model, its adapter and a text, for a selftest without a named model."""

from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from ..training.trainer import lora_targets

RANK = 8
N_SUMS = 20_000


def write_model(folder: Path) -> tuple[Path, Path]:
    """Write a Llama of four layers with random weights, a tokenizer of bytes, and an adapter; returns their folders."""
    special = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    alphabet = [*special.values(), *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE(vocab={token: index for index, token in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)  # type: ignore[no-untyped-call]  # its own
    shape: dict[str, Any] = {
        "hidden_size": 256,
        "intermediate_size": 768,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
    }
    shape |= {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForCausalLM(LlamaConfig(vocab_size=len(alphabet), max_position_embeddings=2048, **shape))
        model.save_pretrained(folder / "model")
        fast.save_pretrained(folder / "model")
        adapted: Any = get_peft_model(model, LoraConfig(r=RANK, target_modules=lora_targets(model)))
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter.data, std=0.02)
    adapted.save_pretrained(folder / "adapter", save_embedding_layers=False)
    return folder / "model", folder / "adapter"


def write_text(file: Path) -> None:
    """Write sums: some 400,000 characters."""
    file.write_text(" ".join(f"{n} and {n % 97} make {n + n % 97}." for n in range(N_SUMS)))
