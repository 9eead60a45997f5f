"""Adapters that sit in a model: what is wrong with them, and how it is said."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import IA3Config, LoraConfig, get_peft_model

from lorascope.capture.adapter import attach_adapter
from lorascope.capture.preflight import AdapterError, inspect_adapter, lora_layers, require, require_adapter
from lorascope.stores import Problem


@pytest.fixture
def adapted(tiny_model: Any, tiny_adapter: Path) -> Any:
    return attach_adapter(tiny_model, tiny_adapter)


def kinds(model: Any, name: str = "default") -> set[str]:
    return {problem.kind for problem in inspect_adapter(model, name)}


def add_trained(model: Any, name: str, targets: list[str]) -> None:
    with torch.random.fork_rng():
        model.add_adapter(name, LoraConfig(r=2, target_modules=targets, init_lora_weights=False))


def test_good_adapter_has_no_problem(adapted: Any) -> None:
    assert inspect_adapter(adapted, "default") == []
    assert require_adapter(adapted) == "default"
    assert require_adapter(adapted, name="default") == "default"


def test_training_mode_is_no_problem(adapted: Any) -> None:
    assert inspect_adapter(adapted.train(), "default") == []


def test_problem_is_found_in_every_layer(adapted: Any) -> None:
    adapted.disable_adapter_layers()
    problems = inspect_adapter(adapted, "default")
    assert [problem.place for problem in problems] == list(lora_layers(adapted))
    assert {(problem.kind, problem.message) for problem in problems} == {
        ("disabled", "adapters are disabled; call `enable_adapter_layers()`")
    }


def test_disabled(adapted: Any) -> None:
    adapted.disable_adapter_layers()
    with pytest.raises(
        AdapterError, match=r"^adapter 'default' can't be captured: adapters are disabled; .* 12 more\)$"
    ):
        require_adapter(adapted)
    adapted.enable_adapter_layers()
    assert require_adapter(adapted) == "default"


def test_disabled_for_a_while(adapted: Any) -> None:
    with adapted.disable_adapter():
        assert kinds(adapted) == {"disabled"}
    assert kinds(adapted) == set()


def test_merged(adapted: Any) -> None:
    adapted.merge_adapter()
    with pytest.raises(AdapterError, match=r"\['default'\] is merged into the base weights; load the base model again"):
        require_adapter(adapted)


def test_unloaded_model_is_plain(adapted: Any) -> None:
    plain = adapted.merge_and_unload()
    with pytest.raises(
        AdapterError, match=r"the model is a plain LlamaForCausalLM without an adapter; give a `PeftModel`"
    ):
        require_adapter(plain)


def test_unknown_name(adapted: Any) -> None:
    with pytest.raises(
        AdapterError, match=r"adapter 'other' can't be captured: the model has no such .* \['default'\]$"
    ):
        require_adapter(adapted, name="other")


def test_other_method(tiny_model: Any) -> None:
    model = get_peft_model(tiny_model, IA3Config(target_modules=["q_proj"], feedforward_modules=[]))
    with pytest.raises(AdapterError, match=r"`peft_type` is 'IA3'; only 'LORA' can be captured"):
        require_adapter(model, name="default")
    assert kinds(model) == {"method"}


def test_no_layer_carries_it(adapted: Any) -> None:
    for layer in lora_layers(adapted).values():
        layer.delete_adapter("default")
    with pytest.raises(AdapterError, match=r"no layer of the model carries this adapter; look at its `target_modules`"):
        require_adapter(adapted)


def test_last_adapter_is_deleted(adapted: Any) -> None:
    adapted.delete_adapter("default")
    with pytest.raises(
        AdapterError, match=r"adapter 'default' can't be captured: the model has no such adapter; it has"
    ):
        require_adapter(adapted)


def test_another_adapter_is_active(adapted: Any) -> None:
    add_trained(adapted, "other", ["q_proj"])
    assert inspect_adapter(adapted, "default") == []
    adapted.set_adapter("other")
    assert require_adapter(adapted) == "other"
    with pytest.raises(AdapterError, match=r"the active adapter is \['other'\]; call `set_adapter\('default'\)`"):
        require_adapter(adapted, name="default")
    adapted.set_adapter("default")
    assert require_adapter(adapted) == "default"


def test_several_are_active(adapted: Any) -> None:
    add_trained(adapted, "other", ["q_proj", "lm_head"])
    adapted.base_model.set_adapter(["default", "other"])
    with pytest.raises(
        AdapterError, match=r"\['default', 'other'\] are active at once; call `set_adapter\('default'\)`"
    ):
        require_adapter(adapted)
    assert kinds(adapted) == {"several"}
    assert {p.place for p in inspect_adapter(adapted, "default")} == {
        "model.layers.0.self_attn.q_proj",
        "model.layers.1.self_attn.q_proj",
        "lm_head",
    }


def test_other_adapter_is_merged_where_this_one_is_not(adapted: Any) -> None:
    add_trained(adapted, "other", ["lm_head"])
    adapted.get_base_model().lm_head.merge(adapter_names=["other"])
    assert [(p.place, p.kind) for p in inspect_adapter(adapted, "default")] == [("lm_head", "merged")]


def test_all_b_zero(tiny_model: Any) -> None:
    model = get_peft_model(tiny_model, LoraConfig(r=2, target_modules=["q_proj"]))
    with pytest.raises(AdapterError, match=r"all lora_B are zero, so the adapter changes nothing; train it first"):
        require_adapter(model)
    assert require_adapter(model, allow_zero=True) == "default"


def test_one_b_that_is_not_zero_is_enough(adapted: Any) -> None:
    first, *others = lora_layers(adapted).values()
    for layer in others:
        torch.nn.init.zeros_(layer.lora_B["default"].weight)
    assert inspect_adapter(adapted, "default") == []
    torch.nn.init.zeros_(first.lora_B["default"].weight)
    assert kinds(adapted) == {"zero"}


def test_weights_that_are_no_numbers(adapted: Any) -> None:
    layer = lora_layers(adapted)["model.layers.1.mlp.up_proj"]
    with torch.no_grad():
        layer.lora_A["default"].weight[0, 0] = float("inf")
    (problem,) = inspect_adapter(adapted, "default")
    assert (problem.place, problem.kind) == ("model.layers.1.mlp.up_proj.lora_A.weight", "nan")


def test_every_problem_is_named_at_once(adapted: Any) -> None:
    adapted.merge_adapter()
    adapted.disable_adapter_layers()
    with torch.no_grad():
        lora_layers(adapted)["model.layers.1.mlp.up_proj"].lora_A["default"].weight[0, 0] = float("nan")
    with pytest.raises(
        AdapterError, match=r"merged into .*; adapters are disabled; .*; the adapter holds NaN"
    ) as error:
        require_adapter(adapted)
    assert "\n" not in str(error.value)


def test_requiring_nothing() -> None:
    require([], "default")


@pytest.mark.parametrize(
    ("places", "ending"),
    [
        (["a"], "bad"),
        (["b"], r"bad \(b\)"),
        (["b", "c"], r"bad \(b, c\)"),
        (["b", "c", "d", "e"], r"bad \(b, c and 2 more\)"),
    ],
    ids=["itself", "one", "two", "many"],
)
def test_places_in_a_message(places: list[str], ending: str) -> None:
    with pytest.raises(AdapterError, match=rf"^adapter 'a' can't be captured: {ending}$"):
        require([Problem(place, "kind", "bad") for place in places], "a")


def test_error_is_a_value_error() -> None:
    assert issubclass(AdapterError, ValueError)
