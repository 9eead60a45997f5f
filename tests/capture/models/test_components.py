"""Components: which layers an adapter changes, what they are, and which can't be captured."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    CodeGenConfig,
    Glm4Config,
    GPT2Config,
    GPTBigCodeConfig,
    GPTNeoXConfig,
    MptConfig,
    Phi3Config,
)

from lorascope.capture.models.adapter import attach_adapter
from lorascope.capture.models.branches import lora_b, lora_bias
from lorascope.capture.models.components import (
    LoraComponent,
    adapted_modules,
    component_axis,
    exclusion_reason,
    find_components,
)
from lorascope.capture.models.preflight import inspect_adapter
from lorascope.capture.models.refusal import lora_layers

WORDS = {"vocab_size": 64, "bos_token_id": 0, "eos_token_id": 1}
SMALL: dict[str, Any] = {
    **WORDS,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "pad_token_id": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
GPT: dict[str, Any] = {**WORDS, "n_embd": 32, "n_layer": 1, "n_head": 4, "n_positions": 16}
GROUPED = (("q", 0, 32), ("k", 32, 48), ("v", 48, 64))
THIRDS = (("q", 0, 32), ("k", 32, 64), ("v", 64, 96))
GATED = (("gate", 0, 48), ("up", 48, 96))
HEADS = 4


def adapt(model: Any, **options: Any) -> Any:
    options = {"r": 2, "target_modules": ["q_proj"], "init_lora_weights": False, **options}
    with torch.random.fork_rng():
        return get_peft_model(model, LoraConfig(**options)).eval()


def build(config: Any) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(config).eval()


def fused_rows(config: Any, kind: str) -> Any:
    model = adapt(build(config), target_modules=[kind], fan_in_fan_out=config.model_type == "gpt2")
    (component,) = find_components(model, "default")
    return component.fused


def test_components_of_a_llama(tiny_model: Any, tiny_adapter: Path) -> None:
    plain = {name for name, module in tiny_model.named_modules() if isinstance(module, nn.Linear)}
    model = attach_adapter(tiny_model, tiny_adapter)
    components = find_components(model, "default")
    assert {c.path for c in components} == plain - {"lm_head"}
    kinds = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    assert [(c.layer, c.kind) for c in components] == [(layer, kind) for layer in (0, 1) for kind in kinds]
    found = {"path": "model.layers.1.self_attn.k_proj", "order": components[8].order, "layer": 1, "kind": "k_proj"}
    found |= {"d_in": 32, "d_out": 16, "rank": 4, "scaling": 2.0, "delta_source": "factor", "biased": False}
    assert components[8] == LoraComponent(**found, fused=(), module=None)
    assert [c.order for c in components] == sorted({c.order for c in components})


def test_scaling_is_read_not_recomputed(tiny_model: Any) -> None:
    model = adapt(tiny_model, r=4, lora_alpha=8, use_rslora=True, rank_pattern={"layers.1.self_attn.q_proj": 16})
    assert [(c.rank, c.scaling) for c in find_components(model, "default")] == [(4, 4.0), (16, 2.0)]
    lora_layers(model)["model.layers.0.self_attn.q_proj"].set_scale("default", 3.0)
    assert find_components(model, "default")[0].scaling == 12.0


def test_delta_is_made_of_what_is_read(tiny_model: Any, tiny_adapter: Path) -> None:
    """scaling * B A x against PEFT's own layer, every component."""
    model = attach_adapter(tiny_model, tiny_adapter)
    modules: Any = lora_layers(model)
    for component in find_components(model, "default"):
        module = modules[component.path]
        b = lora_b(module, "default")
        assert (b.dtype, b.shape, b.flags.owndata) == (np.dtype("float32"), (component.d_out, component.rank), True)
        x = torch.linspace(-1, 1, component.d_in)
        a = module.lora_A["default"].weight.detach().numpy().astype(np.float64)
        delta = component.scaling * b.astype(np.float64) @ (a @ x.double().numpy())
        with torch.no_grad():
            np.testing.assert_allclose((module(x) - module.base_layer(x)).numpy(), delta, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("config", "kind", "rows"),
    [
        (Phi3Config(**SMALL), "qkv_proj", GROUPED),
        (Phi3Config(**SMALL), "gate_up_proj", GATED),
        (Glm4Config(**SMALL, head_dim=8), "gate_up_proj", GATED),
        (GPT2Config(**GPT), "c_attn", THIRDS),
        (GPTBigCodeConfig(**GPT, multi_query=True), "c_attn", (("q", 0, 32), ("k", 32, 40), ("v", 40, 48))),
        (GPTBigCodeConfig(**GPT, multi_query=False), "c_attn", ()),
        (MptConfig(d_model=32, n_heads=4, n_layers=1, vocab_size=64, max_seq_len=16), "Wqkv", THIRDS),
        (GPTNeoXConfig(**{**SMALL, "num_key_value_heads": None}), "query_key_value", ()),
        (CodeGenConfig(**GPT, rotary_dim=4), "qkv_proj", ()),
    ],
    ids=lambda value: getattr(value, "model_type", None) or (value if isinstance(value, str) else ""),
)
def test_row_ranges(config: Any, kind: str, rows: Any) -> None:
    assert fused_rows(config, kind) == rows


