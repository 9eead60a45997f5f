"""Merged models, sound and spoilt, compared with the run of their adapter: real PEFT merges, saved and loaded again."""

import copy
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model

from lorascope.analyze import verify_against
from lorascope.capture import attach_adapter, capture, layer_sums, load_model, model_nll
from lorascope.capture.against import LAYER_TOKENS, is_exact, tokenizer_differences
from lorascope.capture.training.trainer import lora_targets
from lorascope.stores import Run

from ..tiny import byte_tokenizer, llama, save_gguf, save_model


class Trained(NamedTuple):
    """A tiny model, its adapter's folder, and captured runs."""

    tokenizer: Any
    model: Any
    adapter: Path
    run: Run
    folder: Path


def texts(n: int) -> list[dict[str, str]]:
    return [
        {"text": f"the question {i} is the answer {i * i % 97}; and {i * 7 % 13} is another one of the four"}
        for i in range(n)
    ]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A Llama of 4 layers with a random adapter of every linear layer, and its run over 24 texts."""
    folder, tokenizer = tmp_path_factory.mktemp("against"), byte_tokenizer(("the", "Ġthe", "ing"))
    model = llama(len(tokenizer), num_hidden_layers=4)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        config = LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=8, target_modules=lora_targets(model))
        adapted = get_peft_model(copy.deepcopy(model), config)
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter.data, std=0.03)
    adapted.save_pretrained(folder / "adapter", save_embedding_layers=False)
    run = capture(
        adapted, texts(24), folder / "run.zarr", tokenizer=tokenizer, progress=False, score=False, window_tokens=200
    )
    return Trained(tokenizer, model, folder / "adapter", run, folder)


def merge(
    trained: Trained, edit: Callable[[str, Any], None] | None = None, *, dtype: Any = torch.float32, n: int = 1
) -> Any:
    """The model with its adapter merged `n` times by PEFT, after `edit` changed each of its LoRA layers."""
    model = copy.deepcopy(trained.model).to(dtype)
    for _ in range(n):
        model = attach_adapter(model, trained.adapter)
        for path, layer in model.named_modules():
            if edit is not None and hasattr(layer, "lora_A") and hasattr(layer, "scaling"):
                edit(path, layer)
        model = model.merge_and_unload()
    return model


def compare(trained: Trained, model: Any, run: Run | None = None, *, with_layers: bool = True) -> Any:
    """The result of `verify_against` for a model that was saved and loaded again."""
    place = save_model(trained.folder / "merged", model, trained.tokenizer)
    loaded, tokenizer = load_model(str(place))
    run = run or trained.run
    return verify_against(
        run,
        partial(model_nll, loaded),
        exact=is_exact(loaded, run),
        layers=partial(layer_sums, loaded, run) if with_layers else None,
        differences=tokenizer_differences(tokenizer, run),
    )


def scaled(factor: float, where: str = "") -> Callable[[str, Any], None]:
    def edit(path: str, layer: Any) -> None:
        if where in path:
            layer.scaling["default"] *= factor

    return edit


def shuffled(path: str, layer: Any) -> None:
    """Another adapter of the same shape and norm."""
    weight = layer.lora_B["default"].weight
    weight.data = weight.data[torch.randperm(len(weight), generator=torch.Generator().manual_seed(len(path)))]


def transposed(path: str, layer: Any) -> None:
    weight = layer.lora_B["default"].weight
    weight.data = weight.data.T.reshape(weight.shape).contiguous()


def other_head(trained: Trained) -> Any:
    """Something that no layer with LoRA shows."""
    model = merge(trained)
    model.lm_head.weight.data[5:50] *= 1.3
    return model


def rounded(model: Any, bits: int) -> Any:
    """Linear layers in blocks of 32 weights with this many bits, as GGUF and bitsandbytes have them."""
    for name, layer in model.named_modules():
        if isinstance(layer, torch.nn.Linear) and name != "lm_head":
            blocks = layer.weight.data.reshape(-1, 32)
            step = blocks.abs().amax(1, keepdim=True) / (2 ** (bits - 1) - 1)
            layer.weight.data = ((blocks / step).round() * step).reshape(layer.weight.shape)
    return model


HALF, LAYER = torch.bfloat16, ".layers.2."
CASES: dict[str, tuple[Callable[[Trained], Any], str, str]] = {
    "float32": (lambda t: merge(t), "adapter", "adapter"),
    "float16": (lambda t: merge(t, dtype=torch.float16), "adapter", "adapter"),
    "bfloat16": (lambda t: merge(t, dtype=HALF), "adapter", "adapter"),
    "merged, then bfloat16": (lambda t: merge(t).to(HALF), "adapter", "adapter"),
    "base": (lambda t: t.model, "base", "base"),
    "base in bfloat16": (lambda t: copy.deepcopy(t.model).to(HALF), "base", "base"),
    "twice its scale": (lambda t: merge(t, scaled(2)), "scaled", "scaled"),
    "merged twice": (lambda t: merge(t, n=2), "scaled", "scaled"),
    "half its scale in bfloat16": (lambda t: merge(t, scaled(0.5), dtype=HALF), "scaled", "scaled"),
    "0.9 of its scale": (lambda t: merge(t, scaled(0.9)), "scaled", "scaled"),
    "a layer missing": (lambda t: merge(t, scaled(0, LAYER)), "partly", "partly"),
    "a layer missing in bfloat16": (lambda t: merge(t, scaled(0, LAYER), dtype=HALF), "unknown", "partly"),
    "queries missing": (lambda t: merge(t, scaled(0, "q_proj")), "partly", "partly"),
    "another adapter": (lambda t: merge(t, shuffled), "else", "else"),
    "B transposed": (lambda t: merge(t, transposed), "else", "else"),
    "subtracted": (lambda t: merge(t, scaled(-1)), "else", "else"),
    "two adapters": (lambda t: merge(t._replace(model=merge(t)), shuffled), "else", "else"),
    "another head": (other_head, "else", "else"),
    "another model": (
        lambda t: merge(t._replace(model=llama(len(t.tokenizer), num_hidden_layers=4, rms_norm_eps=0.5))),
        "else",
        "else",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_merges_get_their_verdict(case: str, trained: Trained) -> None:
    """With predictions alone, and with layers."""
    make, by_tokens, by_layers = CASES[case]
    model = make(trained)
    result = compare(trained, model, with_layers=False)
    assert result.attrs["verdict"] == by_tokens, result.attrs["sentence"]
    result = compare(trained, model)
    assert result.attrs["verdict"] == by_layers, result.attrs["sentence"]
    assert not any("samples" in note or "tokens" in note for note in result.attrs["not_compared"])


@pytest.mark.parametrize("dtype", [torch.float32, HALF])
def test_a_run_of_one_sample_has_a_verdict_by_layers(dtype: Any, trained: Trained, tmp_path: Path) -> None:
    adapted, place = attach_adapter(copy.deepcopy(trained.model), trained.adapter), tmp_path / "single.zarr"
    options: dict[str, Any] = {"progress": False, "score": False, "window_tokens": 200}
    run = capture(adapted, texts(1), place, tokenizer=trained.tokenizer, **options)
    result = compare(trained, merge(trained, dtype=dtype), run)
    assert result.attrs["verdict"] == "adapter", result.attrs["sentence"]
    assert compare(trained, trained.model, run).attrs["verdict"] == "base"


def test_other_norms_in_bfloat16_are_not_the_adapter(trained: Trained) -> None:
    """No layer with LoRA shows them."""
    model = merge(trained)
    model.model.norm.weight.data *= 1.05
    result = compare(trained, model.to(HALF))
    assert result.attrs["verdict"] in ("unknown", "else"), result.attrs["sentence"]
    assert "all 28 compared layers have it" in result.attrs["sentence"]


def test_a_target_that_can_not_read_all_tokens_is_never_the_adapter(trained: Trained) -> None:
    """A vocabulary that was cut, and a context that is shorter."""
    cut, short = merge(trained), merge(trained)
    cut.resize_token_embeddings(100)
    short.config.max_position_embeddings = 40
    for model in (cut, short):
        result = compare(trained, model)
        assert result.attrs["verdict"] == "unknown", result.attrs["sentence"]
        assert (
            "28 layers: base and delta of no whole sample that the target can read are stored"
            in result.attrs["not_compared"]
        )
        assert any(
            note.endswith("tokens: the target gave no probability of them") for note in result.attrs["not_compared"]
        )


def test_missing_layers_are_named(trained: Trained) -> None:
    for dtype in (torch.float32, HALF):
        result = compare(trained, merge(trained, scaled(0, LAYER), dtype=dtype))
        states = result["layers/state"].to_series()
        assert set(states[states == "base"].index) == {path for path in trained.run if LAYER in path}
        assert set(states[states != "base"]) == {"adapter"}
        assert "of 28 compared layers 7 lack it (model.layers.2.self_attn.q_proj, " in result.attrs["sentence"]


def test_layers_that_are_exchanged_or_scaled_are_named(trained: Trained) -> None:
    model = attach_adapter(copy.deepcopy(trained.model), trained.adapter)
    layers = [model.get_submodule(f"base_model.model.model.layers.{i}.self_attn.q_proj") for i in (0, 1, 3)]
    for name in ("lora_A", "lora_B"):
        first, second = (getattr(layer, name)["default"].weight for layer in layers[:2])
        first.data, second.data = second.data.clone(), first.data.clone()
    layers[2].scaling["default"] *= 1.5
    result = compare(trained, model.merge_and_unload())
    table = result["layers"].to_dataset().to_dataframe()
    assert result.attrs["verdict"] == "partly"
    assert [*table.index[table["state"] == "changed"]] == [f"model.layers.{i}.self_attn.q_proj" for i in (0, 1, 3)]
    slopes = table.loc[table["state"] == "changed", "slope"].to_numpy()
    assert slopes[2] == pytest.approx(1.5, abs=1e-4)
    assert (np.abs(slopes[:2]) < 0.5).all()


def test_four_bits_are_told_by_the_mean_of_layers(trained: Trained) -> None:
    """Rounding hides each layer, and moves predictions more than the adapter: the sound merge isn't accused."""
    sound = compare(trained, rounded(merge(trained), 4).to(torch.float16))
    base = compare(trained, rounded(copy.deepcopy(trained.model), 4).to(torch.float16))
    assert (sound.attrs["verdict"], base.attrs["verdict"]) == ("unknown", "else")
    assert "Can't tell: on average layers have 0.997 ± 0.02" in sound.attrs["sentence"]
    assert "on average layers have -0.008" in base.attrs["sentence"]
    assert sound.attrs["not_compared"] == ["19 layers: rounding hides what the adapter adds"]


