"""A model and data that are loaded already, captured without a word of where they came from."""

import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pytest
import torch
import zarr
from datasets import Dataset
from nbclient import NotebookClient
from peft import LoraConfig, PeftModel

from lorascope.capture import (
    AdapterError,
    CaptureConfig,
    CaptureProgress,
    attach_adapter,
    capture,
    load_model,
    read_items,
)
from lorascope.capture.recording.progress import progress_bar
from lorascope.capture.reforward import reforward
from lorascope.capture.settling.data import name_data
from lorascope.cli.main import main
from lorascope.stores import Run, StoreError

from ...tiny import byte_tokenizer, llama, save_model

Capture = Callable[..., Run]


@pytest.fixture
def within(adapted: Any, tiny_tokenizer: Any, tmp_path: Path) -> Capture:
    """The adapted model captured as it lies in memory."""

    def run(data: Any, out: str = "memory.zarr", **options: Any) -> Run:
        return capture(adapted, data, tmp_path / out, **{"tokenizer": tiny_tokenizer, "js_share": 1.0, **options})

    return run


def row_digests(run: Run) -> list[bytes]:
    return [digest.tobytes() for digest in zarr.open_group(run.path, mode="r")["rows/digest"][:]]


def test_it_is_the_capture_of_the_files_in_whatever_form(
    make: Any, within: Capture, data: Path, tiny_items: Any, adapted: Any
) -> None:
    rows = [json.loads(line) for line in data.read_text().splitlines()]
    stream = Dataset.from_list(rows).to_iterable_dataset()
    assert name_data(data) == name_data([str(data)]) == ((str(data),), None)
    for form in (tiny_items, rows, read_items(data)):
        (items,) = name_data(form)[1].values()
        assert [(one.question, one.choices, one.answer) for one in items] == [
            (one.question, one.choices, one.answer) for one in tiny_items
        ]
    modes = [module.training for module in adapted.train().modules()]
    named = row_digests(make(progress=False))
    assert row_digests(within(data, "path.zarr")) == row_digests(within(stream, "stream.zarr")) == named
    assert [module.training for module in adapted.modules()] == modes
    assert not any(module._forward_hooks for module in adapted.modules())


@pytest.mark.parametrize(
    "mode", [torch.autocast("cpu", torch.bfloat16), torch.inference_mode()], ids=["autocast", "inference"]
)
def test_what_the_caller_is_in_changes_no_number(mode: Any, within: Capture, tiny_items: Any) -> None:
    named = row_digests(within(tiny_items, "named.zarr"))
    with mode:
        assert row_digests(within(tiny_items)) == named


def test_what_a_run_remembers_of_it_is_true(within: Capture, tiny_items: Any, data: Path) -> None:
    settings = within(tiny_items, tokens="answer").attributes["provenance"]["settings"]
    wanted = ["LlamaForCausalLM (in memory)", ["default=default (in memory)"], ["tiny (in memory)"]]
    assert [settings[name] for name in ("model", "adapter", "data")] == wanted
    assert [settings[name] for name in ("dtype", "device", "tokens", "share")] == ["float32", "cpu", "answer", 1]
    assert within(data, "other.zarr").attributes["provenance"]["settings"]["data"] == [str(data)]


def test_several_adapters_and_a_name_of_the_model(
    adapted: Any, tiny_adapter: Path, tiny_items: Any, within: Capture
) -> None:
    adapted.load_adapter(str(tiny_adapter), adapter_name="chat")
    adapted.get_base_model().config._name_or_path = adapted.get_base_model().name_or_path = "owner/llama"
    run = within(tiny_items, stream="base")
    settings = run.attributes["provenance"]["settings"]
    assert run.adapters == ("default", "chat")
    assert settings["adapter"] == ["default=default (in memory)", "chat=chat (in memory)"]
    assert settings["model"] == "owner/llama"
    assert adapted.active_adapters == ["default"]


