"""Checks of a model's and an adapter's files before either is loaded."""

from pathlib import Path
from typing import Any

import pytest
from peft import LoraConfig, get_peft_model
from transformers import GPT2Config, GPT2LMHeadModel

from lorascope.capture import AdapterError, CaptureConfig
from lorascope.capture.models.source import require_widths
from lorascope.capture.settling.inputs import require_inputs

from ...tiny import llama, save_model


def test_an_adapter_of_another_width_is_refused_by_its_header(
    tiny_model: Any, tiny_tokenizer: Any, tiny_adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = save_model(tmp_path / "own", tiny_model, tiny_tokenizer)
    other = save_model(tmp_path / "other", llama(len(tiny_tokenizer), hidden_size=48), tiny_tokenizer)
    data = tmp_path / "data.jsonl"
    data.write_text('{"text": "abc"}\n')
    monkeypatch.setattr("safetensors.safe_open", None)  # no weight is read
    settings = {"adapter": (str(tiny_adapter),), "data": (str(data),), "out": str(tmp_path / "run")}
    require_inputs(CaptureConfig(model=str(own), **settings))
    words = r"doesn't fit the model: 'base_model\..*lora_[AB]\.weight' has a width of 32, where '.*' is .*; give the"
    with pytest.raises(AdapterError, match=words):
        require_inputs(CaptureConfig(model=str(other), **settings))
    require_inputs(CaptureConfig(model=str(other), **settings), weights=False)  # `plan` lists all that is wrong


def test_layers_that_keep_matrices_the_other_way_round_fit(tmp_path: Path) -> None:
    model = GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=1, n_head=2, vocab_size=64, n_positions=32))
    model.save_pretrained(tmp_path / "model")
    config = LoraConfig(r=2, target_modules=["c_attn", "c_fc"], fan_in_fan_out=True)
    get_peft_model(model, config).save_pretrained(tmp_path / "adapter")
    require_widths(tmp_path / "model", tmp_path / "adapter")


def test_damaged_files_are_left_to_loading(tiny_model: Any, tiny_adapter: Path, tmp_path: Path) -> None:
    tiny_model.save_pretrained(tmp_path / "model")
    for folder in (tmp_path / "model", tiny_adapter):
        (file,) = folder.glob("*.safetensors")
        file.write_bytes(file.read_bytes()[:20])
        require_widths(tmp_path / "model", tiny_adapter)
