"""Tiny tokenizers with the chat templates of real models, and conversations for them."""

from pathlib import Path
from typing import Any

TEMPLATES = Path(__file__).parent / "capture" / "samples" / "chat_templates"
"""`chatml` is Qwen2.5-Instruct's, `llama3` Meta-Llama-3-8B-Instruct's, `gemma` gemma-3-it's, as they were published;
`marked` is a ChatML whose template marks what the assistant says."""
CHAT_TOKENIZERS = ("chatml", "marked", "llama3", "gemma")
_SPECIAL = {
    "chatml": ("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
    "llama3": ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    "gemma": ("<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"),
}
_SENTENCES = (
    "You are a helpful assistant who answers in one sentence.",
    "What is the capital of Chad? The capital of Chad is N'Djamena.",
    "system user assistant model\n\nWhich metal is it? It is iron, and the answer is short.\n",
)


def chat_tokenizer(name: str) -> Any:
    """A tokenizer of about 350 tokens, trained on three sentences, with special tokens and template of a real one.

    `chatml` and `marked` are byte-level BPE without a start token, `llama3` with one; `gemma` is BPE with `▁` for a
    space, and a byte where a character is unknown.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    special = list(_SPECIAL.get(name, _SPECIAL["chatml"]))
    if name == "gemma":
        tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
        tokenizer.normalizer = normalizers.Replace(" ", "▁")
        tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
        special_bytes = [f"<0x{byte:02X}>" for byte in range(256)]
        trainer = trainers.BpeTrainer(vocab_size=420, special_tokens=[*special, *special_bytes], show_progress=False)
    else:
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=350,
            special_tokens=special,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
    tokenizer.train_from_iterator(_SENTENCES, trainer)
    start = {"llama3": "<|begin_of_text|>", "gemma": "<bos>"}.get(name)
    if start:
        begun = processors.TemplateProcessing(
            single=f"{start} $A", special_tokens=[(start, tokenizer.token_to_id(start))]
        )
        # Llama 3's leaves white space out of what its tokens cover.
        trimmed = processors.ByteLevel(trim_offsets=True)
        tokenizer.post_processor = begun if name == "gemma" else processors.Sequence([trimmed, begun])
    ends = {"llama3": "<|eot_id|>", "gemma": "<eos>"}.get(name, "<|im_end|>")
    made = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=start,
        eos_token=ends,
        pad_token=special[0] if name != "llama3" else "<|end_of_text|>",
        additional_special_tokens=special,
    )
    made.chat_template = (TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8").removesuffix("\n")
    return made


def conversations(n: int = 6) -> list[list[dict[str, Any]]]:
    """So many chats of 2 to 5 messages, with and without a system prompt, some with white space to trim."""
    system = {"role": "system", "content": "You are a helpful assistant who answers in one sentence."}
    asked = ("What is the capital of Chad?", "Which metal is it?\n\n  A short answer.", "  Où est-ce ?", "2 + 2?")
    answers = ("The capital of Chad is N'Djamena.", "It is iron.", "À côté… \n", "4")
    chats = []
    for number in range(n):
        turns = [] if number % 3 else [system]
        for turn in range(1 + number % 2):
            place = (number + turn) % len(asked)
            turns.append({"role": "user", "content": f"{asked[place]} ({number})"})
            turns.append({"role": "assistant", "content": f"{answers[place]}"})
        chats.append(turns)
    return chats
