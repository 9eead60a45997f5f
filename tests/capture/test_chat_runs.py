"""Chats and completions from a file to a run: planned, scored, captured, generated, computed again, and trained on."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lorascope.analyze import miub
from lorascope.analyze.results.scores import scores
from lorascope.capture import CaptureConfig, FinetuneConfig, attach_adapter, capture, finetune, plan, read_items
from lorascope.capture.reforward import reforward
from lorascope.capture.samples.encode import encode_items
from lorascope.capture.training.trainer import collate
from lorascope.stores import Run, verify
from lorascope.stores.format.tables import ROLES

from ..chats import chat_tokenizer, conversations
from ..tiny import llama, save_model

CHATS = conversations(7)


def tiny_llama(tokenizer: Any) -> Any:
    """A tiny model whose special tokens are Llama 3's."""
    return llama(len(tokenizer), bos_token_id=0, eos_token_id=4, pad_token_id=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with Llama 3's template, an adapter, and data in three formats."""
    path = tmp_path_factory.mktemp("chats")
    tokenizer = chat_tokenizer("llama3")
    model = tiny_llama(tokenizer)
    save_model(path / "model", model, tokenizer)
    items = read_items([{"messages": messages} for messages in CHATS])
    settings = FinetuneConfig(rank=2, learning_rate=1e-2, batch_size=4, max_steps=3)
    finetune(model, tokenizer, items, path / "adapter", settings)
    for name, rows in {
        "chats": [{"messages": messages} for messages in CHATS],
        "split": [{"prompt": messages[:-1], "completion": messages[-1:]} for messages in CHATS],
        "texts": [{"prompt": f"{n} + {n} =", "completion": f" {2 * n}"} for n in range(5)],
    }.items():
        (path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def config(folder: Path) -> Callable[..., CaptureConfig]:
    def make(data: str, out: str, **settings: Any) -> CaptureConfig:
        return CaptureConfig(
            model=str(folder / settings.pop("model", "model")),
            adapter=(str(folder / "adapter"),),
            data=(str(folder / f"{data}.jsonl"),),
            out=str(folder / out),
            **{"js_share": 1.0, "batch_tokens": 150, "device": "cpu", **settings},
        )

    return make


@pytest.fixture(scope="module")
def whole(config: Callable[..., CaptureConfig]) -> Run:
    return capture(config("chats", "whole.zarr"))


@pytest.fixture(scope="module")
def loaded(folder: Path) -> tuple[Any, Any]:
    tokenizer = chat_tokenizer("llama3")
    return attach_adapter(tiny_llama(tokenizer), folder / "adapter").eval(), tokenizer


def masked_losses(model: Any, tokenizer: Any, prompts: list[int]) -> list[float]:
    """CE of each chat by transformers' own loss, on the assistant's turns after the prompt; by special tokens."""
    start, header, end = map(
        tokenizer.convert_tokens_to_ids, ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
    )
    losses = []
    for messages, n_prompt in zip(CHATS, prompts, strict=True):
        ids = tokenizer.apply_chat_template(messages, return_dict=False)
        labels, place = [-100] * len(ids), 0
        for number, message in enumerate(messages):
            place = ids.index(header, ids.index(start, place)) + 3  # the heading's two line ends
            stop = ids.index(end, place)
            if message["role"] == "assistant" and number >= n_prompt:
                labels[place : stop + 1] = ids[place : stop + 1]
        with torch.inference_mode():
            losses.append(float(model(input_ids=torch.tensor([ids]), labels=torch.tensor([labels])).loss))
    return losses


def roles_of(run: Run) -> dict[str, int]:
    names, counts = np.unique(run.tokens["role"].values, return_counts=True)
    return {ROLES[name]: int(count) for name, count in zip(names, counts, strict=True)}


def test_a_run_of_chats(config: Callable[..., CaptureConfig], loaded: tuple[Any, Any], whole: Run) -> None:
    run = whole
    assert verify(str(run.path)).ok
    assert run.samples["prompt"].values.tolist() == ["chat"] * 7
    assert run.samples["id"].values.tolist() == [f"chats.jsonl:{n}" for n in range(1, 8)]
    made = plan(config("chats", "other.zarr"), probe=False)
    assert made.roles == roles_of(run)
    assert [*made.roles] == ["system", "user", "assistant", "template"]
    assert made.as_dict()["n_tokens_by_role"] == made.roles
    assert sum(made.roles.values()) == made.n_all_tokens == run.n_tokens
    # CE is of the assistant's tokens, with and without the adapter, as transformers computes it.
    model, tokenizer = loaded
    np.testing.assert_allclose(run.samples["ce"].values, masked_losses(model, tokenizer, [0] * 7), rtol=1e-5)
    with model.disable_adapter():
        np.testing.assert_allclose(run.samples["base_ce"].values, masked_losses(model, tokenizer, [0] * 7), rtol=1e-5)
    # And of all of them together, each token weighing the same; nll by token says the same.
    said = run.tokens["role"].values == ROLES.index("assistant")
    assert run.samples["n_targets"].values.sum() == said.sum()
    found = {score.measure: score.adapted.value for score in scores(run)}
    assert found.keys() == {"CE", "PPL"}
    assert found["CE"] == pytest.approx(run.tokens["nll"].values[said].mean(), rel=1e-5)
    assert found["PPL"] == pytest.approx(np.exp(found["CE"]))
    again = reforward(str(run.path), 2)
    assert again.n_equal == again.n_vectors > 0


def test_the_assistants_tokens_alone(config: Callable[..., CaptureConfig], whole: Run) -> None:
    some = capture(config("chats", "some.zarr", tokens="assistant"))
    assert roles_of(some) == {"assistant": roles_of(whole)["assistant"]}
    assert some.attributes["provenance"]["population"] == "the assistant's tokens"
    kept = whole.tokens["role"].values == ROLES.index("assistant")
    np.testing.assert_array_equal(some.tokens["token_id"].values, whole.tokens["token_id"].values[kept])
    words = r"`tokens` = 'assistant' takes nothing .* \(prompt, answer\); give 'prompt' or 'answer' or 'all'"
    with pytest.raises(ValueError, match=words):
        plan(config("texts", "none.zarr", tokens="assistant"), probe=False)


def test_of_a_prompt_and_completion_the_completion_is_scored(
    config: Callable[..., CaptureConfig], loaded: tuple[Any, Any], whole: Run
) -> None:
    run = capture(config("split", "split.zarr"))
    assert roles_of(run) == roles_of(whole)
    expected = masked_losses(*loaded, [len(messages) - 1 for messages in CHATS])
    np.testing.assert_allclose(run.samples["ce"].values, expected, rtol=1e-5)
    # What is scored is also what the reduction `answer` is over: the last turn alone, or all turns.
    for one, n_turns in ((run, 1), (capture(config("split", "last.zarr", tokens="last:40")), 1), (whole, 9)):
        js, found = one.js().values, miub(one, reduction="answer")["samples/js"].values
        for index, sample in enumerate(one.tokens.groupby("sample")):
            said = np.flatnonzero(sample[1]["role"].values == ROLES.index("assistant"))
            turns = np.split(said, np.flatnonzero(np.diff(said) > 1) + 1)
            kept = np.concatenate(turns[-n_turns:]) + one.samples["token_start"].values[index]
            np.testing.assert_allclose(found[index], js[kept].mean(axis=0), rtol=1e-5)
    # Of the same tokens in the same roles, what is to be predicted makes other data.
    assert run.attributes["provenance"]["data"] != whole.attributes["provenance"]["data"]


def test_the_model_goes_on_in_the_place_of_the_last_turn(
    config: Callable[..., CaptureConfig], loaded: tuple[Any, Any], whole: Run
) -> None:
    model, tokenizer = loaded
    heard: list[Any] = []
    run = capture(config("chats", "own.zarr", generate=3), progress=heard.append)
    assert {now.units for now in heard} == {"steps", "samples", "tokens"}  # chats have no choices
    assert plan(config("chats", "other.zarr", generate=3), probe=False).roles["generated"] == 3 * len(CHATS)
    for index, messages in enumerate(CHATS):
        own = run.tokens.isel(token=run.tokens["sample"].values == index)
        is_own = own["role"].values == ROLES.index("generated")
        prompt = tokenizer.apply_chat_template(messages[:-1], add_generation_prompt=True, return_dict=False)
        assert own["token_id"].values[~is_own].tolist() == prompt
        with torch.inference_mode():
            logits = model(input_ids=torch.tensor([prompt])).logits[0, -1]
        assert own["token_id"].values[is_own][0] == logits.argmax()
    # What was scored is the data's own turn, before the model's took its place.
    for name in ("ce", "n_targets"):
        np.testing.assert_array_equal(run.samples[name].values, whole.samples[name].values)


def test_training_is_on_what_the_assistant_says(folder: Path, tmp_path: Path) -> None:
    tokenizer = chat_tokenizer("llama3")
    model = tiny_llama(tokenizer)
    for name in ("chats", "split", "texts"):
        items = read_items(folder / f"{name}.jsonl")
        samples = encode_items(items, tokenizer, max_length=256, window_tokens=16)
        batch = collate(samples)
        with torch.inference_mode():
            expected = float(model(**batch).loss)
        assert (batch["labels"] != -100).sum() == sum(sample.is_target.sum() for sample in samples)
        settings = FinetuneConfig(rank=2, learning_rate=1e-2, batch_size=7, max_steps=3)
        result = finetune(copy.deepcopy(model), tokenizer, items, tmp_path / name, settings, items_eval=items)
        assert result.steps[0].loss == pytest.approx(expected, rel=1e-5) or name == "texts"  # whose batch comes again
        assert result.before is not None
        assert result.after is not None
        assert result.before.accuracy is None
        assert result.after.ce < result.before.ce
        record = json.loads((tmp_path / name / "finetune.json").read_text())
        assert record["n_target_tokens"] == (batch["labels"] != -100).sum()


def test_special_tokens_in_messages_are_noted(folder: Path, config: Callable[..., CaptureConfig]) -> None:
    rows = [{"messages": [{"role": "user", "content": f"{word}?"}, CHATS[0][-1]]} for word in ("Who", "<|eot_id|>")]
    (folder / "odd.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (note,) = plan(config("odd", "odd.zarr"), probe=False).notes
    assert note.message.startswith("1 of 2 chats of ")
    assert "text of a special token in a message, 'odd.jsonl:2' ('<|eot_id|>') the first of them" in note.message