@pytest.mark.parametrize("stream", ["base", "pair"])
def test_other_streams(stream: str, trained: Trained) -> None:
    """In stream `base` layers are compared at the base's own inputs; in `pair` none is."""
    adapted, place = attach_adapter(copy.deepcopy(trained.model), trained.adapter), trained.folder / f"{stream}.zarr"
    options = {
        "tokenizer": trained.tokenizer,
        "progress": False,
        "score": False,
        "window_tokens": 200,
        "stream": stream,
    }
    run = capture(adapted, texts(8), place, **options)
    result = compare(trained, merge(trained, scaled(0, LAYER)), run)
    assert result.attrs["verdict"] == "partly"
    if stream == "base":
        assert "7 lack it (model.layers.2.self_attn.q_proj" in result.attrs["sentence"]
    else:
        assert result.attrs["not_compared"] == ["28 layers: in stream `pair` delta includes what earlier layers change"]


def test_what_can_not_be_compared_is_counted(trained: Trained) -> None:
    adapted = attach_adapter(copy.deepcopy(trained.model), trained.adapter)
    options = {"tokenizer": trained.tokenizer, "progress": False, "score": False, "window_tokens": 200}
    without = capture(adapted, texts(3), trained.folder / "without.zarr", changes="none", **options)
    gaps = capture(adapted, texts(3), trained.folder / "gaps.zarr", tokens="from:1", **options)
    for run, reason in (
        (without, "next-token changes weren't captured"),
        (gaps, "some of their tokens weren't captured"),
    ):
        result = compare(trained, merge(trained), run)
        assert result.attrs["verdict"] == "unknown"
        assert result.attrs["sentence"] == "Can't tell: no tokens are comparable"
        assert any(note.startswith(f"3 samples: {reason}") for note in result.attrs["not_compared"])