@pytest.mark.parametrize(
    ("config", "kind"),
    [(Phi3Config(**SMALL), "qkv_proj"), (GPTBigCodeConfig(**GPT), "c_attn")],
    ids=lambda value: getattr(value, "model_type", ""),
)
def test_keys_are_where_the_ranges_say(config: Any, kind: str) -> None:
    """Against the model itself: without queries or without keys, attention weighs all earlier tokens alike."""
    config._attn_implementation = "eager"
    model = build(config)
    path, module = next((name, m) for name, m in model.named_modules() if name.endswith(kind))
    rows = {name: slice(start, stop) for name, start, stop in fused_rows(config, kind)}
    fan_in_fan_out = type(module).__name__ == "Conv1D"

    def attention(zeroed: str) -> torch.Tensor:
        weight, bias = module.weight.detach().clone(), module.bias
        with torch.no_grad():
            view = module.weight.T if fan_in_fan_out else module.weight
            view[rows[zeroed]] = 0
            if bias is not None:
                bias.zero_()
            result = model(torch.arange(5)[None], output_attentions=True).attentions[0]
            module.weight.copy_(weight)
        return result

    uniform = torch.tril(torch.ones(5, 5)) / torch.arange(1.0, 6.0)[:, None]
    uniform = uniform.expand(1, HEADS, 5, 5)
    torch.testing.assert_close(attention("k"), uniform)
    torch.testing.assert_close(attention("q"), uniform)
    assert (attention("v") - uniform).abs().max() > 1e-4, path


def test_conv1d_is_a_linear_layer() -> None:
    """GPT-2 keeps its weights transposed; PEFT's layer, and B's shape, are the same."""
    model = adapt(build(GPT2Config(**GPT)), target_modules=["c_attn"], fan_in_fan_out=True, modules_to_save=["c_fc"])
    component, trained = find_components(model, "default")
    assert (component.d_in, component.d_out, component.layer) == (32, 96, 0)
    assert lora_b(lora_layers(model)[component.path], "default").shape == (96, 2)
    assert (trained.kind, trained.d_in, trained.d_out) == ("c_fc", 32, 128)


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("bias", "lora_only", r"`bias` is 'lora_only', so the adapter trains the base's own biases"),
        ("layer_replication", [(0, 2), (1, 2)], r"`layer_replication` makes another base"),
    ],
)
def test_what_is_not_supported(tiny_model: Any, option: str, value: Any, words: str) -> None:
    model = adapt(tiny_model, **{option: value})
    (problem,) = inspect_adapter(model, "default")
    assert problem.kind == option.removeprefix("layer_")
    assert re.match(words, problem.message)


def test_what_cannot_be_computed_beside_the_base(tiny_model: Any) -> None:
    model = adapt(tiny_model)
    lora = LoraConfig(r=2, target_modules=["q_proj"], alora_invocation_tokens=[3], task_type="CAUSAL_LM")
    model.add_adapter("other", lora)
    assert inspect_adapter(model, "default", stream="base", allow_zero=True) == []
    assert [c.delta_source for c in find_components(model, "other")] == ["difference"] * 2
    message = "the delta of ALoraLinear can't be computed in a base pass; capture stream 'adapted' or 'pair'"
    found = inspect_adapter(model, "other", stream="base", allow_zero=True)
    assert {problem.message for problem in found} == {message}


@pytest.mark.parametrize(
    ("options", "source"),
    [
        ({"use_dora": True}, "branch"),
        ({"lora_bias": True}, "factor"),
        ({"target_modules": ["embed_tokens"]}, "factor"),
        ({"target_modules": ["embed_tokens"], "use_dora": True}, "branch"),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, dict) else "",
)
@pytest.mark.filterwarnings("ignore:`lora_bias=True` was passed")
def test_form_of_delta(tiny_model: Any, options: dict[str, Any], source: str) -> None:
    component = find_components(adapt(tiny_model, **options), "default")[0]
    assert (component.delta_source, component.rank, component.scaling) == (source, 2, 4.0)
    assert component.biased == ("lora_bias" in options)


