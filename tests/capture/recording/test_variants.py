"""Every variant of LoRA: what is taken is what PEFT adds, in each stream."""

import copy
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora.aqlm import AqlmLoraLinear
from peft.tuners.lora.config import ArrowConfig, BdLoraConfig, KasaConfig, MontecloraConfig, VeloraConfig
from torch import nn

from lorascope.capture.models.branches import effective_scaling, embed_scale
from lorascope.capture.models.refusal import lora_layers

from ..recorded import Recorded, adapt, axis, inputs_of, outputs_of, record

INPUTS = {"input_ids": torch.arange(3, 17).reshape(2, 7), "attention_mask": torch.ones(2, 7, dtype=torch.long)}
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "every layer": {"target_modules": "all-linear"},
    "rank-stabilised": {"use_rslora": True},
    "patterns": {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"down_proj": 3}},
    "bias": {"lora_bias": True},
    "embedding": {"target_modules": ["embed_tokens", "q_proj"]},
    "head": {"target_modules": ["lm_head"]},
    "VeLoRA": {"velora_config": VeloraConfig()},
    "DoRA": {"use_dora": True},
    "saved modules": {"modules_to_save": ["lm_head", "embed_tokens"]},
    "trained tokens": {"trainable_token_indices": [3, 5]},
}
ROUNDED: dict[str, dict[str, Any]] = {
    "DoRA embedding": {"target_modules": ["embed_tokens", "q_proj"], "use_dora": True},
    "block-diagonal": {
        "use_bdlora": BdLoraConfig(
            target_modules_bd_a=["q_proj"], target_modules_bd_b=["v_proj"], nblocks=2, match_strict=False
        )
    },
    "KaSA": {"kasa_config": KasaConfig()},
    "MiCA": {"init_lora_weights": "mica"},
}
APART: dict[str, dict[str, Any]] = {
    "aLoRA": {"alora_invocation_tokens": [5], "task_type": "CAUSAL_LM"},
    "MonteCLoRA": {"monteclora_config": MontecloraConfig()},
}
NARROW = ("every layer", "bias", "embedding", "DoRA", "saved modules", "KaSA")
BY_DIFFERENCE = {"lm_head", "model.embed_tokens"}

pytestmark = [
    pytest.mark.filterwarnings("ignore:`lora_bias=True` was passed"),
    pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings"),
]


def variant(model: Any, options: dict[str, Any]) -> Any:
    adapted = adapt(model, **options)
    for name, parameter in adapted.named_parameters():
        if options.get("init_lora_weights") == "mica" and "lora_A" in name:  # it trains A alone, from zero
            nn.init.normal_(parameter.data, std=0.1)
    return adapted


def has_no_branch(path: str, name: str) -> bool:
    return name in {"saved modules", "trained tokens"} and path in BY_DIFFERENCE


def check_sums(model: Any, found: Recorded, name: str, *, exact: bool) -> None:
    """Base plus delta, rounded, against the layers' outputs in a pass without a recorder."""
    outputs = outputs_of(model, INPUTS, axis(found.components))
    for path, output in outputs.items():
        base, delta = found.kept.arrays[f"states/{path}/base"], found.delta("default", path)
        assert delta.dtype == torch.float32
        assert delta.abs().max() > 0, path
        total = (base.float() + delta).to(output.dtype)
        if exact and not has_no_branch(path, name):
            assert torch.equal(total, output), path
        else:
            torch.testing.assert_close(total, output, rtol=2 * torch.finfo(output.dtype).eps, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [(name, torch.float32) for name in [*VARIANTS, *ROUNDED]] + [(name, torch.bfloat16) for name in NARROW],
)
def test_adapted_stream(tiny_model: Any, name: str, dtype: torch.dtype) -> None:
    """Mixed precision is the usual case: PEFT keeps an adapter in float32 over a bfloat16 base."""
    model = variant(tiny_model.to(dtype), {**VARIANTS, **ROUNDED}[name])
    found = record(model, INPUTS)
    check_sums(model, found, name, exact=name in VARIANTS)
    assert 0 < found.recorder.worst_excess <= 1