def test_another_tokenizer_is_something_else(trained: Trained) -> None:
    other = trained._replace(tokenizer=byte_tokenizer(("the", "Ġthe", "ang")))
    result = compare(other, merge(trained))
    assert result.attrs["verdict"] == "else"
    assert "it predicts as the adapter, but its tokenizer is another: token" in result.attrs["sentence"]


def test_ids_that_the_model_lacks_and_broken_weights_are_no_probabilities(trained: Trained) -> None:
    sequences = [np.array([0, 5, 6]), np.array([0, 10_000])]
    known, unknown = model_nll(trained.model, sequences)
    with torch.inference_mode():
        logits = trained.model(torch.tensor([[0, 5, 6]])).logits[0].log_softmax(-1)
    np.testing.assert_allclose(known[1:], [-float(logits[0, 5]), -float(logits[1, 6])], rtol=1e-5)
    assert np.isnan(known[0])
    assert np.isnan(unknown).all()
    broken = merge(trained)
    broken.model.layers[1].mlp.up_proj.weight.data[:] = np.nan
    assert compare(trained, broken).attrs["verdict"] == "unknown"


def test_layers_of_another_width_are_counted(trained: Trained) -> None:
    other = llama(len(trained.tokenizer), num_hidden_layers=3, intermediate_size=96)
    sums = layer_sums(other, trained.run, [np.arange(40)], np.arange(40))
    # A layer less, and of the others gate and up; q, k, v, o and down keep their widths.
    assert sums.not_compared == {"the target has no layer of their name and width": 7 + 3 * 2}
    assert len(sums.sums) == 15
    assert LAYER_TOKENS >= 40


