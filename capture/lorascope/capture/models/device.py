"""Devices on which a model computes, and places where accelerate keeps its weights."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate.hooks import AlignDevicesHook, SequentialHook  # type: ignore[import-untyped]  # it has no stubs
from torch import nn


def named_device(name: str, *, local_rank: int = 0) -> torch.device:
    """The device of this name, here or elsewhere; `auto` is the rank's own GPU if there is one, else the CPU.

    Raises
    ------
    ValueError
        If it is neither a CPU nor a CUDA device.
    """
    if name == "auto":
        return torch.device(f"cuda:{local_rank}" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")  # no place to compute
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"`device` is {name!r}; allowed are 'auto', 'cpu', 'cuda', 'cuda:0' ...")
    return device


def is_here(device: torch.device) -> bool:
    """Whether torch finds this device on this machine."""
    return device.type == "cpu" or (device.index or 0) < torch.cuda.device_count()


def require_device(device: torch.device) -> torch.device:
    """Return the device; raise a ValueError unless torch finds it here."""
    if not is_here(device):
        n = torch.cuda.device_count()
        available = f"{n} of that kind here, counted from 0" if n else "no CUDA device here; use 'cpu'"
        raise ValueError(f"`device` is '{device}', but torch finds {available}")
    return device


def input_device(model: nn.Module) -> torch.device:
    """Device of token ids for a forward pass.

    Raises
    ------
    ValueError
        If the model has no weights.
    """
    embeddings = next((module for module in model.modules() if isinstance(module, nn.Embedding)), None)
    for module in (embeddings, model):
        if module is not None and (device := execution_device(module)) is not None:
            return device
    raise ValueError(f"the model, a {type(model).__name__}, has no weights")


def is_offloaded(model: nn.Module) -> bool:
    """Whether some weights are only brought to a device while they are used."""
    return any(hook.offload for module in model.modules() for hook in _hooks(module))


def execution_device(module: nn.Module) -> torch.device | None:
    """Device on which a module computes; None if it has neither weights nor hooks."""
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


@contextmanager
def hidden_device_map(model: Any) -> Iterator[None]:
    """Hide a model's device map while an adapter is attached: PEFT would spread the model anew, by another map."""
    plain = getattr(model, "get_base_model", lambda: model)()
    devices = plain.__dict__.pop("hf_device_map", None)
    try:
        yield
    finally:
        if devices is not None:
            plain.hf_device_map = devices


def without_hooks(model: nn.Module, memo: dict[int, Any]) -> nn.Module:
    """A deep copy of a model that knows nothing of accelerate, whose hooks hold the offloaded weights."""
    names = ("_hf_hook", "_old_forward", "forward")
    hooked = [module.__dict__ for module in model.modules() if "_hf_hook" in module.__dict__]
    memo.update({id(attributes[name]): None for attributes in hooked for name in names if name in attributes})
    twin = copy.deepcopy(model, memo)
    for attributes in [module.__dict__ for module in twin.modules() if "_hf_hook" in module.__dict__]:
        for name in names:
            attributes.pop(name, None)
    return twin


def _hooks(module: nn.Module) -> list[AlignDevicesHook]:
    """Accelerate's hooks that place a module's weights."""
    hook = getattr(module, "_hf_hook", None)
    hooks = hook.hooks if isinstance(hook, SequentialHook) else [hook]
    return [hook for hook in hooks if isinstance(hook, AlignDevicesHook)]
