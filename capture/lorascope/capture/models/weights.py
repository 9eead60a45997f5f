"""A model's weights by the plain model's names, wherever they are kept."""

import re
from collections.abc import Mapping
from itertools import accumulate
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import nn

from .device import real_tensor

PREFIX = "base_model.model."
"""Prefix that PEFT adds to the plain model's names."""


def plain_path(path: str) -> str:
    """A module's path in the model before PEFT wrapped it."""
    return path.removeprefix(PREFIX)


def plain_model(model: Any) -> Any:
    """The model that PEFT wrapped, or the model itself where it is plain."""
    return model.get_base_model() if isinstance(model, PeftModel) else model


def held_tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """Parameters and saved buffers by the names that `state_dict` gives them, without calling it.

    bitsandbytes (0.50, on a CPU) turns 4-bit weights back from the order of its kernel where a state is asked for, and
    they are wrong ever after.
    """
    return {
        f"{path}.{name}" if path else name: tensor
        for path, module in model.named_modules(remove_duplicate=False)
        for name, tensor in (*module._parameters.items(), *module._buffers.items())
        if tensor is not None and name not in module._non_persistent_buffers_set
    }


def base_tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """Weights and saved buffers of the model before PEFT wrapped it, by the plain model's names."""
    added = {
        f"{path}.{name}"
        for path, module in model.named_modules()
        if isinstance(module, BaseTunerLayer | AuxiliaryTrainingWrapper)
        for name in module.adapter_layer_names
    }

    def is_added(key: str) -> bool:
        return any(within in added for within in accumulate(key.split("."), "{}.{}".format))

    own = {key: tensor for key, tensor in held_tensors(model).items() if not is_added(key)}
    return {re.sub(r"\.(base_layer|original_module)(?=\.)", "", plain_path(key)): own[key] for key in own}


class ReadableWeights(dict[str, torch.Tensor]):
    """Weights of a model in plain tensors: quantised ones in their parts, offloaded ones read when asked for by key."""

    def __init__(self, model: nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
        super().__init__(part for pair in tensors.items() for part in _parts(*pair))
        self._places = {
            id(tensor): (module, name)
            for module in model.modules()
            for name, tensor in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False))
        }

    def __getitem__(self, key: str) -> torch.Tensor:
        tensor = super().__getitem__(key)
        module, name = self._places.get(id(tensor), (None, ""))
        return tensor if module is None else real_tensor(module, name, tensor)


def _parts(key: str, tensor: torch.Tensor) -> list[tuple[str, torch.Tensor]]:
    """The plain tensors that a quantised one consists of, or the tensor itself."""
    if type(tensor) in {torch.Tensor, nn.Parameter}:
        return [(key, tensor)]
    flatten = getattr(tensor, "__tensor_flatten__", None)
    if flatten is not None:  # torchao
        names: list[str] = flatten()[0]
        return [part for name in names for part in _parts(f"{key}.{name}", getattr(tensor, name))]
    state, scales = getattr(tensor, "quant_state", None), getattr(tensor, "SCB", None)  # bitsandbytes, 4 and 8 bits
    extra = {} if state is None else state.as_dict(packed=True)
    extra |= {} if scales is None else {"SCB": scales}
    return [(key, tensor), *((f"{key}.{name}", part) for name, part in extra.items())]