@pytest.mark.parametrize("name", [*VARIANTS, *ROUNDED])
def test_base_stream(tiny_model: Any, name: str) -> None:
    """Base is the plain model's, bit for bit; delta is what the adapted layer adds on the base run's input."""
    model = variant(tiny_model, {**VARIANTS, **ROUNDED}[name])
    found = record(model, INPUTS, stream="base")
    paths = axis(found.components)
    plain = copy.deepcopy(tiny_model)
    if name == "KaSA":  # it changed the base
        plain.load_state_dict({k.replace(".base_layer", ""): v for k, v in base_weights(model).items()})
    inputs = inputs_of(plain, INPUTS, paths)
    modules = dict(model.get_base_model().named_modules())
    for path, output in outputs_of(plain, INPUTS, paths).items():
        assert torch.equal(found.kept.arrays[f"states/{path}/base"], output), path
        with torch.inference_mode():
            adapted = modules[path](inputs[path]).flatten(0, -2)
        torch.testing.assert_close(output + found.delta("default", path), adapted, rtol=1e-5, atol=1e-6)


def base_weights(model: Any) -> dict[str, torch.Tensor]:
    state = model.get_base_model().state_dict()
    return {key: value for key, value in state.items() if "lora_" not in key}


@pytest.mark.parametrize("name", ["every layer", "embedding", "DoRA", "saved modules", *APART])
def test_pair(tiny_model: Any, name: str) -> None:
    model = variant(tiny_model, {**VARIANTS, **ROUNDED, **APART}[name])
    found = record(model, INPUTS, stream="pair")
    for path, output in outputs_of(model, INPUTS, axis(found.components)).items():
        assert torch.equal(found.kept.arrays[f"states/{path}/adapted"], output), path
    with model.disable_adapter():
        for path, output in outputs_of(model, INPUTS, axis(found.components)).items():
            assert torch.equal(found.kept.arrays[f"states/{path}/base"], output), path


@pytest.mark.parametrize("name", APART)
def test_delta_by_difference(tiny_model: Any, name: str) -> None:
    """aLoRA adds to the base in place, at some tokens alone: the base is taken before."""
    model = variant(tiny_model, APART[name])
    found = record(model, INPUTS)
    assert {c.delta_source for c in found.components["default"]} == {"difference"}
    inputs = inputs_of(model, INPUTS, axis(found.components))
    for path, x in inputs.items():
        base = lora_layers(model)[path].base_layer(x).flatten(0, -2)
        assert torch.equal(found.kept.arrays[f"states/{path}/base"], base)
    check_sums(model, found, name, exact=False)
    if name == "aLoRA":
        delta = found.delta("default", axis(found.components)[0])
        where = int((INPUTS["input_ids"].flatten() == 5).nonzero())
        assert delta[:where].abs().max() == 0
        assert delta[where : INPUTS["input_ids"].shape[1]].abs().min() > 0


def test_layer_that_adds_to_its_base_in_place(tiny_model: Any) -> None:
    """AQLM's does; here over plain weights."""
    model = adapt(tiny_model, target_modules=["q_proj"])
    expected = record(model, INPUTS)
    for layer in lora_layers(model).values():
        layer.__class__ = AqlmLoraLinear
    found = record(model, INPUTS)
    assert found.recorder.worst_excess == expected.recorder.worst_excess > 0
    for name in ("arrays", "measured"):
        values = getattr(found.kept, name)
        assert all(torch.equal(values[key], one) for key, one in getattr(expected.kept, name).items())


