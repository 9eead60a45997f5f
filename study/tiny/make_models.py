"""Write two small untrained models, Llama- and Phi-3-shaped, and a text, for the study in this folder."""

import sys
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, Phi3Config, Phi3ForCausalLM, PreTrainedTokenizerFast

from lorascope.capture import read_items
from lorascope.study.demo_inputs import facts_path

SPECIAL = ["<s>", "</s>", "<pad>"]
SHAPE = {
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
    # Wider than usual, so that a model without training still prefers some tokens to others.
    "initializer_range": 0.1,
}


def main(folder: Path) -> None:
    """Write two untrained models (`llama/`, `phi3/`) and a text, in two files, into `folder`."""
    sentences = {
        split: [f"{item.question} {item.choices[item.answer]}." for item in read_items(facts_path(split))]
        for split in ("train", "test")
    }
    folder.mkdir(parents=True, exist_ok=True)
    for split, lines in sentences.items():
        (folder / f"facts-text.{split}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    tokenizer = make_tokenizer(sentences["train"])
    for name, model_type, config_type in (
        ("llama", LlamaForCausalLM, LlamaConfig),
        ("phi3", Phi3ForCausalLM, Phi3Config),
    ):
        torch.manual_seed(0)
        model = model_type(config_type(vocab_size=len(tokenizer), **SHAPE))
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)


def make_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """Return a byte-level BPE tokenizer of 512 tokens, trained on these texts."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=512,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    names = dict(zip(("bos_token", "eos_token", "pad_token"), SPECIAL, strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path("runs/tiny"))
