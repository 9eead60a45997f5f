import copy
import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.nn.parallel import DistributedDataParallel
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    MambaConfig,
    MambaForCausalLM,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from lorascope.analyze import group_by, miub
from lorascope.capture import (
    AdapterError,
    CaptureConfig,
    CaptureError,
    MiubCallback,
    attach_adapter,
    capture,
    finetune,
    jensen_shannon,
)
from lorascope.capture.config import FinetuneConfig
from lorascope.capture.samples.encode import encode_items
from lorascope.capture.samples.encoded import EncodedSample
from lorascope.capture.samples.items import ChoiceItem, TextItem
from lorascope.capture.samples.scoring import score
from lorascope.capture.training.callback import KIND, LAYER, _calling_trainer, _unwrap_model, measure_miub
from lorascope.capture.training.trainer import collate, lora_targets

from ...tiny import llama
from ..recorded import adapt, stir

Log = Mapping[str, Any]


class Watching(TrainerCallback):
    """A logger that keeps what it is given, and when."""

    def __init__(self) -> None:
        self.logs: list[tuple[int, Log]] = []
        self.has_begun = False

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.has_begun = True

    def on_log(self, args: Any, state: Any, control: Any, logs: Log, **_: Any) -> None:
        assert self.has_begun
        self.logs.append((state.global_step, dict(logs)))

    def measured(self) -> list[int]:
        return [step for step, logs in self.logs if "miub" in logs]


class Modes(TrainerCallback):
    """Notes the training mode of every module after each step."""

    def __init__(self) -> None:
        self.found: list[list[bool]] = []

    def on_step_end(self, *_: Any, model: Any, **__: Any) -> None:
        self.found.append([module.training for module in model.modules()])


Train = Callable[..., Trainer]


@pytest.fixture
def samples(tiny_items: list[ChoiceItem], tiny_tokenizer: Any) -> list[EncodedSample]:
    return encode_items(tiny_items, tiny_tokenizer, max_length=256, window_tokens=64)


@pytest.fixture
def train(tiny_model: Any, samples: list[EncodedSample], tmp_path: Path) -> Train:
    """A stranger's own training: four steps of three samples; what isn't given to it is a setting of Trainer."""

    def run(
        *callbacks: Any,
        model: Any = None,
        kind: type[Trainer] = Trainer,
        first: Any = None,
        resume: bool = False,
        **settings: Any,
    ) -> Trainer:
        options = {
            "output_dir": str(tmp_path / "trained"),
            "per_device_train_batch_size": 3,
            "max_steps": 4,
            "learning_rate": 1e-2,
            "logging_steps": 1,
            "save_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
            "use_cpu": True,
            "dataloader_pin_memory": False,
            "remove_unused_columns": False,
            **settings,
        }
        trainer = kind(
            model=lora(tiny_model) if model is None else model,
            args=TrainingArguments(**options),
            train_dataset=samples,
            data_collator=collate,
            callbacks=list(callbacks),
        )
        trainer.remove_callback(PrinterCallback)
        if first is not None:
            trainer.callback_handler.callbacks.insert(0, first)
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    return run


def lora(model: Any, **options: Any) -> Any:
    """A copy of the model with a new adapter, as before training."""
    given = {"r": 4, "lora_alpha": 8, "task_type": "CAUSAL_LM", "target_modules": lora_targets(model), **options}
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return get_peft_model(copy.deepcopy(model), LoraConfig(**given))


def measured(trainer: Trainer) -> list[dict[str, Any]]:
    return [entry for entry in trainer.state.log_history if "miub" in entry]


def js_by_hand(base: torch.Tensor, adapted: torch.Tensor) -> torch.Tensor:
    """KL to the mean, half and half, as the paper has it; float64."""
    p, q = base.double().softmax(-1), adapted.double().softmax(-1)
    m = (p + q) / 2
    return ((p * (p / m).log()).sum(-1) + (q * (q / m).log()).sum(-1)) / 2