def test_arrow_routes_between_adapters(tiny_model: Any) -> None:
    """Its router adds a mixture of other adapters' branches, by token."""
    model = adapt(tiny_model, target_modules=["q_proj"])
    with torch.random.fork_rng():
        model.add_adapter("expert", LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=False))
        arrow = ArrowConfig(top_k=1)
        arrow.task_adapter_names = ["default", "expert"]
        model.add_adapter("router", LoraConfig(r=4, target_modules=["q_proj"], arrow_config=arrow))
    for layer in lora_layers(model).values():
        layer.lora_arrow["router"].on_adapter_change(layer.lora_A, layer.lora_B)
    model.set_adapter("router")
    found = record(model.eval(), INPUTS, adapters=("router",))
    assert {c.delta_source for c in found.components["router"]} == {"difference"}
    for path, output in outputs_of(model, INPUTS, axis(found.components)).items():
        delta = found.delta("router", path)
        assert delta.abs().max() > 0
        torch.testing.assert_close(found.kept.arrays[f"states/{path}/base"] + delta, output)


def test_dora_calls_its_factors_twice(tiny_model: Any) -> None:
    """First on an identity, to make the weight: a hook on lora_A would see that."""
    model = adapt(tiny_model, use_dora=True, target_modules=["q_proj"])
    shapes: list[tuple[int, ...]] = []
    layer = lora_layers(model)["model.layers.0.self_attn.q_proj"]
    layer.lora_A["default"].register_forward_hook(lambda m, a, output: shapes.append(tuple(a[0].shape)))
    record(model, INPUTS)
    assert shapes == [(32, 32), (2, 7, 32)]


def test_adapter_kept_in_half_precision(tiny_model: Any) -> None:
    """Where PEFT isn't let to widen it, the branch itself rounds, and the proof allows for that."""
    lora = LoraConfig(r=4, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    with torch.random.fork_rng():
        model = get_peft_model(tiny_model.bfloat16(), lora, autocast_adapter_dtype=False).eval()
    found = record(model, INPUTS)
    assert {z.dtype for z in found.kept.factors.values()} == {torch.bfloat16}
    assert 0 < found.recorder.worst_excess <= 1


def test_scale_set_at_run_time(tiny_model: Any) -> None:
    model = adapt(tiny_model)
    for layer in lora_layers(model).values():
        layer.set_scale("default", 1.5)
    check_sums(model, record(model, INPUTS), "plain", exact=True)


class Scaled(nn.Embedding):
    """An embedding that multiplies its rows, as Gemma 3's does."""

    def __init__(self, scale: Any) -> None:
        super().__init__(300, 32)
        self.embed_scale = scale

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return super().forward(ids) * self.embed_scale


@pytest.mark.parametrize(
    ("scale", "dora"), [(5.65625, False), (torch.tensor(5.65625), True)], ids=["number, LoRA", "tensor, DoRA"]
)
def test_scaled_embedding(tiny_model: Any, scale: Any, dora: bool) -> None:
    tiny_model.model.embed_tokens = Scaled(scale)
    model = adapt(tiny_model, target_modules=["embed_tokens"], use_dora=dora)
    found = record(model, INPUTS)
    (component,) = found.components["default"]
    assert component.scaling == 2 * 5.65625
    check_sums(model, found, "embedding", exact=not dora)
    beside = record(model, INPUTS, stream="base")
    torch.testing.assert_close(beside.delta("default", component.path), found.delta("default", component.path))


def test_scale_of_an_embedding_without_numbers(tiny_model: Any) -> None:
    tiny_model.model.embed_tokens = Scaled(torch.tensor(5.0))
    model = adapt(tiny_model, target_modules=["embed_tokens"])
    layer: Any = lora_layers(model)["model.embed_tokens"]
    layer.base_layer.embed_scale = torch.empty((), device="meta")
    assert effective_scaling(layer, "default") == 2.0
    assert (
        embed_scale(lora_layers(adapt(tiny_model, target_modules=["q_proj"]))["model.layers.0.self_attn.q_proj"])
        is None
    )
