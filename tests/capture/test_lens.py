"""The lens on captured runs: after a layer it reads the stream's own difference."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import GPT2Config, GPT2LMHeadModel, GPTNeoXConfig, GPTNeoXForCausalLM

from lorascope.analyze import lens, save_steering

from ..tiny import llama
from .models.test_unembedding import GPT2, NEOX

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False")]

TARGETS = {
    "llama": (lambda n: llama(n), ["q_proj", "o_proj", "down_proj"]),
    "llama, embedding": (lambda n: llama(n), ["embed_tokens", "o_proj", "down_proj"]),
    "gpt2": (lambda n: GPT2LMHeadModel(GPT2Config(vocab_size=n, **GPT2)), ["c_proj", "c_fc"]),
    "neox": (lambda n: GPTNeoXForCausalLM(GPTNeoXConfig(vocab_size=n, **NEOX)), ["dense", "dense_4h_to_h"]),
}


def adapted(model: Any, targets: list[str]) -> Any:
    return get_peft_model(model, LoraConfig(r=2, target_modules=targets, init_lora_weights=False)).eval()


@pytest.mark.parametrize("name", TARGETS)
def test_sums_are_the_streams_own_difference(make: Any, tiny_tokenizer: Any, tmp_path: Path, name: str) -> None:
    build, targets = TARGETS[name]
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = adapted(build(len(tiny_tokenizer)).eval(), targets)
    run = make(model=model, stream="pair", unembedding=True)
    found = lens(run)
    assert found.attrs["no_sums"] == ""
    streams: dict[bool, list[np.ndarray]] = {}
    for is_adapted in (True, False):
        whole: list[list[np.ndarray]] = []
        for start, stop in zip(run.samples["token_start"].values, run.samples["token_stop"].values, strict=True):
            ids = torch.from_numpy(run.tokens["token_id"].values[start:stop].astype(np.int64))[None]
            whole.append(after_layers(model, ids, is_adapted=is_adapted))
        streams[is_adapted] = [np.concatenate(one) for one in zip(*whole, strict=True)]
    for layer, (with_adapter, without) in enumerate(zip(streams[True], streams[False], strict=True)):
        expected = (with_adapter.astype(float) - without).mean(axis=0)
        delta = found["delta"].sel(site=f"after layer {layer}").values
        np.testing.assert_allclose(delta, expected, atol=1e-6 * np.abs(with_adapter).max())
        assert np.abs(expected).max() > 1e-3


@torch.no_grad()
def after_layers(model: Any, ids: torch.Tensor, *, is_adapted: bool) -> list[np.ndarray]:
    """The residual stream after each layer; of the last one what goes into the final norm."""
    plain = model.get_base_model()
    norm = next(one for name, one in plain.named_modules() if re.fullmatch(r".*\.(norm|ln_f|final_layer_norm)", name))
    last: list[torch.Tensor] = []
    hook = norm.register_forward_pre_hook(lambda _, args: last.append(args[0]))
    try:
        if is_adapted:
            states = plain(ids, output_hidden_states=True).hidden_states
        else:
            with model.disable_adapter():
                states = plain(ids, output_hidden_states=True).hidden_states
    finally:
        hook.remove()
    return [one[0].numpy() for one in (*states[1:-1], last[0])]


def test_sums_need_every_component_that_writes(make: Any, tiny_model: Any) -> None:
    runs = {
        "one pass": make("one.zarr", unembedding=True),
        "half": make("half.zarr", stream="pair", unembedding=True, component=("*.o_proj",)),
    }
    found = {name: lens(run) for name, run in runs.items()}
    assert found["one pass"].attrs["no_sums"].startswith("stream 'adapted' has no pass without the adapter")
    assert found["half"].attrs["no_sums"] == "not both components of the first layer were captured"
    assert all("after" not in site for one in found.values() for site in one["site"].values)
    one = lens(make("pair.zarr", stream="pair", unembedding=True), component="model.layers.1.mlp.down_proj")
    assert one.attrs["no_sums"] == "one component was asked for"
    assert one["site"].values.tolist() == ["model.layers.1.mlp.down_proj"]


def test_torch_reads_the_steering_vectors(make: Any, tmp_path: Path) -> None:
    found = lens(make(stream="pair", unembedding=True))
    vectors = load_file(save_steering(found, tmp_path / "steer.safetensors"))
    assert list(vectors) == sorted(found["site"].values)
    for site in found["site"].values:
        np.testing.assert_array_equal(vectors[site].numpy(), found["delta"].sel(site=site).values)
