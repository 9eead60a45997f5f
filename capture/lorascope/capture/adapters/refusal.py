"""What is refused, and how it is said; PEFT's names of what an adapter consists of."""

import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from peft import get_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from torch import nn

from lorascope.stores import Problem

from ..models.weights import held_tensors, plain_path

__all__ = ["AdapterError", "adapter_tensors", "idle_layers", "lora_layers", "peft_type", "require", "weight_problems"]

SHOWN = 2
"""Places named in an error before the rest is only counted."""


class AdapterError(ValueError):
    """The adapter can't be measured on this model; the message names every reason."""


def require(problems: Iterable[Problem], what: str) -> None:
    """Raise one readable `AdapterError` for all problems, or do nothing where there is none."""
    grouped: dict[str, list[str]] = {}
    for problem in problems:
        grouped.setdefault(problem.message, []).append(problem.place)
    reasons = []
    for message, places in grouped.items():
        named = [place for place in places if place != what]
        more = f" and {len(named) - SHOWN} more" if len(named) > SHOWN else ""
        reasons.append(f"{message} ({', '.join(named[:SHOWN])}{more})" if named else message)
    if reasons:
        raise AdapterError(f"adapter {what!r} can't be captured: {'; '.join(reasons)}")


def lora_layers(model: nn.Module) -> dict[str, LoraLayer]:
    """PEFT's LoRA layers by their path in the plain model, in module order."""
    return {plain_path(path): module for path, module in model.named_modules() if isinstance(module, LoraLayer)}


def peft_type(config: Any) -> str:
    """The method's name in an adapter's configuration, e.g. `LORA`."""
    return str(getattr(config.peft_type, "value", config.peft_type))


def adapter_tensors(model: nn.Module, name: str) -> dict[str, torch.Tensor]:
    """The adapter's own weights by the names that its folder gives them, less PEFT's prefix."""
    with warnings.catch_warnings():
        # PEFT takes the bias of a lora_B (`lora_bias`) for a weight that was saved in part.
        warnings.filterwarnings("ignore", r"Adapter .* LoRA tensor\(s\) have invalid shape")
        state = get_peft_model_state_dict(model, held_tensors(model), adapter_name=name, save_embedding_layers=False)
    return {plain_path(key): tensor.detach() for key, tensor in state.items()}


def weight_problems(tensors: Mapping[str, torch.Tensor], *, allow_zero: bool) -> list[Problem]:
    """NaN or infinite weights, and an adapter that changes nothing since all of its lora_B are zero.

    Weights on the meta device have no values, so nothing is wrong with them.
    """
    problems = [
        Problem(key, "nan", "the adapter holds NaN or infinite weights")
        for key, tensor in tensors.items()
        if not tensor.is_meta and not torch.isfinite(tensor).all()
    ]
    idle = idle_layers(tensors)
    if idle and not allow_zero and all(idle.values()):
        message = "all lora_B are zero, so the adapter changes nothing; train it first, or pass `allow_zero`"
        problems.append(Problem("lora_B", "zero", message))
    return problems


def idle_layers(tensors: Mapping[str, torch.Tensor]) -> dict[str, bool]:
    """Path of each LoRA layer -> whether it adds nothing: B is zero, or A (as an embedding's is before training)."""
    idle: dict[str, bool] = {}
    for key, up in tensors.items():
        for part in ("lora_B", "lora_embedding_B"):
            path, found, rest = key.partition(f".{part}")
            if found and rest != ".bias":
                down, bias = tensors.get(f"{path}.{part[:-1]}A{rest}"), tensors.get(f"{path}.{part}.bias")
                idle[path] = (_is_zero(up) or _is_zero(down)) and (bias is None or _is_zero(bias))
    return idle


def _is_zero(tensor: torch.Tensor | None) -> bool:
    return tensor is not None and not tensor.is_meta and not tensor.any()
