import copy
import dataclasses
import json
import math
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import GPT2Config, GPT2LMHeadModel, MambaConfig, MambaForCausalLM, Trainer

from lorascope.capture.config import FinetuneConfig
from lorascope.capture.samples.encode import encode_items
from lorascope.capture.samples.encoded import pad
from lorascope.capture.samples.items import ChoiceItem, TextItem
from lorascope.capture.samples.scoring import score
from lorascope.capture.training.finetune import FinetuneResult, finetune
from lorascope.capture.training.trainer import collate, lora_targets

SMALL = FinetuneConfig(rank=4, learning_rate=1e-2, batch_size=3, max_steps=4, seed=1, score_batch_tokens=1000)


Tune = Callable[..., FinetuneResult]


@pytest.fixture
def tune(tiny_model: Any, tiny_tokenizer: Any, tiny_items: list[ChoiceItem], tmp_path: Path) -> Tune:
    """Train on the tiny items, in the folder of this name; settings replace those of `SMALL`."""

    def run(name: str = "out", model: Any = None, items: Any = None, *, given: Any = None, **settings: Any) -> Any:
        return finetune(
            model or tiny_model,
            tiny_tokenizer,
            items or tiny_items,
            tmp_path / name,
            dataclasses.replace(SMALL, **settings),
            **(given or {}),
        )

    return run


def weights(folder: Path) -> dict[str, torch.Tensor]:
    tensors: dict[str, torch.Tensor] = load_file(folder / "adapter_model.safetensors")
    return tensors


