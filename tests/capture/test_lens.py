"""The lens on captured runs: the stream's own difference, and the unembedding out of a model's folder."""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
)

from lorascope.analyze import lens, save_steering
from lorascope.analyze.words.unembedding import CENTRED, LESS_ONE, PLAIN, read_unembedding
from lorascope.capture.models.unembedding import final_norm
from lorascope.stores import StoreError, open_run

from ..tiny import SHAPE, llama, save_model
from .models.test_unembedding import CASES, GPT2, INPUTS, NEOX, disturbed

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


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("shard", ["1GB", "10KB"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_models_folder_gives_what_a_run_stores(
    make: Any, tiny_tokenizer: Any, tmp_path: Path, name: str, shard: str, dtype: torch.dtype
) -> None:
    build, _, norm, _ = CASES[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = disturbed(build(len(tiny_tokenizer)), norm).to(dtype)
        folder = tmp_path / "model"
        model.save_pretrained(folder, max_shard_size=shard)
        tiny_tokenizer.save_pretrained(folder)
        run = make(
            model=get_peft_model(model, LoraConfig(r=2, target_modules="all-linear")), unembedding=True, allow_zero=True
        )
    assert (folder / "model.safetensors.index.json").exists() == (shard == "10KB")
    stored, found = run.unembedding(), read_unembedding(folder)
    np.testing.assert_array_equal(found["weight"].values, stored["weight"].values)
    rounding = {torch.float32: 1e-6, torch.bfloat16: 2**-7}[dtype]
    most = np.abs(stored["norm"].values).max()
    np.testing.assert_allclose(found["norm"].values, stored["norm"].values, atol=rounding * most)
    assert found["text"].values.tolist() == stored["text"].values.tolist()
    assert found.attrs == stored.attrs


SMALL = SHAPE | {"head_dim": 8, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "rotary_dim": 8}
"""Names of GPT-2 among them; a type's settings take those that they know."""
FINAL = {
    **dict.fromkeys(["gpt2", "gpt_bigcode", "gpt_neo", "gptj", "codegen"], "transformer.ln_f"),
    "gpt_neox": "gpt_neox.final_layer_norm",
}
"""Type -> its final norm, where that has another name than that of most."""


@pytest.mark.parametrize("kind", [*PLAIN, *LESS_ONE, *CENTRED])
def test_a_folder_of_each_known_type_gives_the_norm_that_its_model_has(
    tiny_tokenizer: Any, tmp_path: Path, kind: str
) -> None:
    plain, n = AutoConfig.for_model(kind).to_dict(), len(tiny_tokenizer)
    settings = {name: value for name, value in (SMALL | {"vocab_size": n, "pad_token_id": 0}).items() if name in plain}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **settings))
        model = disturbed(model.float(), FINAL.get(kind, "model.norm"))
    expected, found = final_norm(model, INPUTS), read_unembedding(save_model(tmp_path / "model", model, tiny_tokenizer))
    np.testing.assert_allclose(found["norm"], expected.weight, rtol=1e-4)
    assert found.attrs["centred"] == expected.centred
    np.testing.assert_array_equal(found["weight"], model.get_output_embeddings().weight.detach())


def test_pieces_of_other_tokenizers(tiny_model: Any, tiny_tokenizer: Any, tmp_path: Path) -> None:
    folder = save_model(tmp_path / "model", tiny_model, tiny_tokenizer)
    pieces = [["<unk>", 0.0], ["▁the", -1.0], ["s", -2.0]]
    document = {"model": {"vocab": pieces}, "added_tokens": [{"id": 3, "content": "<end>"}], "decoder": None}
    (folder / "tokenizer.json").write_text(json.dumps(document))
    assert read_unembedding(folder)["text"].values[:5].tolist() == ["<unk>", " the", "s", "<end>", ""]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def elsewhere(path: Path) -> None:
    index = path.with_name("model.safetensors.index.json")
    index.write_text(json.dumps({"weight_map": {"lm_head.weight": "../model.safetensors"}}))


def renamed(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content.replace(b"model.norm.weight", b"model.form.weight"))


def other_kind(path: Path) -> None:
    (path.parent / "config.json").write_text(json.dumps({"model_type": "persimmon"}))


def other_text(path: Path) -> None:
    (path.parent / "tokenizer.json").write_text(json.dumps({"model": {"vocab": {"a": "b"}}}))


def no_pieces(path: Path) -> None:
    (path.parent / "tokenizer.json").write_text(json.dumps({"model": {"vocab": [5]}}))


def no_file_name(path: Path) -> None:
    index = path.with_name("model.safetensors.index.json")
    index.write_text(json.dumps({"weight_map": {"lm_head.weight": "a\0b", "model.norm.weight": path.name}}))


def huge(path: Path) -> None:
    """A sparse file, which takes no place on the disk."""
    facts = {
        "model.norm.weight": {"dtype": "F16", "shape": [1], "data_offsets": [0, 2]},
        "lm_head.weight": {"dtype": "F16", "shape": [2**25, 1], "data_offsets": [2, 2 + 2**26]},
    }
    header = json.dumps(facts).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    os.truncate(path, 8 + len(header) + 2 + 2**26)


def narrower(path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    tensors = load_file(path)
    save_file({**tensors, "model.norm.weight": tensors["model.norm.weight"][:-1]}, path)


def other_type(path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    tensors = load_file(path)
    save_file({**tensors, "lm_head.weight": tensors["lm_head.weight"].astype(np.float64)}, path)


DAMAGE: dict[Callable[[Path], None], str] = {
    cut: "is damaged: .*; copy the model again",
    pipe: "is a named pipe, not a file",
    elsewhere: "`weight_map` of .* doesn't name a file beside it",
    renamed: "the model's final norm goes by none of norm.weight, .*; capture with `--unembedding` instead",
    other_kind: "is of type 'persimmon', whose final norm isn't known; capture with `--unembedding` instead",
    other_text: r"isn't a tokenizer's file \(TypeError",
    no_pieces: r"isn't a tokenizer's file \(TypeError",
    no_file_name: "`weight_map` of .* doesn't name a file beside it",
    huge: r"'lm_head.weight' has 33554432 entries; allowed are 16777216",
    narrower: r"the output embedding in .* is \(282, 32\), but its norm \(31,\)",
    other_type: r"'lm_head.weight' is \(282, 32\) of F64; allowed are 2 axes of BF16, F16 or F32",
}


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__)
def test_a_damaged_folder_is_refused_in_one_line(
    tiny_model: Any, tiny_tokenizer: Any, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    folder = save_model(tmp_path / "model", tiny_model, tiny_tokenizer)
    damage(folder / "model.safetensors")
    with pytest.raises(StoreError, match=DAMAGE[damage]) as caught:
        read_unembedding(folder)
    assert "\n" not in str(caught.value)


def test_the_lens_is_the_same_from_a_folder(make: Any, tiny_model: Any, tiny_tokenizer: Any, tmp_path: Path) -> None:
    folder = save_model(tmp_path / "model", tiny_model, tiny_tokenizer)
    run = make(unembedding=True)
    ours, theirs = lens(run), lens(open_run(run.path), model=folder)
    assert ours.equals(theirs)
    assert theirs.attrs["unembedding"] == str(folder)
