"""Token ids of a run's texts and chats from a server, compared with the run's: real tokenizers and chat templates."""

import copy
import re
import string
from pathlib import Path
from typing import Any

import pytest

from lorascope.analyze.against.references import read_references
from lorascope.analyze.against.served_texts import ServedTexts, served_texts
from lorascope.stores import Run

from ...chats import CHAT_TOKENIZERS
from .conftest import Answer, Handler, tokenizing

pytestmark = pytest.mark.torch


def compare(serve: Any, run: Run, answer: Answer) -> ServedTexts:
    return served_texts(serve(answer).url, run, read_references(run))


def n_equal(result: ServedTexts) -> dict[str, int]:
    """Of texts and chats that are all equal, how many there are."""
    return {clause.split()[1][:-1]: int(clause.split()[3]) for clause in result.equal}


@pytest.mark.parametrize("name", CHAT_TOKENIZERS)
def test_the_same_tokenizer_and_template_give_the_same_ids(serve: Any, captured: Any, name: str) -> None:
    run, tokenizer = captured(name)
    result = compare(serve, run, tokenizing(tokenizer))
    assert n_equal(result)["text"] >= 5  # others hold a part of a character
    assert n_equal(result)["chat"] >= 3
    assert (result.differing, result.not_compared) == ([], [])


@pytest.mark.parametrize("name", CHAT_TOKENIZERS)
def test_a_changed_template_shows_in_chats_alone(serve: Any, captured: Any, name: str) -> None:
    run, tokenizer = captured(name)
    other = copy.deepcopy(tokenizer)
    other.chat_template = other.chat_template.replace("\\n", "\\n\\n")
    assert other.chat_template != tokenizer.chat_template
    result = compare(serve, run, tokenizing(other))
    assert n_equal(result).keys() == {"text"}
    clause = re.fullmatch(
        "as chat, (\\d+) of (\\d+) samples have other tokens: token .* on the server", *result.differing
    )
    assert clause is not None
    assert clause[1] == clause[2]


def test_tokens_that_lost_their_spaces_are_not_compared(serve: Any, tmp_path: Path) -> None:
    """As Llama 2's: decoded alone, SentencePiece's tokens lack the space before them, but lines still have ends."""
    from peft import LoraConfig, get_peft_model
    from tokenizers import Tokenizer, decoders, models, normalizers
    from transformers import PreTrainedTokenizerFast

    from lorascope.capture import capture

    from ...tiny import llama

    pieces = ["<s>", "</s>", "<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "\u2581", *string.ascii_letters]
    core = Tokenizer(models.BPE(dict(zip(pieces, range(400), strict=False)), [], byte_fallback=True))
    core.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    steps = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    core.decoder = decoders.Sequence(steps)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    model = get_peft_model(llama(len(pieces)), LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
    data = [{"text": f"one two {word}\nand more words"} for word in ("three", "four")]
    options: dict[str, Any] = {"states": "none", "changes": "all", "window_tokens": 64, "progress": False}
    run = capture(model, data, tmp_path / "run", tokenizer=tokenizer, **options)
    result = compare(serve, run, tokenizing(tokenizer))
    assert (result.equal, result.differing) == ([], [])
    assert "samples as text: there is nothing to compare" in result.not_compared


def test_a_token_more_shows_where_it_stands(serve: Any, captured: Any) -> None:
    run, tokenizer = captured("chatml")
    other = copy.deepcopy(tokenizer)
    other.add_tokens(["Chad"])
    result = compare(serve, run, tokenizing(other))
    clause = re.match(r"as text, (\d+) of (\d+) samples have other tokens: token .*, ' Chad', is ", result.differing[0])
    assert clause is not None
    assert 0 < int(clause[1]) < int(clause[2])


@pytest.mark.parametrize(("name", "kind"), [("llama3", "chat"), ("chatml", "text")])
def test_a_start_token_less_shows_in_chats_and_one_more_in_texts(
    serve: Any, captured: Any, name: str, kind: str
) -> None:
    run, tokenizer = captured(name)
    encode = tokenizing(tokenizer)

    def answer(handler: Handler, question: Any) -> Any:
        document = encode(handler, question)
        if "tokens" in document:
            document["tokens"] = document["tokens"][1:] if kind == "chat" else [0, *document["tokens"]]
        return document

    result = compare(serve, run, answer)
    [difference] = [clause for clause in result.differing if clause.startswith(f"as {kind}")]
    clause = re.match(r"as .*, (\d+) of (\d+) samples have other tokens: token 0 of ", difference)
    assert clause is not None
    assert clause[1] == clause[2]


def test_without_tokenize_nothing_is_compared_and_the_reason_is_named(serve: Any, captured: Any) -> None:
    run, _ = captured("chatml")

    def answer(handler: Handler, question: Any) -> Any:
        return handler.reply(404, b"Not Found") if question else {"data": [{"id": "only"}]}

    result = compare(serve, run, answer)
    assert (result.equal, result.differing) == ([], [])
    for kind, reason in zip(("text", "chat"), result.not_compared, strict=True):
        assert reason.startswith(f"samples as {kind}: http")
        assert "/tokenize answers 404 (Not Found)" in reason
