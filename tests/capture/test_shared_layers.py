"""A model whose layers share weights, from its training to its run: what is kept apart, and what can't be mixed up."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from lorascope.capture import (
    AdapterError,
    CaptureConfig,
    FinetuneConfig,
    attach_adapter,
    capture,
    finetune,
    load_model,
    plan,
)
from lorascope.capture.models.model import model_identity
from lorascope.capture.models.sharing import layer_sharing
from lorascope.capture.reforward import reforward
from lorascope.stores import StoreError, verify
from lorascope.study import read_study

from ..tiny import llama, save_model
from .recorded import adapt

SHARING: dict[str, Any] = {"share": 2, "shared_layers": 4}
TRAINING = FinetuneConfig(rank=2, learning_rate=1e-2, batch_size=3, max_steps=3)


@pytest.fixture(scope="module")
def model(tiny_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a Llama of 5 layers; the last 4 can be shared."""
    tiny = llama(len(tiny_tokenizer), num_hidden_layers=5, intermediate_size=48)
    return save_model(tmp_path_factory.mktemp("shared") / "model", tiny, tiny_tokenizer)


@pytest.fixture(scope="module")
def adapters_by_options() -> dict[str, Path]:
    """Options of loading -> the adapter that was trained with them, once for all tests."""
    return {}


@pytest.fixture
def train(model: Path, adapters_by_options: dict[str, Path], tiny_items: Any, tmp_path: Path) -> Callable[..., Path]:
    """Folder of an adapter trained on the model as it is loaded with these options."""

    def run(name: str = "adapter", **options: Any) -> Path:
        key = repr(sorted(options.items()))
        if key not in adapters_by_options:
            loaded, tokenizer = load_model(str(model), **options)
            adapter = model.with_name(f"adapter{len(adapters_by_options)}")
            finetune(loaded, tokenizer, tiny_items, adapter, TRAINING)
            adapters_by_options[key] = adapter
        return Path(shutil.copytree(adapters_by_options[key], tmp_path / name))

    return run


@pytest.fixture
def settings(model: Path, data: Path, tmp_path: Path) -> Callable[..., CaptureConfig]:
    def make(adapter: Path, out: str = "run.zarr", **options: Any) -> CaptureConfig:
        given = {"data": (str(data),), "js_share": 1.0, "device": "cpu", "score": False, "limit": 3, **options}
        return CaptureConfig(model=str(model), adapter=(str(adapter),), out=str(tmp_path / out), **given)

    return make