def test_trains_and_saves_an_adapter_that_peft_loads(
    tune: Tune,
    tiny_model: Any,
    tiny_tokenizer: Any,
    tiny_items: list[ChoiceItem],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    base = copy.deepcopy(tiny_model)
    steps: list[tuple[int, int, str]] = []
    result = tune(max_steps=20, given={"items_eval": tiny_items, "progress": lambda *call: steps.append(call)})
    assert capfd.readouterr() == ("", "")
    assert result.path == tmp_path / "out"
    assert {"adapter_config.json", "adapter_model.safetensors", "finetune.json"} <= set(os.listdir(result.path))
    assert os.listdir(tmp_path) == ["out"]
    assert len(result.steps) == 20
    assert steps == [(n, 20, f"steps, loss {step.loss:.4g}") for n, step in enumerate(result.steps, 1)]
    assert result.before is not None
    assert result.after is not None
    # Trained on the very items: the loss must fall.
    assert result.after.ce < result.before.ce - 0.5
    model = PeftModel.from_pretrained(base, result.path).eval()
    samples = encode_items(tiny_items, tiny_tokenizer, max_length=256, window_tokens=8)
    scores = score(model, samples, batch_tokens=1000)
    assert result.after.ce == pytest.approx(scores.ce.mean(), rel=1e-6)
    assert (result.after.accuracy, result.after.n_samples) == (scores.correct.mean(), 6)
    assert result.after.accuracy_per_token == scores.correct_per_token.mean()
    with model.disable_adapter():
        assert result.before.ce == pytest.approx(score(model, samples, batch_tokens=1000).ce.mean(), rel=1e-6)


def test_adapts_every_linear_layer_of_attention_and_ffn_and_nothing_else(tune: Tune, tmp_path: Path) -> None:
    tune()
    kinds = [f"self_attn.{kind}_proj" for kind in "qkvo"] + [f"mlp.{kind}_proj" for kind in ("gate", "up", "down")]
    expected = {
        f"base_model.model.model.layers.{layer}.{kind}.lora_{side}.weight"
        for layer in range(2)
        for kind in kinds
        for side in "AB"
    }
    saved = weights(tmp_path / "out")
    assert set(saved) == expected
    assert all(tensor.dtype == torch.float32 and tensor.abs().max() > 0 for tensor in saved.values())


def test_leaves_the_model_and_the_random_states_as_they_were(tune: Tune, tiny_model: Any) -> None:
    tiny_model.train()
    tiny_model.model.layers[0].eval()
    tiny_model.lm_head.weight.requires_grad_(False)
    del tiny_model.config.use_cache
    before = copy.deepcopy(tiny_model)
    states = torch.random.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    draws = []
    for start in (3, 4):  # not by equal states: beartype, which checks shapes while tests run, draws from it too
        random.seed(start)
        tune(str(start), max_steps=1)
        draws.append(random.random())
    assert draws[0] != draws[1]
    assert torch.equal(torch.random.get_rng_state(), states[0])
    np.testing.assert_array_equal(np.random.get_state()[1], states[1])  # noqa: NPY002
    assert [name for name, _ in tiny_model.named_modules()] == [name for name, _ in before.named_modules()]
    for (name, old), new in zip(before.named_parameters(), tiny_model.parameters(), strict=True):
        assert torch.equal(old, new), name
        assert old.requires_grad == new.requires_grad, name
    assert [m.training for m in tiny_model.modules()] == [m.training for m in before.modules()]
    assert vars(tiny_model.config) == vars(before.config)
    assert not hasattr(tiny_model, "peft_config")


def test_scores_before_do_not_depend_on_what_wants_gradients(tune: Tune, tiny_model: Any, tiny_items: Any) -> None:
    given = {"items_eval": tiny_items}
    first = tune("a", given=given)
    tiny_model.requires_grad_(False)  # as an adapter leaves it that was attached and taken away
    assert tune("b", given=given).before == first.before


def test_the_seed_decides_the_weights(tune: Tune, tmp_path: Path) -> None:
    runs = {}
    for name, seed in {"one": 1, "again": 1, "two": 2}.items():
        torch.rand(1)  # the global state must not matter
        tune(name, seed=seed, dropout=0.1)
        runs[name] = weights(tmp_path / name)
    assert all(torch.equal(runs["one"][name], runs["again"][name]) for name in runs["one"])
    assert not all(torch.equal(runs["one"][name], runs["two"][name]) for name in runs["one"])


def test_micro_batches_give_the_same_steps(tune: Tune) -> None:
    whole, parts = (
        [step.loss for step in tune(str(size), batch_size=6, micro_batch_size=size).steps] for size in (None, 2)
    )
    np.testing.assert_allclose(whole, parts, rtol=1e-4)


def test_the_first_loss_is_the_answers_mean_nll_and_the_rate_falls_linearly(
    tune: Tune, tiny_model: Any, tiny_tokenizer: Any, tiny_items: list[ChoiceItem]
) -> None:
    result = tune(batch_size=6)
    samples = encode_items(tiny_items, tiny_tokenizer, max_length=256, window_tokens=8)
    n_tokens = np.array([len(sample.choices[sample.answer].token_ids) for sample in samples])
    ce = score(tiny_model, samples, batch_tokens=1000).ce
    assert result.steps[0].loss == pytest.approx((ce * n_tokens).sum() / n_tokens.sum(), rel=1e-5)
    np.testing.assert_allclose([step.learning_rate for step in result.steps], [1e-2, 7.5e-3, 5e-3, 2.5e-3])
    assert all(step.grad_norm > 0 for step in result.steps)


def test_labels_stand_on_the_answer_or_on_a_text_after_its_first_token(
    tiny_tokenizer: Any, tiny_items: list[ChoiceItem]
) -> None:
    items = [tiny_items[2], TextItem(id="t", dataset="d", split="", text="The four.")]
    samples = encode_items(items, tiny_tokenizer, max_length=256, window_tokens=64)
    batch = collate(samples)
    input_ids, attention_mask = pad(samples)
    assert torch.equal(batch["input_ids"], input_ids)
    assert torch.equal(batch["attention_mask"], attention_mask)
    choice, text = batch["labels"].tolist()
    assert tiny_tokenizer.decode([label for label in choice if label != -100]) == " iron"
    assert tiny_tokenizer.decode([label for label in text if label != -100]) == "The four."


def test_epochs_count_where_no_steps_are_given(tune: Tune) -> None:
    result = tune(batch_size=4, epochs=2.0, max_steps=None)
    assert len(result.steps) == 4
    assert result.before is result.after is None


def test_trains_on_texts(tune: Tune) -> None:
    text = [TextItem(id="t", dataset="d", split="", text="The answer is four. " * 20)]
    result = tune(items=text, window_tokens=32, max_steps=10, given={"items_eval": text})
    assert result.before is not None
    assert result.after is not None
    assert result.after.ce < result.before.ce
    assert (result.after.accuracy, result.after.accuracy_per_token) == (None, None)


def test_the_record_holds_settings_versions_losses_and_scores(
    tune: Tune, tiny_tokenizer: Any, tiny_items: list[ChoiceItem], tmp_path: Path
) -> None:
    result = tune(given={"items_eval": tiny_items[:2]})
    record = json.loads((tmp_path / "out" / "finetune.json").read_text())
    assert record["config"] == dataclasses.asdict(SMALL)
    assert record["trainer"] == {
        "optim": "adamw_torch_fused",
        "adam_beta1": 0.9,
        "adam_beta2": 0.999,
        "adam_epsilon": 1e-8,
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "lr_scheduler_type": "linear",
        "mixed_precision": "no",
    }
    assert set(record["libraries"]) == {"lorascope", "torch", "transformers", "peft", "accelerate"}
    assert [step["loss"] for step in record["steps"]] == [step.loss for step in result.steps]
    assert result.after is not None
    assert record["after"] == result.after._asdict()
    assert record["before"]["n_samples"] == 2
    assert (record["data"], record["n_samples"], record["train_seconds"]) == (["tiny.train"], 6, result.train_seconds)
    assert record["n_target_tokens"] == sum(
        len(tiny_tokenizer(" " + item.choices[item.answer], add_special_tokens=False).input_ids) for item in tiny_items
    )


def test_alpha_is_twice_the_rank_unless_given_and_the_adapter_is_float32(
    tune: Tune, tiny_model: Any, tmp_path: Path
) -> None:
    for alpha, expected in ((None, 8), (3, 3)):
        tune(str(alpha), tiny_model.to(torch.bfloat16), alpha=alpha, max_steps=1)
        saved = json.loads((tmp_path / str(alpha) / "adapter_config.json").read_text())
        assert (saved["r"], saved["lora_alpha"], saved["lora_dropout"]) == (4, expected, 0.0)
        assert {tensor.dtype for tensor in weights(tmp_path / str(alpha)).values()} == {torch.float32}


def test_conv1d_layers_are_adapted_too(tune: Tune, tiny_tokenizer: Any, tmp_path: Path) -> None:
    config = GPT2Config(
        vocab_size=len(tiny_tokenizer), n_embd=32, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=1, pad_token_id=2
    )
    with torch.random.fork_rng():
        model = GPT2LMHeadModel(config).eval()
    tune(model=model, max_steps=1)
    assert {name.split(".lora_")[0].removeprefix("base_model.model.") for name in weights(tmp_path / "out")} == {
        f"transformer.h.0.{kind}" for kind in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    }


def test_refuses_a_folder_in_use_and_takes_an_empty_one(tune: Tune, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for out in (".", "file"):
        with pytest.raises(FileExistsError, match="`out` is .* which is there already; give a new or empty folder"):
            tune(out)
    (tmp_path / "empty").mkdir()
    tune("empty", max_steps=1)
    assert (tmp_path / "empty" / "adapter_config.json").exists()


def test_refuses_what_cant_be_trained(
    tune: Tune, tiny_model: Any, tiny_tokenizer: Any, tiny_adapter: Path, tiny_items: list[ChoiceItem]
) -> None:
    with pytest.raises(ValueError, match="the context has 20"):
        tune(max_length=20, window_tokens=8)
    with pytest.raises(ValueError, match="the context has 256"):
        tune(items=[dataclasses.replace(tiny_items[0], question="x" * 250)])
    model = PeftModel.from_pretrained(tiny_model, tiny_adapter)
    for given in (model, model.get_base_model()):
        with pytest.raises(ValueError, match="the model has an adapter already; give the base model"):
            tune(model=given)
    with torch.random.fork_rng():
        model = MambaForCausalLM(MambaConfig(vocab_size=len(tiny_tokenizer), hidden_size=32, num_hidden_layers=1))
    with pytest.raises(ValueError, match="the model is a MambaForCausalLM, which states no context; give `max_length`"):
        tune(model=model)


def test_refuses_a_model_without_linear_layers_in_blocks() -> None:
    model = torch.nn.Sequential()
    model.add_module("head", torch.nn.Linear(2, 2))
    with pytest.raises(ValueError, match="the model is a Sequential without linear layers in numbered blocks"):
        lora_targets(model)


def test_an_interrupted_finetuning_leaves_nothing(tune: Tune, tiny_model: Any, tmp_path: Path) -> None:
    names = [name for name, _ in tiny_model.named_modules()]

    def interrupt(done: int, total: int, part: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tune(given={"progress": interrupt})
    assert os.listdir(tmp_path) == []
    assert [name for name, _ in tiny_model.named_modules()] == names


def test_a_killed_finetuning_leaves_no_finished_folder(
    tune: Tune, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    # What kills a process leaves no time to clean up.
    monkeypatch.setattr("lorascope.capture.training.finetune._record_content", die)
    monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: None)
    with pytest.raises(KeyboardInterrupt):
        tune()
    assert os.listdir(tmp_path) == [".out.training"]


def test_refuses_losses_and_weights_that_are_not_finite(
    tune: Tune, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(FloatingPointError, match="the loss of step 2 is nan; give a lower `learning_rate`"):
        tune(learning_rate=1e30)
    assert os.listdir(tmp_path) == []
    train = Trainer.train

    def spoil(trainer: Trainer, **options: Any) -> None:
        train(trainer, **options)
        next(p for p in trainer.model.parameters() if p.requires_grad).data.fill_(math.inf)

    monkeypatch.setattr(Trainer, "train", spoil)
    with pytest.raises(FloatingPointError, match=r"the trained weight '.*lora_A.*' isn't finite; give a lower"):
        tune()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"rank": 0}, "`rank` is 0; give at least 1"),
        ({"dropout": 1.0}, "`dropout` is 1.0; give a probability from 0 to below 1"),
        ({"dropout": math.nan}, "`dropout` is nan; give a probability"),
        ({"learning_rate": math.nan}, "`learning_rate` is nan; give a finite number above 0"),
        ({"batch_size": 0}, "`batch_size` is 0; give at least 1"),
        ({"micro_batch_size": 5}, "`micro_batch_size` is 5, which doesn't divide `batch_size` 32; give a divisor"),
        ({"epochs": 0.0}, "`epochs` is 0.0; give a finite number above 0"),
        ({"seed": -1}, "`seed` is -1; give at least 0"),
        ({"max_length": 1}, "`max_length` is 1; give at least 2"),
    ],
)
def test_config_refuses_what_makes_no_sense(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        FinetuneConfig(**settings)


def test_config_defaults_are_the_papers() -> None:
    config = FinetuneConfig()
    assert (config.learning_rate, config.batch_size, config.dropout, config.alpha) == (4e-5, 32, 0.0, None)