def merge_gguf(base: Path, adapter: Path, target: Path, kind: Any, *, without: str = "nothing") -> Path:
    """Write a GGUF file with W + s B A of each adapted layer in place of W, as llama.cpp's converter orders rows."""
    import gguf
    from safetensors.numpy import load_file

    reader, factors = gguf.GGUFReader(base), load_file(adapter / "adapter_model.safetensors")
    settings = json.loads((adapter / "adapter_config.json").read_text())
    deltas = {}
    for name, a in factors.items():
        if "lora_A" in name and without not in name:
            delta = settings["lora_alpha"] / settings["r"] * factors[name.replace("lora_A", "lora_B")] @ a
            if "q_proj" in name:  # 4 heads, halves of whose rows alternate in the file
                delta = delta.reshape(4, 2, -1, delta.shape[1]).swapaxes(1, 2).reshape(delta.shape)
            deltas[f"blk.0.{'attn_q' if 'q_proj' in name else 'ffn_down'}.weight"] = delta
    writer = gguf.GGUFWriter(target, "llama")
    for name, field in reader.fields.items():
        if not name.startswith("GGUF.") and name != "general.architecture":
            writer.add_key_value(name, field.contents(), field.types[0], field.types[-1])
    for tensor in reader.tensors:
        content, own = np.array(tensor.data), tensor.tensor_type
        if tensor.name in deltas:
            merged = gguf.quants.dequantize(content, own) + deltas[tensor.name]
            content, own = gguf.quants.quantize(merged.astype(np.float32), kind), kind
        writer.add_tensor(tensor.name, content, raw_dtype=own)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


@pytest.mark.slow
def test_merged_gguf_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An adapter of a GGUF base, merged in three types, and without one of its two layers."""
    gguf = pytest.importorskip("gguf")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    base = save_gguf(tmp_path / "base.gguf")
    model, tokenizer = load_model(str(base))
    config = LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=8, target_modules=["q_proj", "down_proj"])
    with torch.random.fork_rng():
        torch.manual_seed(1)
        adapted = get_peft_model(model, config)
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter.data, std=0.1)
    adapted.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    rng = np.random.default_rng(0)
    data = [{"text": "".join(rng.choice(["a", "b"], 60))} for _ in range(24)]
    options = {"tokenizer": tokenizer, "progress": False, "score": False, "window_tokens": 64}
    run = capture(adapted, data, tmp_path / "run.zarr", **options)
    kinds = gguf.GGMLQuantizationType
    for kind, without, expected in (
        (kinds.F32, "nothing", "adapter"),
        (kinds.F16, "nothing", "adapter"),
        (kinds.Q8_0, "nothing", "adapter"),
        (kinds.F16, "down_proj", "partly"),
    ):
        target = merge_gguf(base, tmp_path / "adapter", tmp_path / f"{kind.name}-{without}.gguf", kind, without=without)
        merged = load_model(str(target))[0]
        layers = partial(layer_sums, merged, run)
        result = verify_against(run, partial(model_nll, merged), layers=layers)
        assert result.attrs["verdict"] == expected, result.attrs["sentence"]
        states = result["layers/state"].to_series()
        assert {path for path, state in states.items() if state == "base"} == {p for p in states.index if without in p}
