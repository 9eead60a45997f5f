"""Token ids of a run's texts and chats from a server, compared with the run's: real tokenizers and chat templates."""

import copy
import re
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
