"""The unembedding in a run is the model's own, on every architecture, and what can't be kept is refused."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from torch import nn
from transformers import (
    BertConfig,
    BertForMaskedLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
)

from lorascope.capture import CaptureConfig, plan
from lorascope.capture.models.unembedding import describe_unembedding, final_norm
from lorascope.stores import StoreError, open_run, pull, verify
from lorascope.stores.checking.verify import Verdict

from ...stores.on_disk import edit_root
from ...tiny import SHAPE, llama, save_model

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False")]
INPUTS = {"input_ids": torch.arange(3, 11)[None], "attention_mask": torch.ones(1, 8, dtype=torch.long)}
GPT2 = {"n_embd": 33, "n_layer": 2, "n_head": 3, "n_positions": 256, "initializer_range": 0.2}  # an odd width
NEOX = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
CASES = {
    "llama": (lambda n: llama(n), "lm_head.weight", "model.norm", 0.0),
    "llama, tied": (lambda n: llama(n, tie_word_embeddings=True), "model.embed_tokens.weight", "model.norm", 0.0),
    "gpt2": (
        lambda n: GPT2LMHeadModel(GPT2Config(vocab_size=n, **GPT2)),
        "transformer.wte.weight",
        "transformer.ln_f",
        0.0,
    ),
    "neox": (
        lambda n: GPTNeoXForCausalLM(GPTNeoXConfig(vocab_size=n, **NEOX)),
        "embed_out.weight",
        "gpt_neox.final_layer_norm",
        0.0,
    ),
    "gemma2": (
        lambda n: Gemma2ForCausalLM(Gemma2Config(vocab_size=n, head_dim=8, **SHAPE)),
        "model.embed_tokens.weight",
        "model.norm",
        1.0,
    ),
}


def with_adapter(model: Any) -> Any:
    """A trained adapter on every linear layer but the output embedding."""
    return get_peft_model(model, LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False))


def disturbed(model: Any, norm: str) -> Any:
    """The model with a final norm that isn't the one of a model without training."""
    for parameter in model.get_submodule(norm).parameters():
        nn.init.normal_(parameter, mean=0.3)
    return model.eval()


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_stored_is_the_models_own(
    make: Any, tiny_tokenizer: Any, tmp_path: Path, name: str, dtype: torch.dtype
) -> None:
    build, head, norm, added = CASES[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = disturbed(build(len(tiny_tokenizer) + 5), norm).to(dtype)  # as models are often padded
        saved = load_file(save_model(tmp_path / "model", model, tiny_tokenizer) / "model.safetensors")
        run = make(model=with_adapter(model), unembedding=True)
    found = run.unembedding()
    np.testing.assert_array_equal(found["weight"].values, saved[head].float().numpy())
    exact = saved[f"{norm}.weight"].double().numpy() + added
    rounding = {torch.float32: 1e-6, torch.bfloat16: 2**-7}[dtype]
    np.testing.assert_allclose(found["norm"].values, exact, atol=rounding * np.abs(exact).max())
    assert found.attrs["centred"] == (f"{norm}.bias" in saved)
    texts = [tiny_tokenizer.decode([index]) for index in range(len(tiny_tokenizer))]
    assert found["text"].values.tolist() == [*texts, *[""] * 5]
    assert verify(run.path, level="statistics").ok


@pytest.mark.parametrize("how", ["target_modules", "modules_to_save"])
def test_an_adapter_on_the_output_embedding_leaves_the_base_models_own(make: Any, tiny_model: Any, how: str) -> None:
    expected = tiny_model.lm_head.weight.detach().numpy().copy()
    options = {"target_modules": ["o_proj"], "modules_to_save": None}
    options[how] = [*(options[how] or []), "lm_head"]
    model = get_peft_model(tiny_model, LoraConfig(r=2, init_lora_weights=False, **options))
    if how == "modules_to_save":
        nn.init.zeros_(model.get_output_embeddings().modules_to_save["default"].weight)
    np.testing.assert_array_equal(make(model=model, unembedding=True).unembedding()["weight"].values, expected)


def test_logits_are_what_it_makes_of_the_residual_stream(tiny_model: Any) -> None:
    model = disturbed(tiny_model, "model.norm")
    seen: list[torch.Tensor] = []
    model.model.norm.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.no_grad():
        logits = model(**INPUTS).logits
    norm = final_norm(model, INPUTS)
    x = seen[0].double().numpy()
    x /= np.sqrt((x**2).mean(-1, keepdims=True) + model.config.rms_norm_eps)
    np.testing.assert_allclose(x * norm.weight @ model.lm_head.weight.detach().double().numpy().T, logits, atol=1e-4)


def test_copies_keep_it(make: Any, tmp_path: Path) -> None:
    run = make(unembedding=True, codec="raw", dtype=torch.bfloat16)
    slim = pull(run.path, tmp_path / "part.zarr", components=["*.o_proj"], samples=2)
    small = pull(run.path, tmp_path / "small.zarr")
    for copy in (slim, small):
        assert copy.unembedding().identical(run.unembedding())


def test_blocks_are_chunks_of_the_vocabulary(make: Any, tiny_tokenizer: Any) -> None:
    weight = make(model=with_adapter(llama(2500)), unembedding=True).unembedding()["weight"]
    assert weight.chunks == ((1024, 1024, 452), (32,))
    whole = weight.values
    np.testing.assert_array_equal(weight[1000:2100:7, 3].values, whole[1000:2100:7, 3])
    np.testing.assert_array_equal(weight[2400, ::-2].values, whole[2400, ::-2])
    np.testing.assert_array_equal(weight[[2300, 5, 1024]].values, whole[[2300, 5, 1024]])


def test_a_run_that_says_nothing_of_its_meaning_is_read(make: Any) -> None:
    run = make(unembedding=True)
    edit_root(run.path, consolidated=False)
    for name, said in (("weight", None), ("text", 5)):
        file = run.path / "unembedding" / name / "zarr.json"
        document = json.loads(file.read_text())
        document["attributes"]["long_name"] = said
        file.write_text(json.dumps(document))
    assert open_run(run.path).unembedding().equals(run.unembedding())


def test_a_lost_chunk_is_no_fill(make: Any) -> None:
    run = make(model=with_adapter(llama(2500)), unembedding=True)
    (run.path / "unembedding/weight/c.1.0").unlink()
    with pytest.raises(StoreError, match="'unembedding/weight' announces 2500 entries, but has 2 of 3 chunks"):
        open_run(run.path)
    found: Verdict = verify(run.path)
    assert not found.ok


def test_a_run_without_says_what_to_do(make: Any) -> None:
    run = make()
    with pytest.raises(StoreError, match=r"holds no unembedding; capture with `--unembedding`"):
        run.unembedding()
    with pytest.raises(StoreError, match=r"was begun without `unembedding`; leave it out, or name a new folder"):
        make(unembedding=True)


def test_it_changes_neither_numbers_nor_the_fingerprint(make: Any) -> None:
    runs = make("without.zarr"), make("with.zarr", unembedding=True)
    assert runs[0].attributes["fingerprint"] == runs[1].attributes["fingerprint"]
    assert runs[0].digest(0).tolist() == runs[1].digest(0).tolist()
    for run in runs:  # older versions, which don't know the setting, would take it into the fingerprint
        assert "unembedding" not in run.attributes["provenance"]["settings"]


def test_the_plan_counts_it(
    tiny_model: Any, tiny_tokenizer: Any, tiny_adapter: Path, data: Path, tmp_path: Path
) -> None:
    folder = save_model(tmp_path / "model", tiny_model, tiny_tokenizer)
    config = CaptureConfig(model=str(folder), adapter=(str(tiny_adapter),), data=(str(data),), out=str(tmp_path / "r"))
    bare, whole = (plan(one, probe=False).estimate for one in (config, dataclasses.replace(config, unembedding=True)))
    n, width = tiny_model.lm_head.weight.shape
    assert whole.n_arrays - bare.n_arrays == 3
    assert whole.raw_bytes - bare.raw_bytes == 4 * n * width + 4 * width + 12 * n


class Scaled(nn.Module):
    """Makes the residual stream larger, which no norm does."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 3 * x


@pytest.mark.parametrize(
    ("in_place", "words"),
    [
        (lambda: nn.Linear(32, 32), r"output of 'model\.norm', a Linear, which is no norm over features"),
        (Scaled, r"output of 'model\.norm', a Scaled, which is no norm"),
    ],
)
def test_something_else_before_the_output_embedding_is_refused(tiny_model: Any, in_place: Any, words: str) -> None:
    tiny_model.model.norm = in_place()
    with pytest.raises(ValueError, match=words):
        final_norm(tiny_model, INPUTS)


def test_work_between_norm_and_output_embedding_is_refused(tiny_model: Any) -> None:
    tiny_model.lm_head.register_forward_pre_hook(lambda _, args: (args[0] / 2,))
    words = r"no module's output as it is \(the last before it is 'model\.norm', a LlamaRMSNorm\), so its norm"
    with pytest.raises(ValueError, match=words):
        final_norm(tiny_model, INPUTS)


def test_dropout_between_them_is_looked_through(tiny_model: Any) -> None:
    norm = disturbed(tiny_model, "model.norm").model.norm
    expected = norm.weight.detach().numpy().copy()
    tiny_model.model.norm = nn.Sequential(norm, nn.Dropout(0.5), nn.Identity()).eval()
    found = final_norm(tiny_model, INPUTS)
    np.testing.assert_allclose(found.weight, expected, rtol=1e-6)


def test_models_that_foresee_no_token_are_refused(tiny_model: Any) -> None:
    bert = BertForMaskedLM(
        BertConfig(
            vocab_size=50,
            **{
                key: SHAPE[key]
                for key in ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
            },
        )
    )
    with pytest.raises(ValueError, match="a BertForMaskedLM has no output embedding that makes next tokens"):
        describe_unembedding(bert)
    tiny_model.lm_head.weight = nn.Parameter(torch.zeros(9, 32, dtype=torch.int8), requires_grad=False)
    with pytest.raises(ValueError, match=r"is kept quantised, as a Parameter of torch\.int8; load the model without"):
        describe_unembedding(tiny_model)
