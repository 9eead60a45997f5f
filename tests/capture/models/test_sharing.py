"""Layers that share weights: as copies of one another would compute, counted once, found in the parameters."""

import copy
import gc
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import cpu_offload
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    JambaConfig,
    JambaForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    XLMConfig,
    XLMWithLMHeadModel,
)

from lorascope.capture.models.model import _n_parameters, load_model, model_identity
from lorascope.capture.models.sharing import layer_sharing, share_layers
from lorascope.capture.models.weights import state_tensors

WIDTHS = {
    "vocab_size": 60,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "initializer_range": 0.2,
}
KINDS: dict[str, Any] = {
    "llama": lambda n: LlamaForCausalLM(LlamaConfig(**WIDTHS, num_hidden_layers=n)),
    "llama, tied embeddings": lambda n: LlamaForCausalLM(
        LlamaConfig(**WIDTHS, num_hidden_layers=n, tie_word_embeddings=True)
    ),
    "qwen2": lambda n: Qwen2ForCausalLM(Qwen2Config(**WIDTHS, num_hidden_layers=n)),  # with biases
    "mixtral": lambda n: MixtralForCausalLM(MixtralConfig(**WIDTHS, num_hidden_layers=n, num_local_experts=9)),
    "gpt2": lambda n: GPT2LMHeadModel(
        GPT2Config(vocab_size=60, n_embd=32, n_layer=n, n_head=2, initializer_range=0.2, bos_token_id=0, eos_token_id=0)
    ),
}
LAYERS = {"gpt2": "transformer.h"}
IDS = torch.tensor([[3, 5, 7, 11, 13, 17, 19, 23], [4, 6, 8, 10, 12, 14, 16, 18]])


