"""Models that accelerate spreads over the host and the disk: the same weights, the same states."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lorascope.capture.models.adapter import adapter_identity, attach_adapter
from lorascope.capture.models.device import execution_device, input_device, is_offloaded
from lorascope.capture.models.model import load_model, model_identity
from lorascope.capture.models.preflight import inspect
from lorascope.capture.models.refusal import AdapterError

from ...tiny import save_model
from ..recorded import adapt, axis, outputs_of, record

INPUTS = {"input_ids": torch.arange(3, 17).reshape(2, 7), "attention_mask": torch.ones(2, 7, dtype=torch.long)}
DEVICES = {
    "model.embed_tokens": "cpu",
    "model.layers.0": "cpu",
    "model.layers.1": "disk",
    "model.norm": "cpu",
    "model.rotary_emb": "cpu",
    "lm_head": "disk",
}


@pytest.fixture
def folder(tiny_model: Any, tiny_tokenizer: Any, tmp_path: Path) -> Path:
    return save_model(tmp_path / "model", tiny_model, tiny_tokenizer)


@pytest.fixture
def spread(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    monkeypatch.chdir(tmp_path)
    model, _ = load_model(str(folder), device_map=DEVICES)
    return model


def test_weights_are_elsewhere_and_known(spread: Any, tiny_model: Any) -> None:
    assert {p.device.type for p in spread.parameters()} == {"cpu", "meta"}
    assert is_offloaded(spread)
    assert not is_offloaded(tiny_model)
    assert model_identity(spread, "tiny") == model_identity(tiny_model, "tiny")
    assert input_device(spread) == torch.device("cpu")


@pytest.mark.parametrize("device_map", [{"": "cpu"}, "auto"])
def test_map_of_one_device(folder: Path, tiny_model: Any, device_map: Any) -> None:
    model, _ = load_model(str(folder), device_map=device_map)
    assert not is_offloaded(model)
    assert model_identity(model, "tiny") == model_identity(tiny_model, "tiny")


@pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`")
@pytest.mark.parametrize(
    "options",
    [{"target_modules": ["embed_tokens", "lm_head", "q_proj"]}, {"modules_to_save": ["lm_head"]}],
    ids=["linear and embeddings", "saved modules"],
)
def test_states_are_those_of_the_whole_model(
    spread: Any, tiny_model: Any, tmp_path: Path, options: dict[str, Any]
) -> None:
    """PEFT alone would leave the adapter's weights on the meta device, and load the base's over trained copies."""
    whole = adapt(tiny_model, **options)
    whole.save_pretrained(tmp_path / "adapter")
    devices = spread.hf_device_map
    model = attach_adapter(spread, tmp_path / "adapter")
    assert spread.hf_device_map is devices
    assert adapter_identity(model) == adapter_identity(tmp_path / "adapter")
    assert model_identity(model, "tiny") == model_identity(tiny_model, "tiny")
    assert inspect(model, ["default"], probe=INPUTS).problems == ()
    for stream in ("adapted", "base", "pair"):
        found, expected = (record(m, INPUTS, stream=stream) for m in (model, whole))
        assert set(found.kept.arrays) == set(expected.kept.arrays)
        for held, wanted in ((found.kept.arrays, expected.kept.arrays), (found.kept.factors, expected.kept.factors)):
            for key, value in wanted.items():
                assert torch.equal(held[key], value), key
    for path, output in outputs_of(whole, INPUTS, axis(expected.components)).items():
        assert torch.equal(outputs_of(model, INPUTS, [path])[path], output)


def test_trained_copies_keep_the_type_of_the_base(folder: Path, spread: Any, tmp_path: Path) -> None:
    plain, _ = load_model(str(folder), dtype="bfloat16")
    whole = adapt(plain, modules_to_save=["lm_head"])
    whole.save_pretrained(tmp_path / "adapter")
    model, _ = load_model(str(folder), device_map=DEVICES, dtype="bfloat16")
    adapted = attach_adapter(model, tmp_path / "adapter")
    with torch.inference_mode():
        assert torch.equal(adapted(**INPUTS).logits, whole(**INPUTS).logits)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"init_lora_weights": "olora"},
            r"its init changes the base weights, and some of them are offloaded; load the",
        ),
        ({"use_dora": True}, r"DoRA reads the frozen weights, which are offloaded here; load the model without"),
    ],
    ids=["init", "dora"],
)
def test_what_needs_the_base_weights(spread: Any, tiny_model: Any, tmp_path: Path, options: Any, words: str) -> None:
    adapt(tiny_model, **options).save_pretrained(tmp_path / "adapter")
    with pytest.raises(AdapterError, match=words):
        attach_adapter(spread, tmp_path / "adapter")


def test_weights_that_nobody_holds() -> None:
    assert execution_device(nn.Identity()) is None
    with pytest.raises(ValueError, match=r"the model, a Identity, has no weights"):
        input_device(nn.Identity())
    model = nn.ModuleDict({"fc": nn.Linear(2, 2, device="meta")})
    model.config = None
    with pytest.raises(ValueError, match=r"is on the meta device"):
        model_identity(model, "x")