def test_another_call_goes_on_and_another_capture_is_refused(within: Capture, text: Path, content: Any) -> None:
    items, options = read_items(text), {"window_tokens": 200, "batch_tokens": 400}
    whole = within(items, "whole.zarr", **options)

    class StoppedError(Exception):
        pass

    def stop(now: CaptureProgress) -> None:
        if now.stage == "capture" and now.done > 2000:
            raise StoppedError

    with pytest.raises(StoppedError):
        within(items, progress=stop, **options)
    run = within(items, progress=False, **options)
    assert content(run.path) == content(whole.path)
    with pytest.raises(StoreError, match=r"contains another capture.*data: '\w+\.\.\.' -> "):
        within([dataclasses.replace(items[0], text="others, " * 99)], **options)


def test_rows_are_computed_again_from_what_was_given(
    within: Capture, tiny_items: Any, adapted: Any, tiny_tokenizer: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    run = within(tiny_items)
    again = {"model": adapted, "tokenizer": tiny_tokenizer}
    found = reforward(str(run.path), 3, data=tiny_items, **again)
    assert found.n_equal == found.n_vectors > 0
    with pytest.raises(StoreError, match="was captured from something else: data: "):
        reforward(str(run.path), 3, data=tiny_items[1:], **again)
    with pytest.raises(ValueError, match="`data` of this capture was in memory; name files with the same content, or"):
        reforward(str(run.path), 3, **again)
    assert main(["verify", str(run.path), "--reforward", "2"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "`model`, `adapter`, `data` of this capture was in memory; name files with the same content" in line


def test_a_run_of_memory_is_computed_again_from_files_that_hold_the_same(
    tiny_model: Any, tiny_tokenizer: Any, tiny_adapter: Path, data: Path, tmp_path: Path
) -> None:
    folder = str(save_model(tmp_path / "model", tiny_model, tiny_tokenizer))
    model, tokenizer = load_model(folder)
    adapted = attach_adapter(model, tiny_adapter)
    run = capture(adapted, read_items(data), tmp_path / "run.zarr", tokenizer=tokenizer)
    assert run.attributes["provenance"]["settings"]["model"] == folder
    named = {"adapter": (str(tiny_adapter),), "data": (str(data),)}
    found = reforward(str(run.path), 2, overrides=named)
    assert found.n_equal == found.n_vectors > 0


MISTAKES: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "no adapter": ({"model": llama(300)}, AdapterError, "the model is a plain LlamaForCausalLM without an "),
    "a compiled model": (
        {"model": torch.compile(PeftModel(llama(300), LoraConfig(target_modules=["q_proj"])), backend="eager")},
        AdapterError,
        "the model is a OptimizedModule, which hides a `PeftModel`; give that, `model._orig_mod`",
    ),
    "a model's name": ({"model": "owner/name"}, TypeError, "`model` is 'owner/name'; give a loaded `PeftMo"),
    "no model": ({"model": None}, TypeError, "give `capture` a `CaptureConfig`, or one `model` with `data`, "),
    "no data": ({"data": None}, TypeError, "give `capture` a `CaptureConfig`, or one `model` with `data`, "),
    "no tokenizer": ({"tokenizer": None}, ValueError, "`tokenizer` is missing; give the model's own, a fast"),
    "no such tokenizer": ({"tokenizer": "gpt2"}, ValueError, "`tokenizer` is a str; give the model's own, a"),
    "close option": ({"token": "answer"}, TypeError, "has no option `token`; did you mean 'tokens'"),
    "no such option": ({"zzz": 1}, TypeError, "`capture` has no option `zzz`; `CaptureConfig` names them all"),
    "how to load": ({"dtype": "float16"}, TypeError, "`dtype` says how a model is loaded, and this one is;"),
    "its adapter": ({"adapter": "my-adapter"}, TypeError, "`adapter` says how a model is loaded, and this one is;"),
    "option's value": ({"tokens": "most"}, ValueError, "`tokens` is 'most'"),
    "no such file": ({"data": "no.jsonl"}, FileNotFoundError, "data file 'no.jsonl' doesn't exist"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_told_in_a_line(
    mistake: str, adapted: Any, tiny_items: Any, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    change, error, words = MISTAKES[mistake]
    options = {"model": adapted, "data": tiny_items, "tokenizer": tiny_tokenizer, "out": tmp_path / "run.zarr"}
    with pytest.raises(error) as found:
        capture(**{**options, **change})
    assert words in str(found.value)
    assert "\n" not in str(found.value)
    assert not (tmp_path / "run.zarr").exists()


def test_the_tokenizer_of_another_model_is_refused(within: Capture, tiny_items: Any) -> None:
    larger = byte_tokenizer([*("Ġthe", "An", "swer"), "Choose", "correct", "following", "question"])
    with pytest.raises(ValueError, match=r"sample 'a' has token \d+, but the model knows \d+, from 0; give the tokeni"):
        within(tiny_items, tokenizer=larger)


def test_an_item_that_stands_twice_is_refused(within: Capture, tiny_items: Any) -> None:
    with pytest.raises(ValueError, match="item 'a' of 'tiny' is twice in `data`; give each its own `id`"):
        within([*tiny_items, tiny_items[0]])


def test_other_prompts_are_put_to_the_questions_among_the_items(within: Capture, tiny_items: Any) -> None:
    (completion,) = read_items([{"prompt": "Iron is", "completion": " a metal."}])
    run = within([tiny_items[0], completion, tiny_items[1]], prompt=("main", "prompt3"))
    found = list(zip(run.samples["id"].values, run.samples["prompt"].values, strict=True))
    assert found == [("a", "main"), ("data:0", "completion"), ("b", "main"), ("a", "prompt3"), ("b", "prompt3")]


def test_beside_a_config_nothing_else_is_said(adapted: Any, tiny_tokenizer: Any, tmp_path: Path) -> None:
    config = CaptureConfig(model="m", adapter=("a",), data=("d.jsonl",), out=str(tmp_path / "run.zarr"))
    for name in ("data", "out", "tokens"):
        with pytest.raises(TypeError, match=f"`{name}` is given together with a `CaptureConfig`; set it there"):
            capture(config, model=adapted, tokenizer=tiny_tokenizer, **{name: "x"})


# The bar.


def test_on_a_terminal_there_is_a_bar_a_stage_and_elsewhere_none(
    within: Capture, tiny_items: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    within(tiny_items, "quiet.zarr")
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    within(tiny_items)
    out, shown = capsys.readouterr()
    assert out == ""
    last = [line.rpartition("\r")[2].partition("|")[0] for line in shown.split("\n")]
    assert last == ["score: 100%", "score base: 100%", "capture: 100%", ""]
    within(tiny_items, "ablated.zarr", score=False, batch_tokens=50, ablate="layers", ablate_share=1.0)
    ends = [line.rpartition("\r")[2].partition("|")[0] for line in capsys.readouterr().err.split("\n")]
    assert {"ablate: 100%", "capture: 100%"} <= set(ends)  # side by side, to the end of both
    with progress_bar() as show:
        for done in range(1, 8):  # faster than tqdm draws
            show(CaptureProgress("ablate", done, 7, "passes"))
        assert capsys.readouterr().err.rpartition("\r")[2].startswith("ablate: 100%")
    capsys.readouterr()
    within(tiny_items, progress=False)
    assert capsys.readouterr() == ("", "")
    monkeypatch.setenv("RANK", "1")
    with progress_bar() as show:
        show(CaptureProgress("capture", 1, 2, "token"))
    assert capsys.readouterr() == ("", "")


CELL = """
from pathlib import Path
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
from lorascope.capture import capture

base = AutoModelForCausalLM.from_pretrained("model")
model = PeftModel.from_pretrained(base, "adapter")
"""


@pytest.mark.slow
def test_a_notebook_shows_its_bar(
    tiny_model: Any, tiny_tokenizer: Any, tiny_adapter: Path, data: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    save_model(tmp_path / "model", tiny_model, tiny_tokenizer)
    tiny_adapter.rename(tmp_path / "adapter")
    call = f'capture(model, "{data.name}", "run.zarr", tokenizer=AutoTokenizer.from_pretrained("model")).n_tokens'
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in (CELL, call)])
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = notebook.cells[1].outputs
    shown = "".join(output.get("text", "") + str(output.get("data", "")) for output in outputs)
    assert "capture: 100%" in shown
    assert "Warning" not in shown
