"""What files alone show about a capture is refused before anything is loaded, and nothing else is."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from transformers import AutoTokenizer

from lorascope.capture import CaptureConfig
from lorascope.capture.models.source import require_widths
from lorascope.capture.samples.items import ChoiceItem, CompletionItem, TextItem
from lorascope.capture.samples.sources import read_items
from lorascope.capture.settling import early
from lorascope.capture.settling.early import (
    check_files,
    count_tokens,
    output_widths,
    require_device_name,
    token_counter,
)
from lorascope.stores import StoreError

from ...tiny import save_model


@pytest.fixture
def settings(tiny_model: Any, tiny_tokenizer: Any, tiny_adapter: Path, tmp_path: Path) -> dict[str, Any]:
    """Settings of a capture whose files are all fit."""
    model = save_model(tmp_path / "model", tiny_model, tiny_tokenizer)
    data = tmp_path / "data.jsonl"
    data.write_text('{"prompt": "abc", "completion": " def"}\n')
    return {"model": str(model), "adapter": (str(tiny_adapter),), "data": (str(data),), "out": str(tmp_path / "run")}


def write_lines(settings: dict[str, Any], *records: Any) -> None:
    Path(settings["data"][0]).write_text("".join(f"{json.dumps(record)}\n" for record in records))


def change_config(settings: dict[str, Any], **entries: Any) -> None:
    file = Path(settings["model"], "config.json")
    file.write_text(json.dumps(json.loads(file.read_text()) | entries))


def test_fit_files_are_not_refused(settings: dict[str, Any]) -> None:
    check_files(CaptureConfig(**settings, component=("*.q_proj",), device="cpu"), runs_here=True)


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ({"massages": []}, "line 2: the format isn't known"),
        ({"text": "a"}, "line 2: it holds `text`, where line 1 holds `completion`"),
        ({"prompt": "a", "completion": 1}, "line 2: `prompt` is 'a' and `completion` 1"),
    ],
)
def test_every_line_of_small_data_is_read(settings: dict[str, Any], second: Any, message: str) -> None:
    write_lines(settings, {"prompt": "abc", "completion": "d"}, second)
    for runs_here in (False, True):
        with pytest.raises(ValueError, match=message):
            check_files(CaptureConfig(**settings), runs_here=runs_here)


def test_large_data_is_left_to_the_capture(settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    write_lines(settings, {"massages": []})
    monkeypatch.setattr(early, "MAX_BYTES", 10)
    check_files(CaptureConfig(**settings), runs_here=True)


@pytest.mark.parametrize(
    "record",
    [
        {"prompt": "abc " * 40, "completion": "x"},
        {"messages": [{"role": "user", "content": "abc " * 40}, {"role": "assistant", "content": "x"}]},
        {"question": "abc " * 40, "choices": ["a", "b"], "answer": 0},
    ],
)
def test_a_text_longer_than_the_context_is_refused(settings: dict[str, Any], record: Any) -> None:
    write_lines(settings, record | {"id": "first"})
    check_files(CaptureConfig(**settings), runs_here=True)
    change_config(settings, max_position_embeddings=32)
    with pytest.raises(
        ValueError, match=r"sample 'first' has a text of \d+ tokens; the context has 32: leave the item"
    ):
        check_files(CaptureConfig(**settings), runs_here=True)


@pytest.mark.parametrize(
    "record",
    [
        {"text": "abc " * 40},  # it is cut into windows
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "abc " * 40 + "</think>b"}]},
    ],
)
def test_what_may_be_cut_is_not_refused(settings: dict[str, Any], record: Any) -> None:
    write_lines(settings, record)
    change_config(settings, max_position_embeddings=32)
    check_files(CaptureConfig(**settings), runs_here=True)


def test_a_context_that_is_no_length_is_ignored(settings: dict[str, Any]) -> None:
    change_config(settings, max_position_embeddings=-1)
    check_files(CaptureConfig(**settings), runs_here=True)


def test_damaged_files_of_a_model_are_left_to_loading(settings: dict[str, Any]) -> None:
    Path(settings["model"], "tokenizer.json").write_text("{")
    check_files(CaptureConfig(**settings, component=("*.x",)), runs_here=True)


def test_a_pattern_of_no_component_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(StoreError, match=r"'\*.qproj' fits none of the \d+ components.*did you mean '\*.q_proj'"):
        check_files(CaptureConfig(**settings, component=("*.qproj",)), runs_here=False)
    change_config(settings, text_config={})  # such models rename layers
    check_files(CaptureConfig(**settings, component=("*.qproj",)), runs_here=False)


@pytest.mark.parametrize("name", ["gpu", "cuda:x", "meta", "cuda0", ""])
def test_an_unknown_device_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="allowed are 'auto', 'cpu'"):
        require_device_name(name)


@pytest.mark.parametrize(("built", "refused"), [("None", True), ("'12.8'", False)])
def test_a_gpu_needs_a_torch_that_is_built_for_it(
    built: str, refused: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch/__init__.py").touch()
    (tmp_path / "torch/version.py").write_text(f"cuda: Optional[str] = {built}\nhip: Optional[str] = None\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "torch")
    require_device_name("cpu")
    if refused:
        with pytest.raises(ValueError, match="'cuda:1', but torch is built without CUDA"):
            require_device_name("cuda:1")
    else:
        require_device_name("cuda:1")


def test_a_run_far_larger_than_the_disk_is_refused(settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lorascope.stores.places.folder.FolderPlace.free_bytes", lambda self: 1000)
    config = CaptureConfig(**settings)
    with pytest.raises(StoreError, match=r"more than .* where 1 kB are free; `lorascope plan`.*`--overfill`"):
        check_files(config, runs_here=True)
    check_files(config, runs_here=False)
    for option in ({"overfill": True}, {"states": "none"}, {"budget": "1GB"}, {"tokens": "share:0.1"}):
        check_files(CaptureConfig(**settings, **option), runs_here=True)


def test_tokens_are_counted_as_the_model_counts_them(settings: dict[str, Any]) -> None:
    write_lines(settings, *({"prompt": f"abc {n}" * (n + 1), "completion": " de", "id": n} for n in range(9)))
    items = read_items(settings["data"][0])
    tokenizer = AutoTokenizer.from_pretrained(settings["model"])
    texts = [f"abc {n}" * (n + 1) + " de" for n in range(9)]
    expected = sum(len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts)
    count = token_counter(Path(settings["model"], "tokenizer.json"))
    assert count_tokens(items, count) == expected > 9
    assert count_tokens([TextItem(id="a", dataset="", split="", text="abc")], count) == 0


def test_padding_of_the_tokenizers_file_is_no_text(settings: dict[str, Any]) -> None:
    file = Path(settings["model"], "tokenizer.json")
    n = token_counter(file)("abc")
    padding = {"direction": "Right", "pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0, "pad_token": "a"}
    file.write_text(json.dumps(json.loads(file.read_text()) | {"padding": padding | {"strategy": {"Fixed": 64}}}))
    assert token_counter(file)("abc") == n < 64


def test_of_a_question_only_what_every_prompt_shows_is_counted() -> None:
    item = ChoiceItem(id="a", dataset="", split="", question="abc", choices=("defg", "hijkl"), answer=0)
    assert count_tokens([item], len) == 3


@pytest.mark.parametrize("content", ["[]", "3", '"a"', '{"text_config": null}', '{"text_config": [1]}'])
def test_a_configuration_of_another_form_is_left_to_loading(settings: dict[str, Any], content: str) -> None:
    Path(settings["model"], "config.json").write_text(content)
    check_files(CaptureConfig(**settings, component=("*.q_proj",)), runs_here=True)


def test_the_least_size_of_a_run_is_by_what_would_be_stored(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[float] = []
    monkeypatch.setattr(early, "require_room", lambda out, n_bytes: sizes.append(n_bytes))
    change_config(settings, dtype="float32", torch_dtype="float32")
    for options in ({}, {"dtype": "float32"}, {"dtype": "bfloat16"}, {"store": "bf16"}, {"generate": 3}):
        check_files(CaptureConfig(**settings, **options), runs_here=True)
    whole = sizes[0]
    assert sizes == [whole, whole, whole / 2, whole / 2]
    change_config(settings, dtype="bfloat16", torch_dtype="bfloat16")
    check_files(CaptureConfig(**settings, dtype="float32"), runs_here=True)
    assert sizes[-1] == whole


def test_layers_of_experts_are_left_to_loading(tmp_path: Path) -> None:
    """A capture excludes them, since not every token passes them."""
    for path, expected in (("mlp.up_proj", 3), ("mlp.experts.7.up_proj", 0)):
        weights = {f"base_model.model.{path}.lora_{side}.weight": np.ones((3, 3), np.float32) for side in "AB"}
        save_file(weights, tmp_path / "adapter_model.safetensors")
        widths = output_widths(CaptureConfig(model="m", adapter=(str(tmp_path),), data=("d",), out="o"))
        assert sum(widths.values()) == expected


@pytest.mark.parametrize(
    "facts",
    [5, None, {}, {"dtype": "F32"}, {"dtype": "F32", "shape": 5}, {"dtype": 1, "shape": [2, 2]},
     {"dtype": "F32", "shape": ["a", 2]}],
)  # fmt: skip
def test_a_damaged_header_of_an_adapter_is_left_to_loading(settings: dict[str, Any], facts: Any) -> None:
    file = Path(settings["adapter"][0], "adapter_model.safetensors")
    header = json.dumps({"base_model.model.a.lora_B.weight": facts}).encode()
    file.write_bytes(len(header).to_bytes(8, "little") + header)
    check_files(CaptureConfig(**settings), runs_here=True)
    require_widths(Path(settings["model"]), file.parent)


def test_a_tokenizer_that_fails_is_left_to_loading(settings: dict[str, Any], tmp_path: Path) -> None:
    file = Path(settings["model"], "tokenizer.json")
    words = {"model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "[UNK]"}}
    file.write_text(json.dumps(words))
    assert token_counter(file)("abc") == 0
    check_files(CaptureConfig(**settings), runs_here=True)
    file.unlink()
    os.mkfifo(file)
    check_files(CaptureConfig(**settings), runs_here=True)  # it isn't waited for


def test_long_and_short_items_in_turns_are_counted_alike() -> None:
    items = [
        CompletionItem(id=str(n), dataset="", split="", prompt="a" * (1 + 999 * (n % 2)), completion="b")
        for n in range(512)
    ]
    assert count_tokens(items, len) == pytest.approx(512 * 501.5, rel=0.15)