def build(kind: str = "llama", n_layers: int = 6) -> Any:
    """A model none of whose parameters is 0 or 1 all over, as norms and biases begin."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = KINDS[kind](n_layers).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.1 * torch.randn_like(parameter)
    return model


def layers_of(model: Any, kind: str = "llama") -> Any:
    return model.get_submodule(LAYERS.get(kind, "model.layers"))


def outputs(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = model(IDS)[0]
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_it_computes_what_copied_layers_would(kind: str) -> None:
    model, copied = build(kind), build(kind)
    unshared = outputs(model)
    for place in (2, 4):
        layers_of(copied, kind)[place + 1].load_state_dict(layers_of(copied, kind)[place].state_dict())
    share_layers(model, 2, shared_layers=4)
    assert layer_sharing(model) == {"share": 2, "shared_layers": 4}
    assert torch.equal(outputs(model), outputs(copied))
    assert not torch.allclose(outputs(model), unshared, atol=1e-3)
    first, second = layers_of(model, kind)[2:4]
    tied = state_tensors(first)
    assert {name: id(tensor) for name, tensor in state_tensors(second).items()} == {
        name: id(tensor) for name, tensor in tied.items()
    }
    assert tied.keys() == layers_of(copied, kind)[2].state_dict().keys()
    # As many names, and so the same hash; but shared weights are counted once.
    shared, whole = model_identity(model, ""), model_identity(copied, "")
    assert shared["sha256"] == whole["sha256"]
    assert (whole["share"], whole["shared_layers"]) == (1, 0)
    options = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    with_cache, without = (model.generate(IDS, **options, use_cache=used) for used in (True, False))
    assert torch.equal(with_cache, without)  # every layer keeps a cache of its own
    n_layer = sum(parameter.numel() for parameter in first.parameters())
    for key in ("n_parameters", "n_parameters_non_embedding"):
        assert whole[key] - shared[key] == 2 * n_layer


@pytest.mark.parametrize("share", [1, 8])
def test_numbers_of_parameters_are_those_of_the_paper(share: int) -> None:
    depth = {"num_hidden_layers": 32, "num_attention_heads": 32}
    phi3 = Phi3Config(vocab_size=32064, hidden_size=3072, intermediate_size=8192, **depth)
    widths = {"vocab_size": 128256, "hidden_size": 4096, "intermediate_size": 14336, "num_key_value_heads": 8}
    llama3 = LlamaConfig(**widths, **depth)
    phi3_totals = {8: 2_235_546_624, 1: 3_821_079_552}
    llama3_totals = {8: 4_976_693_248, 1: 8_030_261_248}
    for config, kind, totals, n_layer in (
        (phi3, Phi3ForCausalLM, phi3_totals, 113_252_352),
        (llama3, LlamaForCausalLM, llama3_totals, 218_112_000),
    ):
        with torch.device("meta"):
            model = kind(config)
        share_layers(model, share)
        assert layer_sharing(model) == {"share": share, "shared_layers": 16 if share > 1 else 0}
        norm = config.hidden_size  # after the last layer
        assert _n_parameters(model) == (totals[share], (16 + 16 // share) * n_layer + norm)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_the_mean_is_taken_in_float32_and_rounded(dtype: torch.dtype) -> None:
    model = build().to(dtype)
    whole = copy.deepcopy(model)
    share_layers(model, 4, shared_layers=4, share_from="mean")
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    for name, parameter in layers_of(model)[2].named_parameters():
        parts = [layer.get_parameter(name).to(wide) for layer in layers_of(whole)[2:]]
        assert torch.equal(parameter, (((parts[0] + parts[1]) + parts[2] + parts[3]) / 4).to(dtype)), name
        assert parameter.dtype == dtype
    assert layer_sharing(model) == {"share": 4, "shared_layers": 4}
    first = copy.deepcopy(whole)
    share_layers(first, 4, shared_layers=4)
    assert model_identity(first, "")["sha256"] != model_identity(model, "")["sha256"]
    assert torch.equal(layers_of(first)[5].mlp.up_proj.weight, layers_of(whole)[2].mlp.up_proj.weight)


def test_the_mean_counts_a_weight_with_two_names_once() -> None:
    model = build()
    for layer in layers_of(model):
        layer.post_attention_layernorm.weight = layer.input_layernorm.weight
    whole = copy.deepcopy(model)
    share_layers(model, 2, shared_layers=2, share_from="mean")
    one, other = (layer.input_layernorm.weight for layer in layers_of(whole)[4:])
    for layer in layers_of(model)[4:]:
        assert layer.post_attention_layernorm.weight is layer.input_layernorm.weight
        assert torch.equal(layer.input_layernorm.weight, (one + other) / 2)


def test_saved_buffers_are_shared_and_others_stay() -> None:
    model = build()
    for place, layer in enumerate(layers_of(model)):
        layer.register_buffer("bias", torch.tensor([float(place)]))
        layer.register_buffer("own", torch.tensor([float(place)]), persistent=False)
        layer.register_buffer("mask", torch.tensor([True, False]))
    share_layers(model, 2, shared_layers=2, share_from="mean")
    assert [layer.bias.item() for layer in layers_of(model)[4:]] == [4.5, 4.5]
    assert [layer.own.item() for layer in layers_of(model)[4:]] == [4.0, 5.0]
    assert layer_sharing(model.double()) == {"share": 2, "shared_layers": 2}  # which parts buffers


def test_sharing_outlives_what_is_done_to_a_model(tmp_path: Path) -> None:
    model = build("llama, tied embeddings")
    share_layers(model, 4, shared_layers=4)
    wanted = {"share": 4, "shared_layers": 4}
    model.tie_weights()
    assert layer_sharing(model) == wanted
    assert layer_sharing(copy.deepcopy(model)) == wanted
    assert layer_sharing(model.to(torch.bfloat16).to("cpu").float().eval().requires_grad_(False)) == wanted
    identity = model_identity(model, "x")
    targets = ["q_proj", "up_proj"]
    saving: Any = get_peft_model(
        copy.deepcopy(model), LoraConfig(r=2, target_modules=targets, modules_to_save=["norm"])
    )
    assert model_identity(saving, "x") == identity  # including the norms of layers, whose copies are trained
    adapted: Any = get_peft_model(model, LoraConfig(r=2, target_modules=targets))
    adapted.base_model.model.tie_weights()
    assert layer_sharing(adapted.to(torch.bfloat16).float()) == wanted
    assert layer_sharing(adapted.unload()) == wanted
    with pytest.raises(RuntimeError, match="shared tensors"):
        model.save_pretrained(tmp_path)


def test_every_layer_has_its_own_lora() -> None:
    model = build()
    share_layers(model, 2, shared_layers=4)
    adapted: Any = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj", "down_proj"]))
    names = [name for name, parameter in adapted.named_parameters() if parameter.requires_grad]
    assert len(names) == 6 * 2 * 2
    adapted(IDS, labels=IDS).loss.backward()
    gradients = [layer.mlp.down_proj.lora_B["default"].weight.grad for layer in layers_of(adapted.base_model.model)]
    assert all(gradient.abs().max() > 0 for gradient in gradients)
    assert not any(torch.equal(gradients[place], gradients[place + 1]) for place in (2, 4))
    assert layers_of(adapted.base_model.model)[2].mlp.down_proj.weight.grad is None


def test_weights_that_become_unused_are_freed() -> None:
    model = build()
    gone = [weakref.ref(parameter) for layer in layers_of(model)[3:] for parameter in layer.parameters()]
    share_layers(model, 4, shared_layers=4)
    gc.collect()
    assert [ref() for ref in gone] == [None] * len(gone)


def test_one_is_the_model_as_it_is() -> None:
    model = build()
    before = dict(model.named_parameters())
    share_layers(model, 1)
    assert all(model.get_parameter(name) is parameter for name, parameter in before.items())
    assert layer_sharing(model) == layer_sharing(nn.Linear(2, 2)) == {"share": 1, "shared_layers": 0}


@pytest.mark.parametrize("groups", [[(0, 1)], [(1, 2), (3, 4, 5)], [(2, 4), (3, 5)]])
def test_layers_tied_in_another_manner_are_refused(groups: list[tuple[int, ...]]) -> None:
    model = build()
    for first, *others in groups:
        for place in others:
            layers_of(model)[place] = copy.copy(layers_of(model)[place])
            for name, parameter in layers_of(model)[first].named_parameters():
                path, _, local = name.rpartition(".")
                setattr(layers_of(model)[place].get_submodule(path), local, parameter)
    with pytest.raises(ValueError, match=r"^layers of `model.layers` share weights irregularly \(.* layer \[0, .*$"):
        model_identity(model, "")
    with pytest.raises(ValueError, match="share weights already; load the model again"):
        share_layers(model, 2, shared_layers=2)


def changed(change: Callable[[Any], object]) -> Any:
    """A Llama whose layers something is done to."""
    model = build()
    change(layers_of(model))
    return model


def swapped(layers: Any, weight: torch.Tensor) -> None:
    layers[5].mlp.up_proj.weight = weight


def packed(layers: Any) -> None:
    for place, layer in enumerate(layers):
        layer.mlp.up_proj.register_buffer("qweight", torch.full((2,), place, dtype=torch.int32))


def jamba() -> Any:
    kinds = {"attn_layer_period": 2, "attn_layer_offset": 1, "use_mamba_kernels": False}
    return JambaForCausalLM(JambaConfig(**WIDTHS, num_hidden_layers=6, **kinds))


EIGHT_BITS = torch.zeros(48, 32, dtype=torch.int8)
REFUSED: dict[str, tuple[Callable[[], Any], dict[str, Any], str]] = {
    "no group": (build, {"share": 0}, "`share` is 0; give at least 1"),
    "no multiple": (
        build,
        {"share": 4, "shared_layers": 6},
        "`shared_layers` is 6; give a multiple of `share`",
    ),
    "from": (build, {"share_from": "last"}, "`share_from` is 'last'; allowed are 'first', 'mean'"),
    "too few": (
        build,
        {"shared_layers": 16},
        "is 16, but the model, a LlamaForCausalLM, has only 6 layers",
    ),
    "no layers": (lambda: nn.Linear(2, 2), {}, r"the model, a Linear, has no list of layers \(`torch.nn.ModuleList`\)"),
    "two lists": (
        lambda: XLMWithLMHeadModel(XLMConfig(vocab_size=60, emb_dim=32, n_layers=6, n_heads=2)),
        {},
        "6 modules in `transformer.attentions` and as many in `transformer.layer_norm1`: which",
    ),
    "tied": (
        lambda: changed(lambda layers: swapped(layers, layers[4].mlp.up_proj.weight)),
        {},
        "layers 4 and 5 of `model.layers` share weights already; load the model again",
    ),
    "adapter": (
        lambda: get_peft_model(build(), LoraConfig(r=2, target_modules=["q_proj"])),
        {},
        "the model has an adapter; let the base model share its layers before it is attached",
    ),
    "quantised": (
        lambda: changed(lambda layers: swapped(layers, nn.Parameter(EIGHT_BITS, requires_grad=False))),
        {},
        "the model's weights are quantised, which can't be shared; load it unquantised",
    ),
    "packed": (
        lambda: changed(packed),
        {},
        "buffer 'mlp.up_proj.qweight' has no floating-point numbers, and differs",
    ),
    "offloaded": (lambda: cpu_offload(build()), {}, "some of the model's weights are offloaded and can't be shared"),
    "parted": (
        lambda: changed(lambda layers: layers[4].to("meta")),
        {},
        "is float32 of .* on meta in one and float32 of .* on cpu in the other",
    ),
    "halved": (
        lambda: changed(lambda layers: layers[5].mlp.up_proj.bfloat16()),
        {"shared_layers": 4},  # the first group could
        r"layers 4 and 5 of `model.layers` can't share weights: 'mlp.up_proj.weight' is float32 of shape \(48, 32\) on "
        r"cpu in one and bfloat16 of shape \(48, 32\) on cpu in the other",
    ),
    "kinds": (jamba, {}, "'a layer' is JambaMambaDecoderLayer in one and JambaAttentionDecoderLayer in the other"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cant_share_is_said_in_one_line_and_left_as_it_was(name: str) -> None:
    make, options, words = REFUSED[name]
    model = make()
    before = {name: id(parameter) for name, parameter in state_tensors(model).items()}
    with pytest.raises(ValueError, match=words) as caught:
        share_layers(model, **{"share": 2, "shared_layers": 2, **options})
    assert "\n" not in str(caught.value)
    assert {name: id(parameter) for name, parameter in state_tensors(model).items()} == before


def test_one_weight_in_common_is_no_sharing() -> None:
    model = changed(lambda layers: swapped(layers, layers[4].mlp.up_proj.weight))
    assert layer_sharing(model) == {"share": 1, "shared_layers": 0}


def test_a_model_is_loaded_with_its_sharing(tiny_tokenizer: Any, tmp_path: Path) -> None:
    model = build()
    model.save_pretrained(tmp_path)
    tiny_tokenizer.save_pretrained(tmp_path)
    share_layers(model, 2, shared_layers=4, share_from="mean")
    options: dict[str, Any] = {"share": 2, "shared_layers": 4, "share_from": "mean"}
    for place in ({}, {"device_map": {"": "cpu"}}):
        loaded, _ = load_model(str(tmp_path), **options, **place)
        assert not loaded.training
        assert model_identity(loaded, "x") == model_identity(model, "x")
    half, _ = load_model(str(tmp_path), dtype="bfloat16", share=2, shared_layers=4)
    assert layer_sharing(half) == {"share": 2, "shared_layers": 4}
    with pytest.raises(ValueError, match="`share` is -1"):
        load_model("nowhere", share=-1)


@pytest.mark.slow
def test_smollm2_shares(smollm2: Path) -> None:
    model, tokenizer = load_model(str(smollm2), dtype="float32")
    copied = copy.deepcopy(model)
    for place in range(14, 30):
        layers_of(copied)[place].load_state_dict(layers_of(model)[place - (place - 14) % 4].state_dict())
    share_layers(model, 4)
    identity = model_identity(model, "smollm2")
    assert (identity["share"], identity["shared_layers"]) == (4, 16)
    n_layer = 576 * (2 * 576 + 2 * 192 + 3 * 1536 + 2)
    assert identity["n_parameters"] == 134_515_008 - 12 * n_layer
    ids = tokenizer("The capital of France is", return_tensors="pt").input_ids
    with torch.inference_mode():
        assert torch.equal(model(ids).logits, copied(ids).logits)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_shared_weights_reach_a_gpu_once(tiny_tokenizer: Any, tmp_path: Path) -> None:
    build().save_pretrained(tmp_path)
    tiny_tokenizer.save_pretrained(tmp_path)
    before = torch.cuda.memory_allocated()
    model, _ = load_model(str(tmp_path), device="cuda", share=4, shared_layers=4)
    assert layer_sharing(model) == {"share": 4, "shared_layers": 4}
    held = {tensor.data_ptr(): tensor.numel() * tensor.element_size() for tensor in state_tensors(model).values()}
    # The allocator rounds each tensor up to 512 bytes; rotary frequencies aren't saved.
    assert torch.cuda.memory_allocated() - before <= sum(held.values()) + 512 * (len(held) + 2)