@pytest.mark.parametrize(
    "options",
    [{"modules_to_save": ["lm_head", "embed_tokens"]}, {"trainable_token_indices": [1, 2]}],
    ids=["modules", "tokens"],
)
def test_trained_weights_are_a_difference(tiny_model: Any, options: dict[str, Any]) -> None:
    found = {c.kind: c for c in find_components(adapt(tiny_model, **options), "default")}
    embedding, n_tokens = found["embed_tokens"], tiny_model.config.vocab_size
    assert (embedding.d_in, embedding.d_out, embedding.rank, embedding.scaling) == (n_tokens, 32, 32, 1.0)
    assert embedding.delta_source == "difference"
    if "lm_head" in found:
        assert (found["lm_head"].d_in, found["lm_head"].d_out) == (32, n_tokens)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"modules_to_save": ["norm"]}, "`modules_to_save` replaces a LlamaRMSNorm; only linear layers and embeddings"),
        ({"target_parameters": ["mlp.up_proj.weight"]}, "`target_parameters` are put into the weight"),
    ],
    ids=["norm", "parameters"],
)
def test_what_is_left_out(tiny_model: Any, options: dict[str, Any], words: str) -> None:
    model = adapt(tiny_model, **options)
    modules = adapted_modules(model, "default")
    reasons = [reason for path, (_, module) in modules.items() if (reason := exclusion_reason(path, module))]
    assert reasons
    assert all(reason.startswith(words) for reason in reasons)
    assert [c.kind for c in find_components(model, "default")] == ["q_proj", "q_proj"]


def test_layers_of_other_shapes_are_left_out() -> None:
    model = nn.Module()
    model.config = AutoConfig.for_model("llama")
    model.conv, model.attention = nn.Conv1d(4, 4, 1), nn.MultiheadAttention(4, 1)
    model.holder = nn.ModuleDict({"experts": nn.ModuleList([nn.ModuleDict({"up": nn.Linear(4, 4)})])})
    adapted = adapt(model, target_modules=["conv", "attention", "up"], bias="none")
    reasons = {
        path: exclusion_reason(path, module) for path, (_, module) in adapted_modules(adapted, "default").items()
    }
    assert reasons == {
        "conv": "a convolution has no (token, feature) output",
        "attention": "PEFT merges LoRA into nn.MultiheadAttention for the pass, so no output without it exists",
        "attention.base_layer.out_proj": reasons["attention"],
        "holder.experts.0.up": "an expert sees only the tokens that are routed to it",
    }
    assert find_components(adapted, "default") == []


def test_axis_of_several_adapters(tiny_model: Any) -> None:
    model = adapt(tiny_model, target_modules=["q_proj", "down_proj"])
    with torch.random.fork_rng():
        model.add_adapter("other", LoraConfig(r=3, target_modules=["embed_tokens", "q_proj"]))
    both = {name: find_components(model, name) for name in ("default", "other")}
    assert {(c.kind, c.rank) for c in both["other"]} == {("embed_tokens", 3), ("q_proj", 3)}
    skipped = find_components(model, "other", skip=["model.layers.0.self_attn.q_proj"])
    assert [(c.kind, c.layer) for c in skipped] == [("embed_tokens", -1), ("q_proj", 1)]
    order = [(-1, "embed_tokens"), (0, "q_proj"), (0, "down_proj"), (1, "q_proj"), (1, "down_proj")]
    assert [(c.layer, c.kind) for c in component_axis(both)] == order


@pytest.mark.filterwarnings("ignore:`lora_bias=True` was passed")
def test_weights_of_a_factor(tiny_model: Any) -> None:
    model = adapt(tiny_model, lora_bias=True)
    component = find_components(model, "default")[0]
    weight, bias = lora_b(component.module, "default"), lora_bias(component.module, "default")
    assert bias is not None
    layer: Any = lora_layers(model)[component.path]
    assert (weight.shape, weight.dtype, bias.dtype) == ((32, 2), np.float32, np.float32)
    np.testing.assert_array_equal(bias, layer.lora_B["default"].bias.detach().numpy())
    embedding = adapt(build(GPT2Config(**GPT)), target_modules=["wte"])
    (component,) = find_components(embedding, "default")
    weight, bias = lora_b(component.module, "default"), lora_bias(component.module, "default")
    assert (weight.shape, bias) == ((32, 2), None)


def test_nested_adapters(tiny_model: Any) -> None:
    model = adapt(tiny_model, target_modules=["q_proj", "up_proj"])
    modules: Any = lora_layers(model)
    modules["model.layers.0.mlp.up_proj"].base_layer = modules["model.layers.1.self_attn.q_proj"]
    (problem,) = inspect_adapter(model, "default")
    assert problem.message.startswith("two adapters are wrapped around each other;")
    assert problem.place == "model.layers.0.mlp.up_proj"


def test_model_without_a_known_config(tiny_model: Any) -> None:
    """Any module can be wrapped; what isn't known about it stays empty."""
    model = nn.ModuleDict({"gate_up_proj": nn.Linear(4, 6)})
    model.config = AutoConfig.for_model("llama")
    (component,) = find_components(adapt(model, target_modules=["gate_up_proj"]), "default")
    assert (component.path, component.layer, component.fused) == ("gate_up_proj", -1, ())
