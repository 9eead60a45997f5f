"""Captures with several prompts, examples and the model's own answers."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lorascope.analyze import group_by, miub
from lorascope.analyze.miub.compare_runs import paired
from lorascope.analyze.results.scores import scores
from lorascope.capture import CaptureConfig, CaptureProgress, capture
from lorascope.capture.reforward import reforward
from lorascope.capture.samples.generate import parse_choice
from lorascope.capture.samples.items import ChoiceItem
from lorascope.capture.samples.prompt import PROMPTS, Examples, read_template, render
from lorascope.stores import StoreError, verify
from lorascope.stores.format.tables import ROLES

SMALL: dict[str, Any] = {"states": "none", "batch_tokens": 400}


@pytest.fixture
def more(tiny_items: Any, tmp_path: Path) -> Path:
    """Two other items of the data set, in other words."""
    path = tmp_path / "more" / "tiny.valid.jsonl"
    path.parent.mkdir()
    rows = [("x", "5 + 5?", ["9", "10"], 1), ("y", "Sky?", ["blue", "red", "so"], 0)]
    names = ("id", "question", "choices", "answer")
    path.write_text("\n".join(json.dumps(dict(zip(names, row, strict=True))) for row in rows))
    return path


def wanted_prompt(name: str, item: Any) -> str:
    """A sample's prompt, with examples of the items of `more`."""
    pool = [
        ChoiceItem(id="x", dataset="tiny", split="valid", question="5 + 5?", choices=("9", "10"), answer=1),
        ChoiceItem(id="y", dataset="tiny", split="valid", question="Sky?", choices=("blue", "red", "so"), answer=0),
    ]
    return render(read_template(name), item, Examples(pool, seed=0).draw(item)).text


def test_every_prompt_is_put_to_every_item(make: Any, tiny_items: Any, more: Path, data: Path, text: Path) -> None:
    # One token of the text is all that it takes; its place is with the first prompt.
    text.write_text("the question is the answer")
    run = make(prompt=PROMPTS, examples=str(more), data=(str(text), str(data)), window_tokens=50, **SMALL)
    names = run.samples["prompt"].values.tolist()
    assert names == ["text", *["main"] * 6, *["prompt1"] * 6, *["prompt2"] * 6, *["prompt3"] * 6]
    assert run.samples["id"].values.tolist() == ["text:0", *"abcdef" * 4]
    for index, (start, stop) in enumerate(
        zip(run.samples["token_start"].values[1:], run.samples["token_stop"].values[1:], strict=True)
    ):
        item = tiny_items[index % 6]
        tokens = run.tokens.isel(token=slice(int(start), int(stop)))
        roles = tokens["role"].values
        if item.question.isascii():  # a token of half a character has no text of its own
            assert "".join(tokens["text"].values[roles < 2][1:]) == wanted_prompt(names[index + 1], item)
            own = "".join(tokens["text"].values[roles == 1])
            assert own.replace(" ", "") == "".join(item.choices).replace(" ", "")
            assert "".join(tokens["text"].values[roles == 2]) == f" {item.choices[item.answer]}"
    assert verify(run.path).ok
    described = run.attributes["provenance"]["prompt"]
    assert described["names"] == list(PROMPTS)
    assert described["examples"]["n_items"] == 2


def test_prompts_are_told_apart_in_analysis(make: Any, more: Path, tmp_path: Path) -> None:
    run = make(prompt=("main", "prompt2"), examples=(str(more),), **SMALL)
    alone = {name: make(f"{name}.zarr", prompt=name, examples=(str(more),), **SMALL) for name in ("main", "prompt2")}
    together = miub(run)
    by_prompt = group_by(together, ["prompt"])
    assert by_prompt["prompt"].values.tolist() == ["main", "prompt2"]
    assert by_prompt["n_samples"].values.tolist() == [6, 6]
    for index, one in enumerate(alone.values()):
        # Batches end elsewhere, which changes float32 sums by about 1e-6.
        np.testing.assert_allclose(by_prompt["miub"].values[index], float(miub(one)["miub"]), rtol=1e-4)
        both = paired(together, miub(one))  # each sample with itself, or the difference would be as large as MIUB
        assert both["n_samples"] == 6
        assert abs(float(both["difference"])) < 1e-4 * float(by_prompt["miub"][index])
    found = {(score.dataset, score.measure): score for score in scores(run)}
    for name, one in alone.items():
        (accuracy,) = [score for score in scores(one) if score.measure == "ACC"]
        assert found[f"tiny/train, {name}", "ACC"].adapted == accuracy.adapted
        assert found[f"tiny/train, {name}", "CE"].n == 6
    # Of different prompts no sample is the same.
    with pytest.raises(ValueError, match="share 0 whole samples"):
        paired(miub(alone["main"]), miub(alone["prompt2"]))


def test_asked_without_their_choices(make: Any, tiny_items: Any, tiny_tokenizer: Any, tmp_path: Path) -> None:
    brief = tmp_path / "brief.txt"
    brief.write_text("Question: {stem}\nAnswer:")
    run = make(prompt=(str(brief), "main"), answer_tokens=2, **SMALL)
    assert verify(run.path).ok
    sample = run.tokens["sample"].values
    for index, item in enumerate(tiny_items):
        ids = tiny_tokenizer(f"Question: {item.question}\nAnswer: {item.choices[item.answer]}").input_ids
        assert run.tokens["token_id"].values[sample == index].tolist() == ids
    asked = run.samples["prompt"].values[sample]
    roles = np.array(ROLES)[run.tokens["role"].values]
    assert set(roles[asked == "brief"]) == {"prompt", "answer"}
    assert set(roles[asked == "main"]) == {"prompt", "choice", "answer"}
    assert np.isfinite(run.samples["base_ce"].values).all()
    by_role = group_by(miub(run), ["role"])
    assert sorted(by_role["role"].values) == ["answer", "choice", "prompt"]


