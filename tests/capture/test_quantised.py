"""LoRA over quantised layers, where a library for them is installed: the base is the quantised layer's output."""

import copy
import dataclasses
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
)

from lorascope.capture import check_merge, compare_merged
from lorascope.capture.errors import CaptureError
from lorascope.capture.models.adapter import adapter_identity, attach_adapter
from lorascope.capture.models.model import model_identity
from lorascope.capture.models.preflight import inspect
from lorascope.capture.recording.nulls import STREAM, turn

from .recorded import Kept, axis, outputs_of, record, stir
from .recording.test_importance import measured, texts

INPUTS = {"input_ids": torch.arange(3, 17).reshape(2, 7), "attention_mask": torch.ones(2, 7, dtype=torch.long)}
TYPES = [torch.bfloat16]

pytestmark = [
    pytest.mark.filterwarnings("ignore:TorchaoLoraLinear was instantiated without"),
    pytest.mark.filterwarnings("ignore:MatMul8bitLt"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
needs_torchao = pytest.mark.skipif(find_spec("torchao") is None, reason="torchao isn't installed")
needs_bitsandbytes = pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="bitsandbytes isn't installed")


def wide_model(dtype: torch.dtype, n_tokens: int = 64) -> Any:
    """A Llama whose widths fill bitsandbytes' blocks of 64."""
    config = LlamaConfig(
        vocab_size=n_tokens, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, bos_token_id=0, eos_token_id=1, initializer_range=0.2,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return LlamaForCausalLM(config).eval().to(dtype)


def adapt_quantised(model: Any) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        adapted = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "down_proj"]))
        stir(adapted)
    return adapted.eval()


def check(model: Any, kind: str, *, exact: bool) -> None:
    for stream in ("adapted", "base", "pair"):
        verdict = inspect(model, ["default"], stream=stream, probe=INPUTS)
        assert verdict.problems == ()
        (note,) = verdict.notes
        assert (note.kind, kind in note.message, len(note.places)) == ("quantised", True, 4)
    found = record(model, INPUTS)
    for path, output in outputs_of(model, INPUTS, axis(found.components)).items():
        total = (found.kept.arrays[f"states/{path}/base"].float() + found.delta("default", path)).to(output.dtype)
        # bitsandbytes rounds delta to the output's type before it adds.
        slack = 0 if exact else 2 * torch.finfo(output.dtype).eps
        torch.testing.assert_close(total, output, rtol=slack, atol=slack)
    assert 0 < found.recorder.worst_excess <= 1
    base_pass = record(model, INPUTS, stream="base")
    with model.disable_adapter():
        for path, output in outputs_of(model, INPUTS, axis(base_pass.components)).items():
            assert torch.equal(base_pass.kept.arrays[f"states/{path}/base"], output)
    (proof,) = base_pass.recorder.proofs
    target: Any = Kept((2, 7))
    pass_ = proof.passes[0]
    with proof.attached(), pass_.enabled(model), proof.recording(target, pass_), torch.inference_mode():
        model(**INPUTS)


@needs_torchao
@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_torchao(dtype: torch.dtype) -> None:
    from torchao.quantization import Int8WeightOnlyConfig, quantize_  # type: ignore[import-not-found]

    model = wide_model(dtype)
    plain = model_identity(model, "x")
    quantize_(model.model.layers, Int8WeightOnlyConfig())
    identity = model_identity(model, "x")
    assert identity["sha256"] != plain["sha256"]
    assert identity["n_parameters"] == plain["n_parameters"]
    check(adapt_quantised(model), "Int8Tensor", exact=True)
    assert model_identity(model, "x")["sha256"] == identity["sha256"]


@needs_bitsandbytes
@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("bits", [4, 8])
def test_bitsandbytes(bits: int, dtype: torch.dtype, tmp_path: Path) -> None:
    wide_model(dtype).save_pretrained(tmp_path / "model")
    options = {
        "quantization_config": BitsAndBytesConfig(load_in_4bit=bits == 4, load_in_8bit=bits == 8),
        "dtype": dtype,
    }
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model", device_map="cpu", **options)
    adapted = adapt_quantised(model)
    adapted.save_pretrained(tmp_path / "adapter")
    check(adapted, f"Linear{bits}bit", exact=dtype == torch.float32)
    with torch.inference_mode():
        before = adapted(**INPUTS).logits
        identities = [(model_identity(adapted, "x"), adapter_identity(adapted)) for _ in range(2)]
        # On a CPU, asking a 4-bit layer for its state after a pass would spoil its weights.
        assert torch.equal(adapted(**INPUTS).logits, before)
    assert identities[0] == identities[1]
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "model", device_map="cpu", **options)
    attached = attach_adapter(again, tmp_path / "adapter")
    with torch.inference_mode():
        torch.testing.assert_close(attached(**INPUTS).logits, adapted(**INPUTS).logits)


@needs_bitsandbytes
@pytest.mark.parametrize("bits", [4, 8])
def test_null_adapters_do_what_captures_of_them_show(bits: int, make: Any, tiny_tokenizer: Any, tmp_path: Path) -> None:
    wide_model(torch.bfloat16, len(tiny_tokenizer)).save_pretrained(tmp_path / "model")
    settings = BitsAndBytesConfig(load_in_4bit=bits == 4, load_in_8bit=bits == 8)
    options = {"quantization_config": settings, "dtype": torch.bfloat16}
    model = adapt_quantised(AutoModelForCausalLM.from_pretrained(tmp_path / "model", device_map="cpu", **options))
    stored = make(model=model, null_adapters=2, states="none")
    own = [weight for name, weight in model.named_parameters() if "lora_B" in name]
    matrices = [weight.detach().double().numpy() for weight in own]
    for number in range(3):
        for place, weight in enumerate(own if number else ()):
            rng = np.random.default_rng([0, STREAM, number, place])
            weight.data = torch.tensor(turn(matrices[place], rng)).to(weight)
        alone = make(f"{number}.zarr", model=model, states="none", changes="all")
        kl, samples = alone.reduction("kl").values, alone.tokens["sample"].values
        expected = np.bincount(samples, kl) / np.bincount(samples)
        np.testing.assert_allclose(stored.null_adapters()["kl"].values[:, number], expected, rtol=1e-5)


