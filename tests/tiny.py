"""Tiny models and their tokenizer, made on the spot; only what is called imports torch."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

SPECIAL_TOKENS = ("<s>", "</s>", "<pad>")
SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
    # Wider than usual, so that a model without training still prefers some tokens to others.
    "initializer_range": 0.2,
}


def byte_tokenizer(merged: Sequence[str] = ()) -> Any:
    """A byte-level BPE tokenizer that puts <s> before a text; it knows the bytes, and these words and their starts."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    alphabet = [*SPECIAL_TOKENS, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    vocabulary = {token: index for index, token in enumerate(alphabet)}
    merges = []
    for word in merged:
        for stop in range(2, len(word) + 1):
            merges.append((word[: stop - 1], word[stop - 1]))
            vocabulary.setdefault(word[:stop], len(vocabulary))
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>")


def llama(vocab_size: int, **changes: Any) -> Any:
    """A Llama of 2 layers, hidden 32, 4 heads on 2 key-value heads, context 256; float32, seeded, in eval mode."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    with torch.random.fork_rng():
        torch.manual_seed(0)
        return LlamaForCausalLM(LlamaConfig(vocab_size=vocab_size, **SHAPE | changes)).eval()


def save_model(folder: Path, model: Any, tokenizer: Any) -> Path:
    """Both as `load_model` reads them."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save_gguf(path: Path) -> Path:
    """A Llama of one layer whose matrices are in 8-bit GGUF blocks; skips the test where the library isn't there."""
    import numpy as np
    import pytest

    gguf, width = pytest.importorskip("gguf"), 32
    writer = gguf.GGUFWriter(path, "llama")
    vocabulary = ["<s>", "</s>", "a", "b", "ab", "Ġ"]
    entries = {"context_length": 64, "embedding_length": width, "block_count": 1, "feed_forward_length": 2 * width}
    entries |= {"head_count": 4, "head_count_kv": 2, "layer_norm_rms_eps": 1e-5}
    entries |= {"vocab_size": len(vocabulary), "tokenizer_model": "gpt2", "token_list": vocabulary}
    entries |= {"token_merges": ["a b"], "bos_token_id": 0, "eos_token_id": 1}
    for name, value in entries.items():
        getattr(writer, f"add_{name}")(value)
    square, narrow, wide = (width, width), (width // 2, width), (2 * width, width)
    matrices = {"token_embd": (len(vocabulary), width), "blk.0.attn_q": square, "blk.0.attn_output": square}
    matrices |= {"blk.0.attn_k": narrow, "blk.0.attn_v": narrow, "blk.0.ffn_gate": wide, "blk.0.ffn_up": wide}
    matrices["blk.0.ffn_down"] = (width, 2 * width)
    rng = np.random.default_rng(0)
    kind = gguf.GGMLQuantizationType.Q8_0
    for name, shape in matrices.items():
        numbers = rng.normal(size=shape, scale=0.1).astype(np.float32)
        writer.add_tensor(f"{name}.weight", gguf.quants.quantize(numbers, kind), raw_dtype=kind)
    for name in ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"):
        writer.add_tensor(f"{name}.weight", np.ones(width, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