def miub_by_hand(model: Any, samples: Sequence[EncodedSample]) -> float:
    """Eq. 9 of a copy of the model in float64: one sample per pass, from each layer's output and its frozen layer's."""
    model = copy.deepcopy(model).double().eval()
    seen: dict[Any, torch.Tensor] = {}
    layers = [module for module in model.modules() if hasattr(module, "lora_A") and len(module.lora_A)]
    for layer in layers:
        for module in (layer, layer.base_layer):
            module.register_forward_hook(lambda m, _, output: seen.__setitem__(m, output.clone()))
    totals = []
    for sample in samples:
        with torch.no_grad():
            model(input_ids=torch.from_numpy(sample.token_ids)[None])
        totals.append(sum(float(js_by_hand(seen[layer.base_layer], seen[layer]).mean()) for layer in layers))
    return float(np.mean(totals))


def gpt2(tokenizer: Any) -> Any:
    config = GPT2Config(
        vocab_size=len(tokenizer), n_embd=32, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=1, pad_token_id=2
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return GPT2LMHeadModel(config).eval()


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_the_last_value_is_that_of_a_capture_of_the_saved_adapter(
    kind: str, train: Train, tiny_model: Any, tiny_tokenizer: Any, tiny_items: Any, data: Path, tmp_path: Path
) -> None:
    base = tiny_model if kind == "llama" else gpt2(tiny_tokenizer)
    conv1d = {"fan_in_fan_out": True} if kind == "gpt2" else {}
    trainer = train(MiubCallback(tiny_items, tiny_tokenizer, every=2), model=lora(base, **conv1d))
    trainer.model.save_pretrained(str(tmp_path / "saved"), save_embedding_layers=False)
    config = CaptureConfig(
        model="tiny", adapter=("saved",), data=(str(data),), out=str(tmp_path / "run.zarr"), states="none"
    )
    run = capture(config, model=attach_adapter(base, tmp_path / "saved"), tokenizer=tiny_tokenizer)
    result = miub(run)
    last = measured(trainer)[-1]
    # Float32 passes of other batches: 1e-6 of delta, twice that of its square.
    assert last["miub"] == pytest.approx(float(result["miub"]), rel=1e-5)
    assert last["miub"] > 1e-4
    for key, name in (("layer", "miub_layer_"), ("kind", "miub_kind_")):
        parts = group_by(result, [key])["miub"].to_series()
        assert {f"{name}{part}": value for part, value in parts.items()} == pytest.approx(
            {found: value for found, value in last.items() if found.startswith(name)}, rel=1e-5
        )
    assert last["ce"] == pytest.approx(float(run.samples["ce"].mean()), rel=1e-5)


@pytest.mark.parametrize("options", [{}, {"init_lora_weights": "olora"}])
def test_the_value_is_the_papers_by_hand(
    options: dict[str, Any], tiny_model: Any, samples: list[EncodedSample]
) -> None:
    model = lora(tiny_model, **options)
    if not options.get("init_lora_weights"):  # that one isn't zero to begin with, and has changed the base
        stir(model)
    found = measure_miub(model, samples)
    assert found["miub"] == pytest.approx(miub_by_hand(model, samples), rel=1e-5)
    assert found["miub"] > 1e-3
    assert found["ce"] == pytest.approx(float(score(model.eval(), samples, batch_tokens=1000).ce.mean()), rel=1e-6)


def test_what_is_outside_of_the_layers_counts_in_the_total(tiny_model: Any, samples: list[EncodedSample]) -> None:
    found = measure_miub(adapt(tiny_model, target_modules=["q_proj", "lm_head", "embed_tokens"]), samples)
    layers, kinds = ({k: v for k, v in found.items() if k.startswith(name)} for name in (LAYER, KIND))
    assert set(layers) == {"miub_layer_0", "miub_layer_1"}
    assert set(kinds) == {"miub_kind_embed_tokens", "miub_kind_q_proj", "miub_kind_lm_head"}
    outside = kinds["miub_kind_embed_tokens"] + kinds["miub_kind_lm_head"]
    assert outside > 0
    assert found["miub"] == pytest.approx(sum(layers.values()) + outside, rel=1e-12)


def test_of_an_encoder_there_is_no_cross_entropy(tiny_model: Any, samples: list[EncodedSample]) -> None:
    found = measure_miub(adapt(tiny_model.model), samples)
    assert "ce" not in found
    assert found["miub"] > 0


def test_measures_at_the_start_then_so_often_and_at_the_end(train: Train, tiny_items: Any, tiny_tokenizer: Any) -> None:
    callback = MiubCallback(tiny_items, tiny_tokenizer, every=2)
    trainer = train(callback, max_steps=5, per_device_train_batch_size=1, gradient_accumulation_steps=3)
    found = measured(trainer)
    assert [entry["step"] for entry in found] == [0, 2, 4, 5]
    values = [entry["miub"] for entry in found]
    assert values[0] == 0.0
    assert all(entry[f"miub_layer_{layer}"] == 0.0 for entry in found[:1] for layer in (0, 1))
    assert 0 < values[1] < values[2]
    for entry in found:
        assert entry["miub_layer_0"] + entry["miub_layer_1"] == pytest.approx(entry["miub"], rel=1e-12)
    # Every step's loss is logged as well, in an entry of its own.
    assert [entry["step"] for entry in trainer.state.log_history if "loss" in entry] == [1, 2, 3, 4, 5]
    assert sum(entry["miub_seconds"] for entry in found) == pytest.approx(callback.seconds)
    assert "miub_share" not in found[0]
    assert all(0 < entry["miub_share"] < 1 for entry in found[1:])


@pytest.mark.parametrize("settings", [{}, {"gradient_accumulation_steps": 2, "bf16": True}])
def test_training_goes_on_bit_by_bit_as_without_it(
    settings: dict[str, Any], train: Train, tiny_model: Any, tiny_items: Any, tiny_tokenizer: Any
) -> None:
    ends = []
    for callbacks in ([], [MiubCallback(tiny_items, tiny_tokenizer, every=1)]):
        trainer = train(*callbacks, model=lora(tiny_model, lora_dropout=0.2), **settings)
        losses = [(e["loss"], e["grad_norm"]) for e in trainer.state.log_history if "loss" in e]
        moments = [state for _, state in sorted(trainer.optimizer.state_dict()["state"].items())]
        ends.append((trainer.model.state_dict(), losses, moments, torch.random.get_rng_state()))
    (weights, losses, moments, generator), (other, *others) = ends
    assert all(torch.equal(weights[name], other[name]) for name in weights)
    assert losses == others[0]
    for one, two in zip(moments, others[1], strict=True):
        assert all(torch.equal(torch.as_tensor(one[key]), torch.as_tensor(two[key])) for key in one)
    assert torch.equal(generator, others[2])


def test_every_module_is_in_its_own_mode_again(
    train: Train, tiny_model: Any, tiny_items: Any, tiny_tokenizer: Any
) -> None:
    model = lora(tiny_model, lora_dropout=0.2)
    watching = Modes()
    trainer = train(MiubCallback(tiny_items, tiny_tokenizer, every=1), watching, model=model)
    assert all(all(modes) for modes in watching.found)
    # A part that somebody holds in evaluation mode while the rest trains stays there.
    trainer.model.train()
    odd = trainer.model.get_submodule("base_model.model.model.layers.1")
    odd.eval()
    before = [module.training for module in trainer.model.modules()]
    gradients = [parameter.requires_grad for parameter in trainer.model.parameters()]
    measure_miub(trainer.model, encode_items(tiny_items, tiny_tokenizer, max_length=256, window_tokens=64))
    assert [module.training for module in trainer.model.modules()] == before
    assert [parameter.requires_grad for parameter in trainer.model.parameters()] == gradients
    assert not any(module._forward_hooks for module in trainer.model.modules())
    assert True in before
    assert False in before


def test_every_logger_gets_it_once_wherever_it_stands(train: Train, tiny_items: Any, tiny_tokenizer: Any) -> None:
    first, last = Watching(), Watching()
    trainer = train(MiubCallback(tiny_items, tiny_tokenizer, every=2), last, first=first)
    assert first.measured() == last.measured() == [0, 2, 4]
    for watching in (first, last):
        entries = [logs for _, logs in watching.logs if "miub" in logs]
        assert [{**logs, "step": step} for step, logs in zip((0, 2, 4), entries, strict=True)] == measured(trainer)
        assert all(isinstance(value, float | int) for logs in entries for value in logs.values())
        assert sum("loss" in logs for _, logs in watching.logs) == 4


class Averaging(Trainer):
    """Adds what it gathered since the last log to the next, as TRL's trainers do."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.gathered: list[int] = []

    def training_step(self, *args: Any, **options: Any) -> Any:
        self.gathered.append(1)
        return super().training_step(*args, **options)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        logs["gathered"] = sum(self.gathered)
        self.gathered.clear()
        super().log(logs, start_time)


def test_what_a_trainer_gathers_for_its_own_logs_stays_there(
    train: Train, tiny_items: Any, tiny_tokenizer: Any
) -> None:
    trainer = train(MiubCallback(tiny_items, tiny_tokenizer, every=1), kind=Averaging, logging_steps=2)
    assert [entry.get("gathered") for entry in trainer.state.log_history if "loss" in entry] == [2, 2]
    assert [entry.get("gathered") for entry in measured(trainer)] == [None] * 5


def test_a_resumed_training_measures_each_step_once(
    train: Train, tiny_items: Any, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    settings = {"save_strategy": "steps", "save_steps": 2}

    class Stop(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            control.should_training_stop = state.global_step == 2

    def callback() -> MiubCallback:
        return MiubCallback(tiny_items, tiny_tokenizer, every=2)

    whole = train(callback(), **settings, output_dir=str(tmp_path / "whole"))
    stopped = train(callback(), Stop(), **settings)
    assert [entry["step"] for entry in measured(stopped)] == [0, 2]
    resumed = train(callback(), resume=True, **settings)
    assert [entry["step"] for entry in measured(resumed)] == [0, 2, 4]
    assert [entry["miub"] for entry in measured(resumed)] == [entry["miub"] for entry in measured(whole)]


def test_under_autocast_base_is_the_layers_own_and_delta_is_not_rounded(
    train: Train, tiny_items: Any, tiny_tokenizer: Any, samples: list[EncodedSample]
) -> None:
    # One sample per pass, since batches change the outputs of layers in bfloat16.
    trainer = train(MiubCallback(tiny_items, tiny_tokenizer, every=4, batch_tokens=1), bf16=True)
    model = trainer.model.eval()
    seen: dict[Any, torch.Tensor] = {}
    layers = [module for module in model.modules() if hasattr(module, "lora_A")]
    for layer in layers:
        for module in (layer.base_layer, layer.lora_A["default"]):
            module.register_forward_hook(lambda m, _, output: seen.__setitem__(m, output.clone()))
    totals = []
    for sample in samples:
        with torch.no_grad():
            model(input_ids=torch.from_numpy(sample.token_ids)[None])
        total = 0.0
        for layer in layers:
            base, factor = seen[layer.base_layer], seen[layer.lora_A["default"]]
            assert base.dtype == factor.dtype == torch.bfloat16
            weight = layer.lora_B["default"].weight.detach().double()
            delta = factor.double() @ weight.T * layer.scaling["default"]
            total += float(jensen_shannon(base, delta).mean())
        totals.append(total)
    assert measured(trainer)[-1]["miub"] == pytest.approx(np.mean(totals), rel=1e-6)


@pytest.mark.slow
def test_checkpointed_and_compiled_trainings_are_measured(train: Train, tiny_items: Any, tiny_tokenizer: Any) -> None:
    """torch.compile wraps the model, and its hooks fire all the same; tracing it is what takes the time."""
    small = llama(len(tiny_tokenizer), num_hidden_layers=1)
    found = []
    for settings in ({}, {"activation_checkpointing": True}, {"torch_compile_backend": "eager"}):
        trainer = train(MiubCallback(tiny_items, tiny_tokenizer, every=9), model=lora(small), max_steps=1, **settings)
        found.append([entry["miub"] for entry in measured(trainer)])
    assert found[1] == pytest.approx(found[0], rel=1e-3)
    assert found[2] == pytest.approx(found[0], rel=1e-3)


def test_several_processes_share_a_model_that_is_unwrapped(tiny_model: Any, tmp_path: Path) -> None:
    model = lora(tiny_model)
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    try:
        assert _unwrap_model(DistributedDataParallel(model)) is model
    finally:
        torch.distributed.destroy_process_group()
    assert _unwrap_model(torch.compile(model, backend="eager")) is model


def test_of_a_training_that_diverged_miub_is_nan(tiny_model: Any, samples: list[EncodedSample]) -> None:
    model = adapt(tiny_model)
    for weight in (module.lora_B["default"].weight for module in model.modules() if hasattr(module, "lora_B")):
        weight.data.mul_(math.inf)
    found = measure_miub(model, samples)
    assert all(math.isnan(found[name]) for name in ("miub", "miub_layer_1", "ce"))


def test_what_changes_an_output_behind_the_adapter_is_refused(tiny_model: Any, samples: list[EncodedSample]) -> None:
    model = adapt(tiny_model)
    layer = model.get_submodule("base_model.model.model.layers.0.self_attn.q_proj")
    layer.register_forward_hook(lambda m, args, output: output + 1)
    with pytest.raises(CaptureError, match="isn't its base plus delta: off by"):
        measure_miub(model, samples)


def test_refuses_what_cant_be_measured(
    train: Train, tiny_model: Any, tiny_items: Any, tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match="`every` is 0; give at least 1"):
        MiubCallback(tiny_items, tiny_tokenizer, every=0)
    with pytest.raises(ValueError, match="`items` is empty; give at least one to measure MIUB on"):
        MiubCallback([], tiny_tokenizer)
    with pytest.raises(ValueError, match="`tokenizer` is None, but `items` aren't encoded; give the model's fast"):
        MiubCallback(tiny_items)
    callback = MiubCallback(tiny_items, tiny_tokenizer)
    with pytest.raises(RuntimeError, match=r"called by something else than a `transformers\.Trainer`; give it to one"):
        callback.on_train_begin(None, None, None, model=tiny_model)
    with pytest.raises(AdapterError, match="the model is a plain LlamaForCausalLM without an adapter"):
        train(callback, model=tiny_model)
    with pytest.raises(ValueError, match="the context has 20"):
        train(MiubCallback(tiny_items, tiny_tokenizer, max_length=20, window_tokens=8))
    monkeypatch.setattr("lorascope.capture.training.callback.is_deepspeed_zero3_enabled", lambda: True)
    with pytest.raises(ValueError, match=r"sharded over processes by DeepSpeed's ZeRO-3, .*under FSDP2, tensor"):
        train(callback)


class FirstFsdp(TrainerCallback):
    """Makes a Trainer say that it shards, by another FSDP than the second."""

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        _calling_trainer().is_fsdp_enabled = True


def test_the_first_fsdp_is_refused(train: Train, samples: list[EncodedSample]) -> None:
    with pytest.raises(ValueError, match=r"sharded over processes by FSDP of version 1, which hides the layers.*DDP"):
        train(MiubCallback(samples), first=FirstFsdp())


def test_a_model_without_a_stated_context_needs_max_length(train: Train, tiny_items: Any, tiny_tokenizer: Any) -> None:
    with torch.random.fork_rng():
        model = MambaForCausalLM(MambaConfig(vocab_size=len(tiny_tokenizer), hidden_size=32, num_hidden_layers=1))
    with pytest.raises(ValueError, match="the model is a MambaForCausalLM, which states no context; give `max_length`"):
        train(MiubCallback(tiny_items, tiny_tokenizer), model=lora(model, target_modules=["in_proj"]))


SMALL = FinetuneConfig(
    rank=4, learning_rate=1e-2, batch_size=3, max_steps=5, seed=1, score_batch_tokens=1000, miub_every=2, miub_samples=4
)


def test_finetune_records_miub_of_the_first_held_out_of_each_set(
    tiny_model: Any, tiny_tokenizer: Any, tiny_items: list[ChoiceItem], tmp_path: Path
) -> None:
    others = [dataclasses.replace(item, id=f"other-{item.id}", dataset="other") for item in tiny_items[:1]]
    items = [*tiny_items, *others]
    result = finetune(tiny_model, tiny_tokenizer, tiny_items, tmp_path / "out", SMALL, items_eval=items)
    curve = result.miub
    assert curve is not None
    assert curve["samples"] == [["tiny", "a"], ["other", "other-a"], ["tiny", "b"], ["tiny", "c"]]
    steps = curve["steps"]
    assert [step["step"] for step in steps] == [0, 2, 4, 5]
    assert (curve["unit"], curve["layers"]) == ("nat", [0, 1])
    assert curve["kinds"] == ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    for step in steps:
        assert sum(step["layers"]) == pytest.approx(step["miub"], rel=1e-12)
        assert sum(step["kinds"]) == pytest.approx(step["miub"], rel=1e-12)
    assert curve["seconds"] == pytest.approx(sum(step["seconds"] for step in steps))
    assert 0 < curve["share"] < 1
    assert curve["seconds"] < result.train_seconds
    chosen = encode_items([items[k] for k in (0, 6, 1, 2)], tiny_tokenizer, max_length=256, window_tokens=64)
    assert curve["n_tokens"] == sum(len(sample.token_ids) for sample in chosen)
    # The saved adapter gives the last value again, and the base model the first CE.
    found = measure_miub(attach_adapter(copy.deepcopy(tiny_model), tmp_path / "out"), chosen)
    assert {name: steps[-1][name] for name in ("miub", "ce")} == pytest.approx(
        {name: found[name] for name in ("miub", "ce")}, rel=1e-6
    )
    assert steps[0]["ce"] == pytest.approx(float(score(tiny_model, chosen, batch_tokens=1000).ce.mean()), rel=1e-6)
    assert json.loads((tmp_path / "out" / "finetune.json").read_text())["miub"] == curve
    assert steps[0]["miub"] == 0.0


def test_finetune_needs_held_out_items_for_it(
    tiny_model: Any, tiny_tokenizer: Any, tiny_items: list[ChoiceItem], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="`miub_every` is 2, but there are no held-out items to measure MIUB on; give"):
        finetune(tiny_model, tiny_tokenizer, tiny_items, tmp_path / "out", SMALL, items_eval=[])
    assert not (tmp_path / "out").exists()


def test_text_is_measured_window_by_window(train: Train, tiny_tokenizer: Any) -> None:
    text = TextItem(id="t", dataset="d", split="", text="The answer is four. " * 4)
    callback = MiubCallback([text], tiny_tokenizer, every=4, window_tokens=16)
    trainer = train(callback)
    assert [sample.id for sample in callback.samples][:2] == ["t:0", "t:1"]
    assert measured(trainer)[-1]["miub"] > 0