@needs_torchao
@needs_bitsandbytes
@pytest.mark.parametrize("kind", ["bitsandbytes", "torchao"])
def test_gradients_pass_quantised_layers(kind: str, tmp_path: Path) -> None:
    """Those by an adapter's directions are of the model whose plain layers have the weights that these compute with.

    On CPUs with AVX512-BF16 the kernel for 4 bits has no backward pass: then it is named, each time.
    """
    plain = wide_model(torch.float32)
    if kind == "torchao":
        from torchao.quantization import Int8WeightOnlyConfig, quantize_

        quantised = copy.deepcopy(plain)
        quantize_(quantised.model.layers, Int8WeightOnlyConfig())
    else:
        plain.save_pretrained(tmp_path / "model")
        from bitsandbytes.functional import has_avx512bf16

        settings = BitsAndBytesConfig(load_in_4bit=True)
        quantised = AutoModelForCausalLM.from_pretrained(
            tmp_path / "model", device_map="cpu", quantization_config=settings
        )
    with torch.no_grad():
        for path, layer in quantised.model.layers.named_modules():
            if isinstance(layer, torch.nn.Linear):
                weight = layer(torch.eye(layer.in_features)).T
                plain.model.layers.get_submodule(path).weight.copy_(weight)
    samples = [dataclasses.replace(texts(25)[0], token_ids=np.arange(3, 28))]
    if kind == "bitsandbytes" and has_avx512bf16():
        for _ in range(2):
            with pytest.raises(CaptureError, match="no gradient passes bitsandbytes::gemv_4bit, and importance needs"):
                measured(adapt_quantised(copy.deepcopy(quantised)), samples, draws=2)
        return
    found, expected = (measured(adapt_quantised(model), samples, draws=2)[0] for model in (quantised, plain))
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


@needs_bitsandbytes
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", ["llama", "dora", "gpt2"])
def test_a_merge_in_8_bits_is_foretold(kind: str, tmp_path: Path) -> None:
    """The numbers are those of a model that transformers loaded in 8 bits, that PEFT merged, and that was saved."""
    if kind == "gpt2":
        config = GPT2Config(vocab_size=64, n_embd=64, n_layer=2, n_head=4, n_positions=64, initializer_range=0.2)
        settings: dict[str, Any] = {"target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True}
        with torch.random.fork_rng():
            torch.manual_seed(0)
            plain: Any = GPT2LMHeadModel(config).eval()
    else:
        plain, settings = (
            wide_model(torch.float32),
            {"target_modules": ["q_proj", "down_proj"], "use_dora": kind == "dora"},
        )
    plain.save_pretrained(tmp_path / "base")
    with torch.random.fork_rng():
        torch.manual_seed(1)
        adapted = get_peft_model(plain, LoraConfig(r=4, lora_alpha=8, **settings))
        stir(adapted)
    adapted.save_pretrained(tmp_path / "adapter")
    loaded = AutoModelForCausalLM.from_pretrained(
        tmp_path / "base", device_map="cpu", quantization_config=BitsAndBytesConfig(load_in_8bit=True)
    )
    merged = PeftModel.from_pretrained(loaded, str(tmp_path / "adapter")).merge_and_unload()
    merged.save_pretrained(tmp_path / "merged")
    real = compare_merged(tmp_path / "adapter", str(tmp_path / "base"), tmp_path / "merged")
    foretold = check_merge(tmp_path / "adapter", str(tmp_path / "base"), "int8")
    assert {*real["dtype"].values.tolist()} == {*foretold["dtype"].values.tolist()} == {"int8"}
    assert real.attrs["verdict"] == foretold.attrs["verdict"] == "adapter", real.attrs["sentence"]
    assert real.sizes["other"] == 0
    for name in ("arrived", "residual"):
        np.testing.assert_allclose(real[name], foretold[name], rtol=1e-12)
    assert float(real["n_unequal"].sum()) == 0
    assert 0.001 < float(real["residual"].max()) < 0.5
    # The base in 8 bits isn't the adapter.
    again = AutoModelForCausalLM.from_pretrained(
        tmp_path / "base", device_map="cpu", quantization_config=BitsAndBytesConfig(load_in_8bit=True)
    )
    again.save_pretrained(tmp_path / "unmerged")
    unmerged = compare_merged(tmp_path / "adapter", str(tmp_path / "base"), tmp_path / "unmerged")
    assert {*unmerged["verdict"].values.tolist()} == {"base"}
    # In 4 bits, as bitsandbytes keeps them, nothing is compared.
    AutoModelForCausalLM.from_pretrained(
        tmp_path / "base", device_map="cpu", quantization_config=BitsAndBytesConfig(load_in_4bit=True)
    ).save_pretrained(tmp_path / "four")
    four = compare_merged(tmp_path / "adapter", str(tmp_path / "base"), tmp_path / "four")
    assert (four.attrs["verdict"], four.sizes["other"]) == ("unknown", 0)
    assert {*four["verdict"].values.tolist()} == {"not compared"}
