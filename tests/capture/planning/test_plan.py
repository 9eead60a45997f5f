"""A plan against the capture that follows it, and against what can't be captured."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zarr
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig

from lorascope.capture import CaptureConfig, capture, load_model
from lorascope.capture.buffers import row_buffer
from lorascope.capture.models.model import model_facts
from lorascope.capture.planning.meta import load_on_meta
from lorascope.capture.planning.plan import Plan, _scored_tokens, plan
from lorascope.capture.samples.items import ChoiceItem
from lorascope.capture.samples.prompt import read_template, render
from lorascope.capture.samples.sources import read_items
from lorascope.capture.settling import trial
from lorascope.capture.settling.data import encode_data, read_data
from lorascope.capture.training.trainer import lora_targets
from lorascope.stores import StoreError, open_place, verify

from ...marks import slow_but
from ...tiny import save_model


@pytest.fixture
def config(
    tiny_model: Any, tiny_tokenizer: Any, tiny_adapter: Path, data: Path, tmp_path: Path
) -> Callable[..., CaptureConfig]:
    """Settings of a capture of the tiny model, saved with its tokenizer."""
    save_model(tmp_path / "model", tiny_model, tiny_tokenizer)

    def make(**settings: Any) -> CaptureConfig:
        given = {
            "model": str(tmp_path / "model"),
            "adapter": (str(tiny_adapter),),
            "data": (str(data),),
            "out": str(tmp_path / "run.zarr"),
            "device": "cpu",
            **settings,
        }
        return CaptureConfig(**given)

    return make


def files_of(path: Path) -> list[Path]:
    return [file for file in path.rglob("*") if file.is_file()]


SETTINGS: dict[str, dict[str, Any]] = {
    "last tokens, raw": {"tokens": "last:3", "codec": "raw", "score": False},
    "narrowed pair": {"stream": "pair", "store": "bf16"},
    "base, bfloat16": {"stream": "base", "dtype": "bfloat16", "batch_tokens": 64},
    "states none of some components": {"states": "none", "component": ("*.q_proj", "*.0.*")},
    "states sample, several prompts": {"states": "sample", "states_share": 0.5, "prompt": ("main", "prompt1")},
    "ablation": {"ablate": "layers", "ablate_share": 0.5, "batch_tokens": 128, "codec": "raw", "score": False},
    "importance": {"importance": 2, "states": "none", "codec": "raw"},
    "null adapters": {"null_adapters": 2, "states": "none", "codec": "raw"},
    "a budget": {"budget": "3MB", "answer_tokens": 4, "score_base": False},
}


@pytest.mark.parametrize("name", slow_but(SETTINGS, "last tokens, raw", "a budget"))
def test_counts_are_those_of_the_capture(
    config: Callable[..., CaptureConfig], text: Path, data: Path, name: str
) -> None:
    examples = data.with_name("tiny.valid.jsonl")
    examples.write_text(data.read_text())
    settings = config(data=(str(text), str(data)), window_tokens=128, examples=str(examples), **SETTINGS[name])
    made = plan(settings, probe=False)
    assert not Path(settings.out).exists()
    assert made.ok
    run = capture(settings)
    group = zarr.open_group(settings.out, mode="r")
    arrays = [node for _, node in group.members(max_depth=None) if isinstance(node, zarr.Array)]
    assert made.estimate.n_arrays == len(arrays)
    assert made.estimate.n_files == len(files_of(Path(settings.out)))
    assert made.spec.n_tokens == run.n_tokens
    rows = sum(p.raw_bytes for p in made.estimate.parts if p.name not in {"weights", "tables"}) + 4 * run.n_tokens
    assert rows == run.attributes["measured"]["raw_bytes"]
    assert made.config.tokens == run.attributes["provenance"]["settings"]["tokens"]
    stored = sum(file.stat().st_size for file in files_of(Path(settings.out)))
    assert stored < made.estimate.needed_bytes
    if settings.codec == "raw":
        assert made.estimate.stored_bytes == pytest.approx(stored, rel=0.05)
    if settings.budget is not None:
        assert made.config.tokens.startswith("share:0.")
        assert stored < 3_000_000


@pytest.mark.parametrize(("stream", "n_passes"), [("adapted", 9), ("base", 13)])
def test_null_adapters_are_counted_and_timed(
    config: Callable[..., CaptureConfig], data: Path, stream: str, n_passes: int
) -> None:
    made = plan(config(data=str(data), null_adapters=3, stream=stream))
    assert any(remark.startswith(f"null adapters take about as long as {n_passes} passes") for remark in made.remarks)
    assert made.trial is not None
    assert made.seconds["null adapters"] == made.trial.costs.forward * made.n_all_tokens * n_passes


def test_null_adapters_are_in_host_memory(config: Callable[..., CaptureConfig]) -> None:
    made = plan(config(null_adapters=3, device="cuda"), probe=False)
    parts = {need.what: need.parts for need in made.fit}
    assert "null adapters" not in parts["device"]
    assert parts["host"]["null adapters"] > 0


def test_null_adapters_that_can_t_be_made_are_refused_before_loading(
    config: Callable[..., CaptureConfig], tiny_model: Any, tmp_path: Path
) -> None:
    folder = tmp_path / "dora"
    lora = LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False, task_type="CAUSAL_LM", use_dora=True)
    get_peft_model(tiny_model, lora).save_pretrained(folder)
    with pytest.raises(ValueError, match="changes '.*' by more than a plain B A, so that no null adapters"):
        plan(config(adapter=str(folder), null_adapters=3), probe=False)


@pytest.mark.slow
def test_a_trial_gives_the_time(config: Callable[..., CaptureConfig], tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    made = plan(config(limit=3))
    assert sorted(tmp_path.rglob("*")) == before
    assert made.trial is not None
    assert made.seconds["score"] > 0
    assert made.seconds["load"] == made.trial.measured["load_seconds"] > 0
    assert made.seconds["capture"] > made.trial.measured["seconds"]  # a part of it was tried
    assert json.loads(json.dumps(made.as_dict()))["seconds"] == made.seconds
    assert made.codec_seconds.keys() == {"raw", "default"}
    assert made.trials.keys() == {"raw", "default", "none"}
    bottleneck = made.as_dict()["bottleneck"]
    assert all(rate > 0 for rate in bottleneck["stages"].values())
    assert bottleneck["ways"].keys() == made.trials.keys()
    assert made.codec_seconds["default"] == made.seconds["capture"]
    assert plan(config(limit=3, score=False)).seconds["score"] == 0


@pytest.mark.slow
def test_an_ablation_is_told_and_timed(config: Callable[..., CaptureConfig], text: Path) -> None:
    settings = config(data=str(text), window_tokens=100, batch_tokens=200, ablate="kinds", ablate_share=0.2)
    made = plan(settings)
    run = capture(settings)
    kept = int((~np.isnan(run.ablation().values[:, 0])).sum())
    n_batches = int(np.ceil(0.2 * made.n_batches))
    assert made.as_dict()["ablation"] == {"passes": 7 * n_batches, "batches": n_batches, "tokens": kept}
    assert run.attributes["measured"]["ablation_passes"] == 7 * n_batches
    assert made.trial is not None
    assert made.trial.measured["stages"]["ablate"] == 0  # it would be most of a trial
    each = made.trial.measured["ablation_seconds_per_token"]
    assert made.seconds["ablate"] == pytest.approx(7 * kept * each)  # all windows but the last are of one length
    assert plan(config(limit=3), probe=False).ablation == {}


def test_importance_is_counted_and_timed(config: Callable[..., CaptureConfig], text: Path) -> None:
    settings = config(data=str(text), window_tokens=50, importance=3)
    made = plan(settings)
    found = capture(settings).importance()
    n_tokens = int(found["n_tokens"].values[::3].sum())
    assert found.sizes["pass"] == 3 * 32
    assert any(remark.startswith("importance takes as long as 7 forward passes over up to") for remark in made.remarks)
    assert made.trial is not None
    assert made.seconds["importance"] == made.trial.costs.forward * n_tokens * 7


@pytest.mark.slow
@pytest.mark.parametrize("faster", ["raw", "default"])
def test_auto_takes_the_codec_that_is_faster(
    config: Callable[..., CaptureConfig], monkeypatch: pytest.MonkeyPatch, faster: str
) -> None:
    """In the plan and in the capture; a capture that goes on keeps it, whatever a later trial would say."""
    times = {"raw": 2.0, "default": 2.0, faster: 1.0}
    time_codecs = trial.time_codecs

    def as_if(*inputs: Any) -> Any:
        """The trial as if a token took these times."""
        timed = time_codecs(*inputs)
        return {c: t._replace(measured={**t.measured, "seconds": times[c] * t.tokens}) for c, t in timed.items()}

    monkeypatch.setattr(trial, "time_codecs", as_if)
    settings = config(limit=3, codec="auto", score=False)
    made = plan(settings)
    assert made.spec.codec == made.as_dict()["codec"] == faster
    assert made.codec_seconds["raw"] / made.codec_seconds["default"] == times["raw"] / times["default"]
    run = capture(settings)
    assert run.attributes["provenance"]["settings"]["codec"] == faster
    assert (run.arrays["tokens/nll"].blosc is not None) == (faster == "default")
    assert verify(run.path).ok
    before = (Path(settings.out) / "zarr.json").read_bytes()
    times = {codec: 3 - seconds for codec, seconds in times.items()}
    capture(settings)
    capture(dataclasses.replace(settings, codec="default"))
    assert (Path(settings.out) / "zarr.json").read_bytes() == before
    with pytest.raises(StoreError, match=f"settings.codec: '{faster}' -> 'zstd'"):
        capture(dataclasses.replace(settings, codec="zstd"))


def test_tokens_of_scores_and_answers_are_counted(config: Callable[..., CaptureConfig], tiny_tokenizer: Any) -> None:
    def counted(**settings: Any) -> tuple[int, int]:
        """Tokens that pass for scores and answers, and how many samples there are."""
        given = config(**settings)
        facts = model_facts(load_on_meta(given.model).model)
        samples, _ = encode_data(read_data(given), tiny_tokenizer, given, facts.context_length)
        return sum(_scored_tokens(sample, given) for sample in samples), len(samples)

    def scored(name: str, answer_tokens: int) -> int:
        """The same from the words of each prompt."""
        total = 0
        for item in read_items(config().data[0]):
            assert isinstance(item, ChoiceItem)
            prompt = len(tiny_tokenizer(render(read_template(name), item).text).input_ids)
            choices = sum(len(tiny_tokenizer(f" {one}", add_special_tokens=False).input_ids) for one in item.choices)
            total += 2 * (prompt + choices) + (2 * (prompt + answer_tokens) if answer_tokens else 0)
        return total

    assert counted() == (scored("main", 0), 6)
    assert counted(prompt=("prompt3", "main")) == (scored("main", 0) + scored("prompt3", 0), 12)
    assert counted(prompt="prompt3", answer_tokens=7) == (scored("prompt3", 7), 6)
    assert counted(prompt="prompt3", answer_tokens=7, score_base=False)[0] == scored("prompt3", 7) // 2
    assert counted(score=False)[0] == 0


def test_the_plan_as_json(config: Callable[..., CaptureConfig]) -> None:
    made = plan(config(answer_tokens=9), probe=False)
    values = json.loads(json.dumps(made.as_dict()))
    assert values["ok"] is True
    assert values["fits"]["disk"]["needed_bytes"] == made.estimate.needed_bytes
    assert values["n_components"] == 14
    assert sum(part["n_arrays"] for part in values["parts"]) == values["n_arrays"]
    assert values["trial"] is None
    assert values["seconds"] == {}
    assert values["settings"]["tokens"] == values["tokens"] == "all"
    assert any("every answer is counted with all 9 tokens" in remark for remark in values["remarks"])


def write_llama_8b(folder: Path, tokenizer: Any) -> tuple[str, str]:
    """Configuration, tokenizer and adapter of a Llama-3-8B-shaped model, without its weights."""
    config = LlamaConfig(
        vocab_size=128256,
        hidden_size=4096,
        intermediate_size=14336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
        max_position_embeddings=8192,
        dtype="bfloat16",
    )
    config.save_pretrained(folder / "llama")
    tokenizer.save_pretrained(folder / "llama")
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    lora = LoraConfig(r=4, target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"])
    state = get_peft_model_state_dict(PeftModel(model, lora, low_cpu_mem_usage=True))
    lora.save_pretrained(folder / "lora")
    ones = {key: torch.ones(tensor.shape, dtype=torch.bfloat16) for key, tensor in state.items()}
    save_file(ones, folder / "lora/adapter_model.safetensors")
    return str(folder / "llama"), str(folder / "lora")


@pytest.mark.slow
def test_a_model_of_8_billion_weights_is_planned_without_them(tmp_path: Path, tiny_tokenizer: Any, text: Path) -> None:
    model, adapter = write_llama_8b(tmp_path, tiny_tokenizer)
    made = plan(CaptureConfig(model=model, adapter=adapter, data=str(text), out=str(tmp_path / "run"), device="cuda"))
    spec = made.spec
    assert len(spec.components) == 7 * 32
    assert {c.dtype for c in spec.components} == {"bfloat16"}
    assert sum(c.d_out for c in spec.components) == 43_008 * 32
    base = next(part for part in made.estimate.parts if part.name == "base")
    assert base.raw_bytes == spec.n_tokens * 43_008 * 32 * 2
    assert base.n_chunks == 7 * 32 * spec.n_rows
    _, device, host = made.fit
    assert (device.what, host.what) == ("device", "host")
    n_adapter = sum(4 * (c.d_in + c.d_out) for c in spec.components)
    assert device.parts["weights"] == pytest.approx(2 * 8_030_261_248 + 4 * n_adapter, rel=1e-3)
    assert host.parts["row buffers"] in [n * made.estimate.row_sizes()[0] for n in (1, 2, 3)]
    assert made.trial is None
    assert "the model's weights aren't there, so neither whether they are whole nor any time is known" in made.remarks
    if not torch.cuda.is_available():
        assert device.free_bytes is None
        # By the kernel, as most cards do.
        assert device.parts["measuring js"] / (224 * 24) == device.parts["outputs of a layer"] / (2 * 43_008)


@pytest.mark.parametrize("by_kernel", [False, True])
def test_memory_is_that_of_how_a_device_measures(
    config: Callable[..., CaptureConfig], monkeypatch: pytest.MonkeyPatch, by_kernel: bool
) -> None:
    monkeypatch.setattr("lorascope.capture.planning.plan.is_present", lambda device: True)
    monkeypatch.setattr("lorascope.capture.planning.plan.has_kernel", lambda device: by_kernel)
    _, device, _ = plan(config(device="cuda"), probe=False).fit
    assert (device.parts["measuring js"] % (14 * 24) == 0) == by_kernel


@pytest.mark.parametrize("states", ["all", "sample", "none"])
def test_rows_take_the_memory_that_was_planned(
    config: Callable[..., CaptureConfig], text: Path, states: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []
    pages = row_buffer._allocate_pages

    def count(n_bytes: int) -> torch.Tensor:
        made.append(n_bytes)
        return pages(n_bytes)

    monkeypatch.setattr(row_buffer, "_allocate_pages", count)
    settings = config(data=str(text), window_tokens=128, states=states, states_share=0.5)
    planned = plan(settings, probe=False).fit[-1].parts["row buffers"]
    run = capture(settings)
    assert run.attributes["measured"]["buffer_bytes"] == planned
    assert 0 < sum(made) <= planned


def test_too_little_space_says_what_would_fit(
    config: Callable[..., CaptureConfig], text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(open_place(text)), "free_bytes", lambda place: 4_000_000)
    settings = config(data=str(text), window_tokens=128)
    made = plan(settings, probe=False)
    disk = made.fit[0]
    assert disk.what == "disk"
    assert not disk.fits
    assert not made.fits
    assert not made.ok
    assert any("of these tokens would fit" in way for way in made.ways)
    assert any("--states none" in way for way in made.ways)
    with pytest.raises(StoreError, match="where 4 MB are free"):
        capture(settings)
    assert plan(config(tokens="answer"), probe=False).ways == ()


def test_what_an_interrupted_run_has_there_is_counted(config: Callable[..., CaptureConfig]) -> None:
    settings = config()
    whole = plan(settings, probe=False)
    capture(settings)
    again = plan(settings, probe=False)
    there = sum(file.stat().st_size for file in files_of(Path(settings.out)))
    assert again.fit[0].needed_bytes == whole.fit[0].needed_bytes - there


def test_a_model_that_doesnt_fit_the_memory_isnt_loaded(
    config: Callable[..., CaptureConfig], tiny_model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = json.loads((tmp_path / "model/config.json").read_text())
    (tmp_path / "model/config.json").write_text(json.dumps(values | {"intermediate_size": 10**6}))
    monkeypatch.setattr("lorascope.capture.planning.plan.free_host_bytes", lambda: 2**29)
    lora = get_peft_model(tiny_model, LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
    lora.save_pretrained(tmp_path / "narrow")
    made = plan(config(adapter=(str(tmp_path / "narrow"),)))
    host = made.fit[-1]
    assert host.what == "host"
    assert host.needed_bytes > 2**29
    assert not host.fits
    assert made.trial is None
    spread = plan(config(adapter=(str(tmp_path / "narrow"),), device="cuda", device_map="auto"), probe=False)
    assert "the model is spread by `device_map`, so what is free on its devices isn't looked at" in spread.remarks
    assert next(one for one in spread.fit if one.what == "device").fits


def test_what_is_wrong_with_an_adapter_is_in_the_plan(config: Callable[..., CaptureConfig], tiny_adapter: Path) -> None:
    file = tiny_adapter / "adapter_model.safetensors"
    tensors = load_file(file)
    save_file({key: tensor * ("lora_A" in key) for key, tensor in tensors.items()}, file)
    made = plan(config())
    assert [problem.kind for problem in made.problems] == ["zero"]
    assert made.fits
    assert not made.ok
    assert made.trial is None
    assert plan(config(allow_zero=True), probe=False).ok
    key = next(iter(tensors))
    save_file({key: tensors[key]}, file)
    assert {problem.kind for problem in plan(config(), probe=False).problems} == {"missing", "zero"} - (
        set() if "lora_B" in key else {"zero"}
    )
    settings = json.loads((tiny_adapter / "adapter_config.json").read_text())
    (tiny_adapter / "adapter_config.json").write_text(json.dumps(settings | {"bias": "all"}))
    assert {"bias", "missing"} <= {problem.kind for problem in plan(config(), probe=False).problems}


def test_new_tokens_are_counted_as_many_as_there_may_be(config: Callable[..., CaptureConfig], text: Path) -> None:
    made = plan(config(generate=5), probe=False)
    prompts = plan(config(tokens="prompt"), probe=False)
    assert made.spec.n_tokens == prompts.spec.n_tokens + 5 * made.n_samples
    assert plan(config(generate=5, tokens="generated"), probe=False).spec.n_tokens == 5 * made.n_samples
    assert any("counted with all 5 new tokens" in remark for remark in made.remarks)
    windows = plan(config(data=(str(text),), window_tokens=64, generate=3), probe=False)
    plain = plan(config(data=(str(text),), window_tokens=64), probe=False)
    assert windows.spec.n_tokens == plain.spec.n_tokens + 3 * plain.n_samples


def test_quantised_weights_and_devices_are_remarked(config: Callable[..., CaptureConfig], tmp_path: Path) -> None:
    values = json.loads((tmp_path / "model/config.json").read_text())
    quantization = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (tmp_path / "model/config.json").write_text(json.dumps(values | {"quantization_config": quantization}))
    made = plan(config(), probe=False)
    assert any("quantised" in remark for remark in made.remarks)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_stored_bytes_of_a_real_model(smollm2: Path, tmp_path: Path) -> None:
    """Within 6 % on a text that doesn't repeat itself, and never more than the stated need."""
    model, tokenizer = load_model(str(smollm2))
    model.model.layers = model.model.layers[:4]  # their states are the same without the 26 that follow
    model.config.num_hidden_layers = 4
    save_model(tmp_path / "model", model, tokenizer)
    torch.manual_seed(0)
    adapted: Any = get_peft_model(model, LoraConfig(r=8, target_modules=lora_targets(model)))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter.data, std=0.02)
    adapted.save_pretrained(tmp_path / "adapter")
    (tmp_path / "licence.txt").write_text((Path(__file__).parents[3] / "LICENSE").read_text())
    config = CaptureConfig(
        model=str(tmp_path / "model"),
        adapter=str(tmp_path / "adapter"),
        data=str(tmp_path / "licence.txt"),
        out=str(tmp_path / "run.zarr"),
        dtype="bfloat16",
        limit=2,
        js_share=0.01,
        score=False,
        device="cpu",
    )
    made: Plan = plan(config, probe=False)
    assert {c.dtype for c in made.spec.components} == {"bfloat16"}
    assert made.spec.n_tokens == 1024
    capture(config)
    files = files_of(Path(config.out))
    stored = sum(f.stat().st_size for f in files)
    assert made.estimate.n_files == len(files)
    assert stored < made.estimate.needed_bytes
    assert made.estimate.stored_bytes == pytest.approx(stored, rel=0.06)
