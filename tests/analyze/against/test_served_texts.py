"""Token ids of a run's texts and chats from a server, compared with the run's: real tokenizers and chat templates."""

import copy
from typing import Any

import pytest

from lorascope.analyze.against.references import read_references
from lorascope.analyze.against.served_texts import ServedTexts, served_texts
from lorascope.stores import Run

from ...chats import CHAT_TOKENIZERS
from .conftest import Answer, Handler, tokenizing

pytestmark = pytest.mark.torch


def compare(serve: Any, run: Run, answer: Answer) -> dict[str, ServedTexts]:
    return {result.kind: result for result in served_texts(serve(answer).url, run, read_references(run))}


@pytest.mark.parametrize("name", CHAT_TOKENIZERS)
def test_the_same_tokenizer_and_template_give_the_same_ids(serve: Any, captured: Any, name: str) -> None:
    run, tokenizer = captured(name)
    results = compare(serve, run, tokenizing(tokenizer))
    assert results["text"].n_compared >= 5  # others hold a part of a character
    assert results["chat"].n_compared >= 3
    for result in results.values():
        assert (result.n_equal, result.note) == (result.n_compared, "")


@pytest.mark.parametrize("name", CHAT_TOKENIZERS)
def test_a_changed_template_shows_in_chats_alone(serve: Any, captured: Any, name: str) -> None:
    run, tokenizer = captured(name)
    other = copy.deepcopy(tokenizer)
    other.chat_template = other.chat_template.replace("\\n", "\\n\\n")
    assert other.chat_template != tokenizer.chat_template
    results = compare(serve, run, tokenizing(other))
    assert results["text"].n_equal == results["text"].n_compared
    assert results["chat"].n_equal == 0
    assert "on the server" in results["chat"].note


def test_a_token_more_shows_where_it_stands(serve: Any, captured: Any) -> None:
    run, tokenizer = captured("chatml")
    other = copy.deepcopy(tokenizer)
    other.add_tokens(["Chad"])
    result = compare(serve, run, tokenizing(other))["text"]
    assert 0 < result.n_compared - result.n_equal < result.n_compared
    assert "' Chad', is " in result.note


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

    result = compare(serve, run, answer)[kind]
    assert result.n_equal == 0
    assert result.n_compared > 0
    assert result.note.startswith("token 0 of ")


def test_without_tokenize_nothing_is_compared_and_the_reason_is_named(serve: Any, captured: Any) -> None:
    run, _ = captured("chatml")

    def answer(handler: Handler, question: Any) -> Any:
        return handler.reply(404, b"Not Found") if question else {"data": [{"id": "only"}]}

    for result in compare(serve, run, answer).values():
        assert (result.n_compared, result.n_equal) == (0, 0)
        assert "/tokenize answers 404 (Not Found)" in result.note