def stop(progress: CaptureProgress) -> None:
    if progress.stage == "capture":
        raise RuntimeError("enough")


def test_other_prompts_or_examples_are_not_gone_on_with(make: Any, more: Path, tmp_path: Path) -> None:
    own = tmp_path / "own.txt"
    own.write_text("{example}\n\n{question}\nThe answer is")
    settings: dict[str, Any] = {**SMALL, "prompt": ("main", str(own)), "examples": (str(more),), "batch_tokens": 200}
    with pytest.raises(RuntimeError, match="enough"):
        make(progress=stop, **settings)

    def refused(words: str, **changed: Any) -> None:
        with pytest.raises(StoreError, match=f"contains another capture.*{words}"):
            make(**{**settings, **changed})

    refused(r"prompt.names: \['main', 'own'\] -> \['own', 'main'\]", prompt=(str(own), "main"))
    refused(r"prompt.templates.own: .* -> nothing", prompt=("main",))
    own.write_text("{example}\n\n{question}\nThe answer is:")
    refused(r"prompt.templates.own.sha256: '.*' -> '.*prompt.templates.own.text: ")
    own.write_text("{example}\n\n{question}\nThe answer is")
    before = more.read_text()
    more.write_text(before.replace("blue", "azure"))
    refused(r"prompt.examples.sha256: '")
    more.write_text(before)
    refused(r"settings.answer_tokens: 0 -> 4", answer_tokens=4)
    # The same in another place is the same.
    for file in (own, more):
        (tmp_path / "moved").mkdir(exist_ok=True)
        file.rename(tmp_path / "moved" / file.name)
    moved = {"prompt": ("main", str(tmp_path / "moved/own.txt")), "examples": str(tmp_path / "moved" / more.name)}
    assert make(**{**settings, **moved}).finished


def test_prompts_come_again_when_a_run_is_computed_again(
    make: Any, adapted: Any, tiny_tokenizer: Any, more: Path
) -> None:
    run = make(prompt=("prompt2", "prompt3"), examples=(str(more),), answer_tokens=3, **SMALL)
    found = reforward(str(run.path), 2, model=adapted, tokenizer=tiny_tokenizer)
    assert found.n_equal == found.n_vectors > 0


def written_by_transformers(model: Any, tokenizer: Any, prompt: str, n: int) -> str:
    ids = torch.tensor([tokenizer(prompt).input_ids])
    out = model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=n, pad_token_id=2
    )
    return str(tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True))


def test_answers_are_kept_with_and_without_the_adapter(
    make: Any, adapted: Any, tiny_items: Any, tiny_tokenizer: Any, data: Path, text: Path
) -> None:
    text.write_text("the question is the answer")
    stages: list[str] = []
    run = make(
        model=adapted,
        data=(str(data), str(text)),
        window_tokens=50,
        prompt=("prompt3", "main"),
        answer_tokens=5,
        progress=lambda p: stages.append(p.stage),
        **SMALL,
    )
    asked_for = ["answer", "answer base", "score", "score base"]
    assert list(dict.fromkeys(stages)) == ["check", *asked_for, "hash weights", "set up", "capture"]
    asked = [(name, item) for name in ("prompt3", "main") for item in tiny_items]
    prompts = [render(read_template(name), item).text for name, item in asked]
    with_adapter = [written_by_transformers(adapted, tiny_tokenizer, prompt, 5) for prompt in prompts]
    with adapted.disable_adapter():
        without = [written_by_transformers(adapted, tiny_tokenizer, prompt, 5) for prompt in prompts]
    assert with_adapter != without
    is_item = run.samples["answer"].values >= 0
    for prefix, texts in (("", with_adapter), ("base_", without)):
        found = run.samples[f"{prefix}written"].values
        assert found[is_item].tolist() == texts
        read = [parse_choice(text, item.choices) for text, (_, item) in zip(texts, asked, strict=True)]
        assert run.samples[f"{prefix}written_prediction"].values[is_item].tolist() == read
        right = [int(one == item.answer) for one, (_, item) in zip(read, asked, strict=True)]
        assert run.samples[f"{prefix}written_correct"].values[is_item].tolist() == right
        assert found[~is_item].tolist() == [""]
        for column in ("written_prediction", "written_correct"):
            assert run.samples[f"{prefix}{column}"].values[~is_item].tolist() == [-1]
    assert not [name for name in make("plain.zarr", **SMALL).samples if "written" in str(name)]


def test_refused_before_anything_is_loaded(tmp_path: Path, data: Path, more: Path) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 4, "lora_alpha": 8}')
    (adapter / "adapter_model.safetensors").touch()

    def refused(error: type[Exception], words: str, **settings: Any) -> None:
        options = {"model": "nowhere", "adapter": str(adapter), "data": str(data), "out": str(tmp_path / "x")}
        options |= settings
        with pytest.raises(error, match=words):
            capture(CaptureConfig(**options))

    refused(ValueError, "prompt 'prompt1' shows examples, but `examples` is empty", prompt="prompt1")
    refused(FileNotFoundError, "prompt file '.*no.txt' doesn't exist", prompt=str(tmp_path / "no.txt"))
    other = tmp_path / "other.jsonl"
    other.write_text(more.read_text())
    refused(
        ValueError, "`examples` holds none of data set 'tiny', only of other", prompt="prompt2", examples=str(other)
    )
    assert not (tmp_path / "x").exists()
