"""Models that accelerate has spread over devices, the host and the disk: where their weights are."""

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from accelerate.hooks import (  # type: ignore[import-untyped]  # it has no stubs
    AlignDevicesHook,
    SequentialHook,
    remove_hook_from_module,
)
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper, ModulesToSaveWrapper
from torch import nn

__all__ = [
    "execution_device",
    "fill_adapter",
    "hidden_device_map",
    "is_offloaded",
    "real_tensor",
    "saved_key",
    "without_hooks",
]

TRAINED = {"modules_to_save", "trainable_tokens_delta"}
"""What holds an adapter's weights besides LoRA's own parts."""


def is_offloaded(model: nn.Module) -> bool:
    """Whether some weights are only brought to a device while they are used."""
    return any(hook.offload for module in model.modules() for hook in _hooks(module))


def execution_device(module: nn.Module) -> torch.device | None:
    """Where a module computes; None for one without weights and hooks."""
    for hook in _hooks(module):
        if hook.execution_device is not None:
            return torch.device(hook.execution_device)
    tensor = next(iter((*module.parameters(), *module.buffers())), None)
    return None if tensor is None else tensor.device


def real_tensor(module: nn.Module, name: str, tensor: torch.Tensor) -> torch.Tensor:
    """A module's own weight, from the host or the disk where it is offloaded there."""
    if tensor.is_meta:
        for hook in _hooks(module):
            if hook.weights_map is not None and name in hook.weights_map:
                real: torch.Tensor = hook.weights_map[name]
                return real
    return tensor


def fill_adapter(model: nn.Module, tensors: Mapping[str, torch.Tensor], name: str) -> None:
    """Put an adapter's weights where the layers under it compute: LoRA's in float32, trained copies as the base is.

    PEFT brings them to where an offloaded layer's own weights are: on the meta device they are lost. And the copy of an
    offloaded module that it trains instead (`modules_to_save`) is given the hook that loads the base's weights.
    """
    layers: list[tuple[str, Any]] = [*model.named_modules()]
    for path, layer in layers:
        is_wrapper = isinstance(layer, AuxiliaryTrainingWrapper)
        if not (is_wrapper or isinstance(layer, BaseTunerLayer)) or name not in layer._get_available_adapters():
            continue
        if isinstance(layer, ModulesToSaveWrapper):
            remove_hook_from_module(layer.modules_to_save[name], recurse=True)
        device = execution_device(layer.original_module if is_wrapper else layer.get_base_layer())
        for inner, module in layer.named_modules():
            for local, held in [*module._parameters.items()]:
                key = saved_key(".".join(filter(None, (path, inner, local))), name)
                if held is not None and key is not None and key in tensors:
                    weight = tensors[key].to(device, held.dtype if is_wrapper else torch.float32)
                    module._parameters[local] = nn.Parameter(weight, requires_grad=False)


def saved_key(key: str, name: str) -> str | None:
    """The name under which PEFT saves an adapter's weight; None for a weight that isn't this adapter's.

    Examples
    --------
    >>> saved_key("base_model.model.fc.lora_A.default.weight", "default")
    'base_model.model.fc.lora_A.weight'
    """
    names = key.split(".")
    for place in range(1, len(names)):
        if names[place] == name and (names[place - 1].startswith("lora_") or names[place - 1] in TRAINED):
            part = names[place - 1]
            before = names[: place - 1] if part == "modules_to_save" else names[:place]
            return ".".join(before if part == "lora_magnitude_vector" else before + names[place + 1 :])
    return None


@contextmanager
def hidden_device_map(model: Any) -> Iterator[None]:
    """While an adapter is attached: PEFT would spread the model anew, by a map of its own making."""
    held = getattr(model, "get_base_model", lambda: model)()
    devices = held.__dict__.pop("hf_device_map", None)
    try:
        yield
    finally:
        if devices is not None:
            held.hf_device_map = devices


def without_hooks(model: nn.Module, memo: dict[int, Any]) -> nn.Module:
    """A deep copy of a model that knows nothing of accelerate, whose hooks hold the offloaded weights."""
    names = ("_hf_hook", "_old_forward", "forward")
    hooked = [module.__dict__ for module in model.modules() if "_hf_hook" in module.__dict__]
    memo.update({id(held[name]): None for held in hooked for name in names if name in held})
    twin = copy.deepcopy(model, memo)
    for held in [module.__dict__ for module in twin.modules() if "_hf_hook" in module.__dict__]:
        for name in names:
            held.pop(name, None)
    return twin


def _hooks(module: nn.Module) -> list[AlignDevicesHook]:
    """Accelerate's hooks that place a module's weights."""
    hook = getattr(module, "_hf_hook", None)
    hooks = hook.hooks if isinstance(hook, SequentialHook) else [hook]
    return [hook for hook in hooks if isinstance(hook, AlignDevicesHook)]