def record_of(adapter: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((adapter / "finetune.json").read_text())
    return record


def change(adapter: Path, **entries: Any) -> None:
    (adapter / "finetune.json").write_text(json.dumps(record_of(adapter) | entries))


def test_every_layer_of_a_group_is_trained_apart(model: Path, tiny_items: Any, tmp_path: Path) -> None:
    loaded, tokenizer = load_model(str(model), **SHARING)
    before = model_identity(loaded, str(model))
    result = finetune(loaded, tokenizer, tiny_items, tmp_path / "out", TRAINING, items_eval=tiny_items)
    assert model_identity(loaded, str(model)) == before
    assert layer_sharing(loaded) == SHARING
    record = record_of(result.path)
    assert record["model"] == before
    assert {key: record["model"][key] for key in SHARING} == SHARING
    tensors = load_file(result.path / "adapter_model.safetensors")
    assert len(tensors) == 2 * 7 * 5
    name = "base_model.model.model.layers.{}.mlp.down_proj.lora_B.weight"
    ups = [tensors[name.format(layer)] for layer in range(5)]
    assert all(up.abs().max() > 0 for up in ups)
    assert not any(torch.equal(ups[one], ups[other]) for one in range(5) for other in range(one))
    assert result.before is not None
    assert result.after is not None
    assert result.after.ce < result.before.ce
    again = attach_adapter(loaded, result.path)
    assert layer_sharing(again) == SHARING


def test_a_run_of_shared_layers_is_that_of_copied_ones(
    model: Path, train: Any, settings: Any, tmp_path: Path, tiny_tokenizer: Any
) -> None:
    adapter = train(**SHARING)
    run = capture(settings(adapter, importance=2, **SHARING))
    assert verify(run.path).ok
    assert len(run.component_paths) == 5 * 7
    assert run.attributes["provenance"]["preflight"] == []
    shared = run.attributes["provenance"]["model"]
    assert {key: shared[key] for key in SHARING} == SHARING

    (adapter / "finetune.json").unlink()  # or else it would be refused
    whole, _ = load_model(str(model))
    layers = whole.model.layers
    for place in (1, 3):
        layers[place + 1].load_state_dict(layers[place].state_dict())
    n_layer = sum(parameter.numel() for parameter in layers[1].parameters())
    again = settings(adapter, "copied.zarr", importance=2)
    copied = capture(again, model=attach_adapter(whole, adapter), tokenizer=tiny_tokenizer)
    assert copied.importance().equals(run.importance())
    for path in run.component_paths:
        np.testing.assert_array_equal(run.base(path).values, copied.base(path).values)
        np.testing.assert_array_equal(run.delta(path).values, copied.delta(path).values)
    plain = copied.attributes["provenance"]["model"]
    assert plain["sha256"] == shared["sha256"]
    assert plain["n_parameters"] - shared["n_parameters"] == 2 * n_layer
    assert plain["n_parameters_non_embedding"] - shared["n_parameters_non_embedding"] == 2 * n_layer


def test_a_run_is_computed_again_from_its_settings(train: Any, settings: Any) -> None:
    options: dict[str, Any] = {**SHARING, "share_from": "mean"}
    run = capture(settings(train(**options), **options))
    found = reforward(str(run.path), 2)
    assert found.problems == []
    assert found.n_equal == found.n_vectors > 0


def test_a_study_knows_how_it_was_shared_and_trained(train: Any, settings: Any, model: Path) -> None:
    adapters = {1: train("whole"), 2: train("pairs", **SHARING)}
    runs = [
        capture(settings(adapter, f"{share}.zarr", share=share, shared_layers=4 if share > 1 else 16))
        for share, adapter in adapters.items()
    ]
    assert runs[0].attributes["provenance"]["training"] == {
        "default": {
            "n_samples": 6,
            "n_target_tokens": record_of(adapters[1])["n_target_tokens"],
            "n_steps": 3,
            "data": ["tiny.train"],
        }
    }
    study = read_study([run.path for run in runs])
    assert study["share"].tolist() == [1, 2]
    assert study["D"].tolist() == [6, 6]
    for found, options in zip(study.to_dict("records"), ({}, SHARING), strict=True):
        loaded, _ = load_model(str(model), **options)
        assert found["N"] == sum(parameter.numel() for parameter in loaded.parameters())
        assert found["N_non_embedding"] == found["N"] - 2 * loaded.lm_head.weight.numel()


@pytest.mark.parametrize(
    ("trained", "wanted", "words"),
    [
        (
            SHARING,
            {},
            "it was trained on a model in which the last 4 layers share weights in groups of 2, but in this one no "
            "layers share weights; load the model with `share` 2 and `shared_layers` 4",
        ),
        (
            {},
            SHARING,
            "it was trained on a model in which no layers share weights, but in this one the last 4 layers share "
            "weights in groups of 2; load the model with `share` 1",
        ),
    ],
)
def test_an_adapter_of_another_sharing_is_refused(
    train: Any,
    settings: Any,
    model: Path,
    tiny_tokenizer: Any,
    tmp_path: Path,
    trained: dict[str, Any],
    wanted: dict[str, Any],
    words: str,
) -> None:
    adapter = train(**trained)
    with pytest.raises(AdapterError, match=words) as caught:
        capture(settings(adapter, **wanted))
    assert "\n" not in str(caught.value)
    made = plan(settings(adapter, **wanted), probe=False)
    assert [problem.kind for problem in made.problems] == ["sharing"]
    assert not made.ok
    loaded, _ = load_model(str(model), **wanted)
    with pytest.raises(AdapterError, match=words):
        attach_adapter(loaded, adapter)
    assert not hasattr(loaded, "peft_config")
    record = (adapter / "finetune.json").read_bytes()
    (adapter / "finetune.json").unlink()
    adapted = attach_adapter(loaded, adapter)
    (adapter / "finetune.json").write_bytes(record)
    with pytest.raises(AdapterError, match=words):  # of a model that was given, by the folder that is named for it
        capture(settings(adapter, **wanted), model=adapted, tokenizer=tiny_tokenizer)
    assert not (tmp_path / "run.zarr").exists()


def test_other_weights_are_a_note(train: Any, settings: Any) -> None:
    adapter = train(**SHARING)
    for out, options in {"mean": {"share_from": "mean"}, "bf16": {"dtype": "bfloat16"}}.items():
        provenance = capture(settings(adapter, out, **SHARING, **options)).attributes["provenance"]
        notes = [note["message"] for note in provenance["preflight"] if note["kind"] == "training"]
        assert (
            notes
            == {
                "mean": ["'default' was trained on other base weights than these, by their SHA-256"],
                "bf16": [
                    "'default' was trained on other base weights than these, by their SHA-256: 'float32' there, "
                    "'bfloat16' here"
                ],
            }[out]
        )
        assert provenance["training"]["default"]["n_samples"] == 6


def test_a_record_of_other_adapter_weights_isnt_believed(train: Any, settings: Any, tmp_path: Path) -> None:
    adapter = train()
    (train("other") / "finetune.json").rename(adapter / "finetune.json")
    assert capture(settings(adapter)).attributes["provenance"]["training"]  # of the same weights
    change(adapter, adapter_sha256="0" * 64)
    provenance = capture(settings(adapter, "again.zarr")).attributes["provenance"]
    assert provenance["training"] == {}
    assert [note["message"] for note in provenance["preflight"]] == [
        "'finetune.json' of 'default' was written for other adapter weights, so that its training isn't known"
    ]


def test_a_model_that_is_given_shares_as_the_settings_say(
    train: Any, settings: Any, model: Path, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    adapter = train(**SHARING)
    loaded, _ = load_model(str(model), **SHARING)
    adapted = attach_adapter(loaded, adapter, name="mine")
    for options, words in (
        (
            {},
            "by `share` and `shared_layers` no layers share weights, but in the model that was given the last 4 ",
        ),
        (
            {"share": 4, "shared_layers": 4},
            "the last 4 .* in groups of 4, but in the .* the last 4 .* in groups of 2; give",
        ),
    ):
        with pytest.raises(ValueError, match=words) as caught:
            capture(settings(adapter, **options), model=adapted, tokenizer=tiny_tokenizer)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "run.zarr").exists()
    run = capture(settings(adapter, **SHARING), model=adapted, tokenizer=tiny_tokenizer)
    assert run.attributes["provenance"]["training"]["mine"]["n_samples"] == 6


def test_a_run_of_another_sharing_isnt_gone_on_with(train: Any, settings: Any) -> None:
    adapter = train(**SHARING)
    (adapter / "finetune.json").unlink()
    run = capture(settings(adapter, **SHARING))
    with pytest.raises(StoreError, match=r"model.sha256: .* -> .*; model.share: 2 -> 4"):
        capture(settings(adapter, share=4, shared_layers=4))
    with pytest.raises(StoreError, match=r"model.share: 2 -> 1; model.shared_layers: 4 -> 0"):
        capture(settings(adapter))
    with pytest.raises(StoreError, match=r"model.sha256: '[^;]*; repeat the command"):
        capture(settings(adapter, **SHARING, share_from="mean"))
    again = capture(settings(adapter, **SHARING))
    assert again.attributes == run.attributes


def test_a_plan_counts_shared_weights_once(train: Any, settings: Any, model: Path) -> None:
    adapter = train(**SHARING)
    made = plan(settings(adapter, **SHARING))
    loaded, _ = load_model(str(model), **SHARING)
    adapted = attach_adapter(loaded, adapter)
    wanted = sum(tensor.nbytes for tensor in (*adapted.parameters(), *adapted.buffers()))
    assert made.fit[-1].parts["weights"] == wanted
    assert made.ok
    assert made.trial is not None
    assert len(made.spec.components) == 5 * 7


def test_an_init_that_changes_the_base_is_refused_on_shared_layers(
    model: Path, settings: Any, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    """PiSSA takes each layer's own part from a weight that is several layers'."""
    loaded, _ = load_model(str(model))
    adapt(loaded, init_lora_weights="pissa", target_modules=["q_proj"]).save_pretrained(tmp_path / "pissa")
    words = "its init changes the base weights, which layers share here: each would change the others'"
    with pytest.raises(AdapterError, match=words):
        capture(settings(tmp_path / "pissa", **SHARING))
    (problem,) = plan(settings(tmp_path / "pissa", **SHARING), probe=False).problems
    assert (problem.place, problem.message) == ("init_lora_weights", words)
    assert plan(settings(tmp_path / "pissa"), probe=False).problems == ()
