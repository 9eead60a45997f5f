"""Devices on which a model computes, and places where accelerate keeps its weights."""

import copy
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate.hooks import AlignDevicesHook, SequentialHook  # type: ignore[import-untyped]  # it has no stubs
from torch import nn


def parse_device(name: str, *, local_rank: int = 0) -> torch.device:
    """Return the torch device of this name; `auto` is the process's own GPU if there is one, else the CPU.

    It needn't exist on this machine.

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
        device = torch.device("meta")  # where nothing can be computed
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"`device` is {name!r}; allowed are 'auto', 'cpu', 'cuda', 'cuda:0' ...")
    return device


def is_present(device: torch.device) -> bool:
    """Return whether torch finds this CPU or CUDA device on this machine."""
    return device.type == "cpu" or (device.index or 0) < torch.cuda.device_count()


def require_device(device: torch.device) -> torch.device:
    """Return the device; raise ValueError if torch doesn't find it on this machine."""
    if not is_present(device):
        n = torch.cuda.device_count()
        available = f"{n} of that kind here, counted from 0" if n else "no CUDA device here; use 'cpu'"
        raise ValueError(f"`device` is '{device}', but torch finds {available}")
    return device


def input_device(model: nn.Module) -> torch.device:
    """Return the device on which the model expects token ids.

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
    """Return whether accelerate keeps some of the model's weights elsewhere and moves them only while they are used."""
    return any(hook.offload for module in model.modules() for hook in _hooks(module))


def execution_device(module: nn.Module) -> torch.device | None:
    """Return the device on which a module computes; None if it has neither weights nor hooks of accelerate."""
    for hook in _hooks(module):
        if hook.execution_device is not None:
            return torch.device(hook.execution_device)
    tensor = next(iter((*module.parameters(), *module.buffers())), None)
    return None if tensor is None else tensor.device


def real_tensor(module: nn.Module, name: str, tensor: torch.Tensor) -> torch.Tensor:
    """Return a module's weight `name` with its numbers; an offloaded one is read from the host or the disk."""
    if tensor.is_meta:
        for hook in _hooks(module):
            if hook.weights_map is not None and name in hook.weights_map:
                real: torch.Tensor = hook.weights_map[name]
                return real
    return tensor


@contextmanager
def hidden_device_map(model: Any) -> Iterator[None]:
    """Hide a model's `hf_device_map` within the context; with it, PEFT would dispatch the model to devices again."""
    plain = getattr(model, "get_base_model", lambda: model)()
    devices = plain.__dict__.pop("hf_device_map", None)
    try:
        yield
    finally:
        if devices is not None:
            plain.hf_device_map = devices


def copy_without_hooks(model: nn.Module, memo: dict[int, Any]) -> nn.Module:
    """Return a deep copy of a model without accelerate's hooks, which hold offloaded weights, and without its mesh.

    `memo` is that of `copy.deepcopy`: id of an object -> what the copy has in its place.
    """
    names = ("_hf_hook", "_old_forward", "forward")
    hooked = [module.__dict__ for module in model.modules() if "_hf_hook" in module.__dict__]
    memo.update({id(attributes[name]): None for attributes in hooked for name in names if name in attributes})
    memo.update({id(mesh): None for name, mesh in model.__dict__.items() if name in {"_device_mesh", "_mesh_manager"}})
    twin = copy.deepcopy(model, memo)
    twin.__dict__.pop("_tp_size", None)
    for attributes in [module.__dict__ for module in twin.modules() if "_hf_hook" in module.__dict__]:
        for name in names:
            attributes.pop(name, None)
    return twin


def _hooks(module: nn.Module) -> list[AlignDevicesHook]:
    """Return accelerate's hooks on a module that move its weights between devices."""
    hook = getattr(module, "_hf_hook", None)
    hooks = hook.hooks if isinstance(hook, SequentialHook) else [hook]
    return [hook for hook in hooks if isinstance(hook, AlignDevicesHook)]


def local_rank() -> int:
    """Return the number of this process on its machine, as torchrun gives it; 0 outside of torchrun."""
    return int(os.environ.get("LOCAL_RANK", "0"))
