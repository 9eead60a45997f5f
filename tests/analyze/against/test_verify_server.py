"""`lorascope verify RUN --against http://...`: verdicts, exit codes and one line for each mistake."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lorascope.cli.main import main
from lorascope.stores import Run

from ...tiny import llama, save_model
from .conftest import Answer, Handler, tokenizing

pytestmark = pytest.mark.torch


def predicting(run: Run, column: str, tokenizer: Any) -> Answer:
    """What vLLM would answer, were it to predict as the run does by this column of its changes."""
    values, starts = run.changes()[column].values, run.samples["token_start"].values
    ids, known = run.tokens["token_id"].values, {}
    for start, stop in zip(starts, run.samples["token_stop"].values, strict=True):
        known[tuple(ids[start:stop].tolist())] = values[start:stop]
    encode = tokenizing(tokenizer)

    def answer(handler: Handler, question: Any) -> Any:
        if handler.path != "/v1/completions":
            return encode(handler, question)
        prompt = question["prompt"]
        nll = known[tuple(prompt)].tolist()
        listed = [None, *({str(token): {"logprob": -own}} for token, own in zip(prompt[1:], nll[1:], strict=True))]
        return {"choices": [{"prompt_logprobs": listed}]}

    return answer


@pytest.fixture
def ask(
    serve: Any, captured: Callable[..., tuple[Run, Any]], capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, Any, str]]:
    def ask(
        column: str, *words: str, module: str = "q_proj", change: Callable[[Any], None] = lambda _: None
    ) -> tuple[int, Any, str]:
        run, tokenizer = captured("llama3", module)
        tokenizer = copy.deepcopy(tokenizer)
        change(tokenizer)
        server = serve(predicting(run, column, tokenizer))
        code = main(["verify", str(run.path), "--against", server.url, *words])
        printed, errors = capsys.readouterr()
        return code, json.loads(printed) if "--json" in words else printed, errors

    return ask


def test_a_server_that_predicts_as_the_adapter(ask: Callable[..., Any]) -> None:
    code, answer, _ = ask("adapted_nll", "--json")
    assert (code, answer["verdict"], answer["not_compared"]) == (0, "adapter", [])
    assert answer["all"]["slope"] == pytest.approx(1)
    assert [line.split(", ")[0] for line in answer["texts"]] == ["as text", "as chat"]
    code, printed, _ = ask("adapted_nll", "--served-model", "mine")
    assert code == 0
    assert printed.startswith("It is the adapter")
    assert "samples have the run's tokens" in printed


def test_a_server_that_predicts_as_the_base(ask: Callable[..., Any]) -> None:
    code, answer, _ = ask("base_nll", "--json")
    assert (code, answer["verdict"]) == (1, "base")
    assert answer["all"]["slope"] == pytest.approx(0)


def test_a_server_with_another_template_is_something_else(ask: Callable[..., Any]) -> None:
    def double_newlines(tokenizer: Any) -> None:
        tokenizer.chat_template = tokenizer.chat_template.replace("\\n", "\\n\\n")

    code, answer, _ = ask("adapted_nll", "--json", change=double_newlines)
    assert (code, answer["verdict"]) == (1, "else")
    assert "it predicts as the adapter, but as chat, " in answer["sentence"]


def test_of_an_adapter_on_lm_head_vllm_shows_only_the_rest(ask: Callable[..., Any]) -> None:
    code, answer, _ = ask("base_nll", "--json", module="lm_head")
    assert (code, answer["verdict"]) == (3, "unknown")
    assert "adds in lm_head out of a prompt's probabilities (its issue 51594)" in answer["sentence"]
    code, answer, _ = ask("adapted_nll", "--json", module="lm_head")
    assert (code, answer["verdict"]) == (0, "adapter")


def test_the_template_of_a_folder_is_not_compared(
    captured: Callable[..., tuple[Run, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, tokenizer = captured("llama3")
    folder = save_model(tmp_path / "base", llama(len(tokenizer)), tokenizer)
    assert main(["verify", str(run.path), "--against", str(folder), "--json"]) == 1
    answer = json.loads(capsys.readouterr().out)
    assert answer["verdict"] == "base"
    assert answer["not_compared"][-1] == "the chat template, which a run doesn't keep"


def test_mistakes_are_named_in_one_line(
    ask: Callable[..., Any], captured: Callable[..., tuple[Run, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, errors = ask("adapted_nll", "--device", "cpu")
    assert (code, errors.count("\n")) == (2, 1)
    assert "`--device` is for a merged model" in errors
    run = str(captured("llama3")[0].path)
    for words, message in {
        ("--served-model", "mine"): "`--served-model` is a name on a server",
        ("--against", "http://me@host"): "'host' isn't a server's address",
        ("--against", "some/folder", "--served-model", "mine"): "'some/folder' isn't the address of one",
    }.items():
        assert main(["verify", run, *words]) == 2
        errors = capsys.readouterr().err
        assert message in " ".join(errors.split())
