"""Tiny tokenizers with the chat templates of real models, and conversations for them."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

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
    """`n` chats of 2 to 5 messages, with and without a system prompt, some with white space to trim."""
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


# The parse by hand: what stands between a template's marks, in bytes of the text.

_CHATML = re.compile(r"<\|im_start\|>(\w+)\n(.*?)(<\|im_end\|>)\n", re.DOTALL)
TURN = {
    "chatml": _CHATML,
    "marked": _CHATML,
    "llama3": re.compile(r"<\|start_header_id\|>(\w+)<\|end_header_id\|>\n\n(.*?)(<\|eot_id\|>)", re.DOTALL),
    "gemma": re.compile(r"<start_of_turn>(\w+)\n(.*?)(<end_of_turn>)\n", re.DOTALL),
}


def spans(name: str, text: str, chat: list[dict[str, Any]]) -> Iterator[tuple[int, int, str]]:
    """Where in a chat's text each role speaks, in characters; what ends the assistant's turn is the assistant's too."""
    says_system = chat[0]["role"] == "system"
    for number, turn in enumerate(TURN[name].finditer(text)):
        role, start = {"model": "assistant"}.get(turn[1], turn[1]), turn.start(2)
        if name == "gemma" and number == 0 and says_system:  # it opens the first question
            stop = start + len(chat[0]["content"])
            yield start, stop, "system"
            start = stop + 2
        if role != "system" or says_system:  # else it is Qwen's own
            yield start, turn.end(3) if role == "assistant" else turn.end(2), role


def gpt2_alphabet() -> dict[str, int]:
    """GPT-2's: bytes that print stand for themselves, the others follow from 256 on."""
    printed = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printed]
    return {chr(byte): byte for byte in printed} | {chr(256 + k): byte for k, byte in enumerate(others)}


ALPHABET = gpt2_alphabet()


def token_bytes(name: str, tokenizer: Any, token_id: int) -> bytes:
    """The bytes that a token stands for, by its name in the vocabulary."""
    token = tokenizer.convert_ids_to_tokens(int(token_id))
    if token in tokenizer.all_special_tokens:
        return bytes(token.encode())
    if name == "gemma":
        found = re.fullmatch("<0x([0-9A-F]{2})>", token)
        return bytes([int(found[1], 16)]) if found else bytes(token.replace("▁", " ").encode())
    return bytes(ALPHABET[character] for character in token)


def roles_by_hand(name: str, tokenizer: Any, chat: list[dict[str, Any]], token_ids: Sequence[int]) -> list[str]:
    """A token's role is that of whoever says any of its bytes."""
    text = tokenizer.apply_chat_template(chat, tokenize=False)
    pieces = [token_bytes(name, tokenizer, token_id) for token_id in token_ids]
    assert b"".join(pieces) == text.encode()
    said: list[str] = []
    for start, stop, role in spans(name, text, chat):
        said += ["template"] * (len(text[:start].encode()) - len(said)) + [role] * len(text[start:stop].encode())
    said += ["template"] * (len(text.encode()) - len(said))
    stops = np.cumsum([len(piece) for piece in pieces])
    by_token = (said[stop - len(piece) : stop] for piece, stop in zip(pieces, stops, strict=True))
    return [next((role for role in roles if role != "template"), "template") for roles in by_token]
