"""Whether an adapter that sits in a model can be measured there: what is wrong, and a thin step that raises."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from torch import nn

from lorascope.stores import Problem

__all__ = [
    "AdapterError",
    "adapter_tensors",
    "inspect_adapter",
    "lora_layers",
    "peft_type",
    "plain_path",
    "require",
    "require_adapter",
    "weight_problems",
]

PREFIX = "base_model.model."
"""What PEFT puts before the plain model's own names."""
SHOWN = 2
"""Places named in an error before the rest is only counted."""


class AdapterError(ValueError):
    """The adapter can't be measured on this model; the message names every reason."""


def inspect_adapter(model: nn.Module, name: str, *, allow_zero: bool = False) -> list[Problem]:
    """Everything that keeps this adapter of this model from being measured; empty where nothing does.

    Training mode is no problem: capture sets eval mode itself.
    """
    if not isinstance(model, PeftModel):
        kind = type(model).__name__
        return [
            Problem(
                name,
                "plain",
                f"the model is a plain {kind} without an adapter; give a `PeftModel`, not merged or unloaded",
            )
        ]
    if name not in model.peft_config:
        return [Problem(name, "unknown", f"the model has no such adapter; it has {sorted(model.peft_config)}")]
    kind = peft_type(model.peft_config[name])
    if kind != "LORA":
        return [Problem(name, "method", f"`peft_type` is {kind!r}; only 'LORA' can be captured")]
    layers = lora_layers(model)
    if not any(name in layer._get_available_adapters() for layer in layers.values()):
        return [Problem(name, "no-layers", "no layer of the model carries this adapter; look at its `target_modules`")]
    problems = [problem for path, layer in layers.items() for problem in _layer_problems(path, layer, name)]
    return problems + weight_problems(adapter_tensors(model, name), allow_zero=allow_zero)


def require_adapter(model: nn.Module, *, name: str | None = None, allow_zero: bool = False) -> str:
    """Name of the model's adapter, which can be measured as it is: `name`, or else the active one.

    Raises
    ------
    AdapterError
        If there is any problem: all of them in one line.
    """
    if name is None:
        name = _active_name(model)
    require(inspect_adapter(model, name, allow_zero=allow_zero), name)
    return name


def require(problems: Iterable[Problem], what: str) -> None:
    """Raise one readable `AdapterError` for all problems, or do nothing where there is none."""
    grouped: dict[str, list[str]] = {}
    for problem in problems:
        grouped.setdefault(problem.message, []).append(problem.place)
    if grouped:
        reasons = "; ".join(f"{message}{_places(places, what)}" for message, places in grouped.items())
        raise AdapterError(f"adapter {what!r} can't be captured: {reasons}")


def lora_layers(model: nn.Module) -> dict[str, LoraLayer]:
    """PEFT's LoRA layers by their path in the plain model, in module order."""
    return {plain_path(path): module for path, module in model.named_modules() if isinstance(module, LoraLayer)}


def plain_path(path: str) -> str:
    """A module's path in the model before PEFT wrapped it."""
    return path.removeprefix(PREFIX)


def peft_type(config: Any) -> str:
    """The method's name in an adapter's configuration, e.g. `LORA`."""
    return str(getattr(config.peft_type, "value", config.peft_type))


def adapter_tensors(model: nn.Module, name: str) -> dict[str, torch.Tensor]:
    """The adapter's own weights by the names that its folder gives them, less PEFT's prefix."""
    state = get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)
    return {plain_path(key): tensor.detach() for key, tensor in state.items()}


def weight_problems(tensors: Mapping[str, torch.Tensor], *, allow_zero: bool) -> list[Problem]:
    """NaN or infinite weights, and an adapter that changes nothing since all of its lora_B are zero."""
    problems = [
        Problem(key, "nan", "the adapter holds NaN or infinite weights")
        for key, tensor in tensors.items()
        if not torch.isfinite(tensor).all()
    ]
    up = [tensor for key, tensor in tensors.items() if ".lora_B" in key or ".lora_embedding_B" in key]
    if up and not allow_zero and not any(tensor.any() for tensor in up):
        problems.append(
            Problem(
                "lora_B",
                "zero",
                "all lora_B are zero, so the adapter changes nothing; train it first, or pass `allow_zero`",
            )
        )
    return problems


def _layer_problems(path: str, layer: LoraLayer, name: str) -> Iterator[Problem]:
    """What is wrong with the state of one LoRA layer."""
    carried = layer._get_available_adapters()
    active = [adapter for adapter in layer.active_adapters if adapter in carried]
    if layer.merged_adapters:
        yield Problem(
            path, "merged", f"{layer.merged_adapters} is merged into the base weights; load the base model again"
        )
    if layer.disable_adapters:
        yield Problem(path, "disabled", "adapters are disabled; call `enable_adapter_layers()`")
    if name in carried and name not in active:
        yield Problem(path, "active", f"the active adapter is {active}; call `set_adapter({name!r})`")
    elif set(active) - {name}:
        yield Problem(path, "several", f"{active} are active at once; call `set_adapter({name!r})`")


def _active_name(model: nn.Module) -> str:
    """The active adapter, or else the first there is; `inspect_adapter` says what is wrong with it."""
    if not isinstance(model, PeftModel):
        return "default"
    active = [adapter for layer in lora_layers(model).values() for adapter in layer.active_adapters]
    names: list[str] = [*active, *model.peft_config, "default"]
    return names[0]


def _places(places: list[str], what: str) -> str:
    """The first places of a problem in brackets, and how many more there are."""
    named = [place for place in places if place != what]
    if not named:
        return ""
    more = f" and {len(named) - SHOWN} more" if len(named) > SHOWN else ""
    return f" ({', '.join(named[:SHOWN])}{more})"
