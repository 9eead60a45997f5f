"""Which device a name means, and where a model computes."""

import torch
from torch import nn

from .offload import execution_device

__all__ = ["input_device", "is_here", "named_device", "require_device"]


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
        found = f"{n} of that kind here, counted from 0" if n else "no CUDA device here; use 'cpu'"
        raise ValueError(f"`device` is '{device}', but torch finds {found}")
    return device


def input_device(model: nn.Module) -> torch.device:
    """Where token ids have to be for a forward pass.

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
