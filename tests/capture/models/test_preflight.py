"""Problems of adapters in a model, and their messages."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import IA3Config, LoraConfig, get_peft_model
from peft.tuners.lora.config import KasaConfig

from lorascope.capture.models.adapter import attach_adapter
from lorascope.capture.models.preflight import (
    Note,
    Preflight,
    inspect,
    inspect_adapter,
    inspect_calls,
    require_adapter,
)
from lorascope.capture.models.refusal import AdapterError, lora_layers, raise_for_problems
from lorascope.stores import Problem

PROBE = {"input_ids": torch.arange(3, 9)[None], "attention_mask": torch.ones(1, 6, dtype=torch.long)}


@pytest.fixture
def adapted(tiny_model: Any, tiny_adapter: Path) -> Any:
    return attach_adapter(tiny_model, tiny_adapter)


def kinds(model: Any, name: str = "default") -> set[str]:
    return {problem.kind for problem in inspect_adapter(model, name)}


def add_trained(model: Any, name: str, targets: list[str]) -> None:
    with torch.random.fork_rng():
        model.add_adapter(name, LoraConfig(r=2, target_modules=targets, init_lora_weights=False))


def refuse(model: Any, words: str) -> None:
    with pytest.raises(AdapterError, match=words) as caught:
        require_adapter(model)
    assert "\n" not in str(caught.value)


def test_good_adapter_has_no_problem(adapted: Any) -> None:
    assert inspect_adapter(adapted.train(), "default") == []  # capture sets eval mode itself
    assert require_adapter(adapted) == "default"


def test_disabled(adapted: Any) -> None:
    with adapted.disable_adapter():
        problems = inspect_adapter(adapted, "default")
        assert [(problem.place, problem.kind) for problem in problems] == [
            (p, "disabled") for p in lora_layers(adapted)
        ]
        refuse(
            adapted, r"^adapter 'default' can't .*: adapters are disabled; call `enable_adapter_layers\(\)` .* 12 more"
        )
    assert require_adapter(adapted) == "default"


def test_merged(adapted: Any) -> None:
    adapted.merge_adapter()
    refuse(adapted, r"\['default'\] is merged into the base weights; load the base model again")
    plain = adapted.unload()
    refuse(plain, r"the model is a plain LlamaForCausalLM without an adapter; give a `PeftModel`")


def test_unknown_name(adapted: Any) -> None:
    (problem,) = inspect_adapter(adapted, "other")
    assert (problem.kind, problem.message) == ("unknown", "the model has no such adapter; it has ['default']")
    adapted.delete_adapter("default")
    refuse(adapted, r"adapter 'default' can't be captured: the model has no such adapter; it has \[\]")


def test_other_method(tiny_model: Any) -> None:
    model = get_peft_model(tiny_model, IA3Config(target_modules=["q_proj"], feedforward_modules=[]))
    refuse(model, r"`peft_type` is 'IA3'; only 'LORA' can be captured")
    assert kinds(model) == {"method"}


def test_no_layer_carries_it(adapted: Any) -> None:
    for layer in lora_layers(adapted).values():
        layer.delete_adapter("default")
    refuse(adapted, r"no layer of the model carries this adapter; look at its `target_modules`")


def test_another_adapter_is_active(adapted: Any) -> None:
    add_trained(adapted, "other", ["q_proj"])
    assert inspect_adapter(adapted, "default") == []
    adapted.set_adapter("other")
    assert require_adapter(adapted) == "other"
    assert {p.message for p in inspect_adapter(adapted, "default")} == {
        "the active adapter is ['other']; call `set_adapter('default')`",
        "the active adapter is []; call `set_adapter('default')`",
    }
    # In stream `base` no adapter need be active.
    assert verdict(adapted, ("default", "other"), stream="base").problems == ()


def test_several_are_active(adapted: Any) -> None:
    add_trained(adapted, "other", ["q_proj", "lm_head"])
    adapted.base_model.set_adapter(["default", "other"])
    refuse(adapted, r"\['default', 'other'\] are active at once; call `set_adapter\('default'\)`")
    assert [(p.place, p.kind) for p in inspect_adapter(adapted, "default")] == [
        (path, "several") for path, layer in lora_layers(adapted).items() if "other" in layer.scaling
    ]


def test_other_adapter_is_merged_where_this_one_is_not(adapted: Any) -> None:
    add_trained(adapted, "other", ["lm_head"])
    adapted.get_base_model().lm_head.merge(adapter_names=["other"])
    assert [(p.place, p.kind) for p in inspect_adapter(adapted, "default")] == [("lm_head", "merged")]


def test_all_b_zero(tiny_model: Any) -> None:
    model = get_peft_model(tiny_model, LoraConfig(r=2, target_modules=["q_proj"]))
    refuse(model, r"all lora_B are zero, so the adapter changes nothing; train it first")
    assert require_adapter(model, allow_zero=True) == "default"


def test_one_b_that_is_not_zero_is_enough(adapted: Any) -> None:
    first, *others = lora_layers(adapted).values()
    for layer in others:
        torch.nn.init.zeros_(layer.lora_B["default"].weight)
    assert inspect_adapter(adapted, "default") == []
    torch.nn.init.zeros_(first.lora_B["default"].weight)
    assert kinds(adapted) == {"zero"}


def test_every_problem_is_named_at_once(adapted: Any) -> None:
    path = "model.layers.1.mlp.up_proj"
    with torch.no_grad():
        lora_layers(adapted)[path].lora_A["default"].weight[0, 0] = float("nan")
    (problem,) = inspect_adapter(adapted, "default")
    assert (problem.place, problem.kind) == (f"{path}.lora_A.weight", "nan")
    adapted.merge_adapter()
    adapted.disable_adapter_layers()
    refuse(adapted, r"merged into .*; adapters are disabled; .*; the adapter holds NaN")
    adapted.peft_config["default"].bias = "all"
    assert {problem.kind for problem in verdict(adapted).problems} == {"merged", "disabled", "nan", "bias"}


@pytest.mark.parametrize(
    ("places", "ending"),
    [("a", "bad"), ("b", r"bad \(b\)"), ("bc", r"bad \(b, c\)"), ("bcde", r"bad \(b, c and 2 more\)")],
)
def test_places_in_a_message(places: str, ending: str) -> None:
    with pytest.raises(AdapterError, match=rf"^adapter 'a' can't be captured: {ending}$"):
        raise_for_problems([Problem(place, "kind", "bad") for place in places], "a")


def verdict(model: Any, adapters: tuple[str, ...] = ("default",), **options: Any) -> Preflight:
    return inspect(model, adapters, **{"probe": PROBE, **options})


def notes(model: Any, adapters: tuple[str, ...] = ("default",), **options: Any) -> dict[str, Note]:
    found = verdict(model, adapters, **options)
    assert found.problems == ()
    return {note.kind: note for note in found.notes}


@pytest.mark.parametrize("stream", ["adapted", "base", "pair"])
def test_good_model_has_nothing_to_say(adapted: Any, stream: str) -> None:
    assert verdict(adapted, stream=stream) == ((), (), ())
    assert inspect(adapted, ["default"], stream=stream) == ((), (), ())


def test_verdict_leaves_the_model_as_it_was(adapted: Any) -> None:
    adapted.train()
    hooks = [len(module._forward_hooks) for module in adapted.modules()]
    flags = [parameter.requires_grad for parameter in adapted.parameters()]
    verdict(adapted)
    assert all(module.training for module in adapted.modules())
    assert [len(module._forward_hooks) for module in adapted.modules()] == hooks
    assert [parameter.requires_grad for parameter in adapted.parameters()] == flags


def test_verdict_on_what_carries_no_adapter(adapted: Any) -> None:
    assert [p.kind for p in verdict(adapted.get_base_model()).problems] == ["plain"]
    assert [p.kind for p in verdict(adapted, ("default", "other")).problems] == ["unknown"]


@pytest.mark.parametrize("when", ["before", "after", "a part"])
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_compiled_models(tiny_model: Any, when: str) -> None:
    """Nothing is compiled before it runs, so this is quick."""
    lora = LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    with torch.random.fork_rng():
        model: Any = get_peft_model(torch.compile(tiny_model) if when == "before" else tiny_model, lora)
    if when == "a part":
        model.get_base_model().model.layers[1].compile()
    elif when == "after":
        model = torch.compile(model)
    found = inspect(model, ["default"]).problems
    assert any(problem.kind == "compiled" for problem in found)
    with pytest.raises(AdapterError, match=r"the model is compiled, and compiled code skips hooks; capture it"):
        raise_for_problems(found, "default")


def test_module_that_stays_in_training_mode(adapted: Any) -> None:
    layer = adapted.get_base_model().model.layers[0].mlp
    layer.train()
    layer.train = lambda mode=True: layer
    (problem, *_) = verdict(adapted).problems
    assert (problem.kind, problem.place) == ("training", "model.layers.0.mlp")
    assert "stays in training mode after `eval()`; dropout would add noise" in problem.message


def test_frozen_layer_that_two_adapters_share(adapted: Any) -> None:
    layers = lora_layers(adapted)
    first, second = "model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.q_proj"
    layers[second].base_layer = layers[first].base_layer
    (problem,) = verdict(adapted).problems
    assert (problem.kind, problem.place) == ("shared", second)
    assert f"shares its frozen layer with {first!r}" in problem.message
    blocks = adapted.get_base_model().model.layers
    blocks[1] = blocks[0]
    assert [problem.kind for problem in verdict(adapted).problems] == ["shared"] * 7


@pytest.mark.parametrize("times", [0, 2])
def test_layer_that_does_not_run_once(adapted: Any, times: int) -> None:
    """A kernel that computes with the weights themselves, and a layer whose parameters are shared."""
    layer = lora_layers(adapted)["model.layers.0.self_attn.q_proj"]
    adapted.get_base_model().model.layers[0].self_attn.q_proj = Caller(layer, times)
    ((problem,), _) = inspect_calls(adapted, {"q_proj": layer}, PROBE, ["default"], "adapted")
    assert (problem.place, problem.kind) == ("q_proj", "calls")
    assert f"it ran {times} times in one pass, not once" in problem.message


class Caller(torch.nn.Module):
    def __init__(self, layer: Any, times: int) -> None:
        super().__init__()
        self.layer, self.times = layer, times

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for _ in range(self.times):
            self.layer(x)
        return x @ self.layer.base_layer.weight.T


def test_layer_that_puts_out_no_tensor(adapted: Any) -> None:
    layers: Any = adapted.get_base_model().model.layers  # each outputs a tensor; a wrapper of one outputs a pair
    layers[1].pair = torch.nn.Identity()
    layers[1].pair.forward = lambda x: (x, x)
    layers[1].register_forward_hook(lambda module, args, output: module.pair(output)[0])
    ((problem,), _) = inspect_calls(adapted, {"pair": layers[1].pair}, PROBE, ["default"], "base")
    assert (problem.kind, problem.message) == ("output", "its output is a tuple, not a tensor")


def test_adapter_of_which_nothing_can_be_captured(tiny_model: Any) -> None:
    lora = LoraConfig(r=2, target_modules=[], target_parameters=["mlp.up_proj.weight"], init_lora_weights=False)
    with torch.random.fork_rng():
        model = get_peft_model(tiny_model, lora)
    (problem,) = verdict(model).problems
    assert problem.kind == "nothing"
    assert problem.message == (
        "none of the layers that it changes can be captured: `target_parameters` are put into the weight; only "
        "experts' `gate_up_proj` and `down_proj` are captured"
    )


def test_single_zero_b_are_listed(adapted: Any) -> None:
    layers = lora_layers(adapted)
    path = "model.layers.1.mlp.up_proj"
    torch.nn.init.zeros_(layers[path].lora_B["default"].weight)
    note = notes(adapted)["zero"]
    assert note.places == (path,)
    assert note.message == "1 of 14 lora_B of 'default' are zero, so it leaves those layers alone"
    assert note._asdict() == {"kind": "zero", "message": note.message, "places": (path,)}


@pytest.mark.filterwarnings("ignore:`lora_bias=True` was passed")
@pytest.mark.parametrize(
    ("options", "begins_as_zero"),
    [
        ({"target_modules": ["q_proj"], "lora_bias": True}, lambda layer: layer.lora_B["default"].bias),
        ({"target_modules": ["embed_tokens"]}, lambda layer: layer.lora_embedding_A["default"]),
    ],
    ids=["bias", "embedding"],
)
def test_what_else_begins_as_zero(tiny_model: Any, options: dict[str, Any], begins_as_zero: Any) -> None:
    model = get_peft_model(tiny_model, LoraConfig(r=2, **options))
    assert kinds(model) == {"zero"}
    for layer in lora_layers(model).values():
        torch.nn.init.ones_(begins_as_zero(layer))
    assert kinds(model) == set()


def test_weights_without_numbers_are_passed_over(tiny_model: Any) -> None:
    with torch.device("meta"):
        model = get_peft_model(type(tiny_model)(tiny_model.config), LoraConfig(r=2, target_modules=["q_proj"]))
    assert inspect(model, ["default"]) == ((), (), ())


@pytest.mark.parametrize(
    ("options", "kind", "words", "n_places"),
    [
        ({"init_lora_weights": "olora"}, "residual", "residual base: the init 'olora' of 'default' changed the b", 1),
        ({"kasa_config": KasaConfig()}, "residual", "residual base: the init 'kasa' of 'default' changed the b", 1),
        ({"modules_to_save": ["norm"]}, "skipped", "'default' changes this too, which isn't captured: `modules_to", 5),
    ],
    ids=["olora", "kasa", "norm"],
)
def test_what_a_reader_should_know_is_told(
    tiny_model: Any, options: dict[str, Any], kind: str, words: str, n_places: int
) -> None:
    lora = LoraConfig(r=2, target_modules=["q_proj"], **{"init_lora_weights": False, **options})
    with torch.random.fork_rng():
        note = notes(get_peft_model(tiny_model, lora))[kind]
    assert note.message.startswith(words)
    assert len(note.places) == n_places


class Eighths(torch.nn.Linear):
    """Stands for a quantised layer: its weights are kept in another form, and it isn't torch's own."""

    def __init__(self) -> None:
        super().__init__(32, 32, bias=False)
        self.weight = torch.nn.Parameter(torch.ones(32, 32, dtype=torch.int8), requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ (self.weight.to(x.dtype) / 8)


class Linear8bitLt(Eighths):
    """Named as bitsandbytes names its own."""


def test_quantised_base_is_told(adapted: Any) -> None:
    path = "model.layers.0.self_attn.q_proj"
    lora_layers(adapted)[path].base_layer = Linear8bitLt()
    assert "depend on what else is in the batch" in notes(adapted)["quantised"].message
    lora_layers(adapted)[path].base_layer = Eighths()
    note = notes(adapted)["quantised"]
    assert (note.message, note.places) == (
        "quantised base (Eighths): its outputs are those of the quantised layer",
        (path,),
    )
