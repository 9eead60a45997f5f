"""A model's weights by the plain model's names, wherever they are kept, and the SHA-256 of tensors."""

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import accumulate
from threading import Event
from typing import Any, NamedTuple

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import nn
from torch.distributed.tensor import DTensor

from lorascope.stores.format.digests import canonical_json

from .device import real_tensor
from .shards import whole

PREFIX = "base_model.model."
"""Prefix that PEFT adds to the plain model's names."""


class Hashed(NamedTuple):
    """SHA-256 of tensors, in hexadecimal, and which of them hold NaN or infinite numbers."""

    sha256: str
    not_finite: tuple[tuple[str, int], ...]
    """(name, number of these) of each such tensor, in the order of their names."""


Hash = Callable[[Mapping[str, torch.Tensor]], Callable[[], Hashed]]
"""Function that begins to hash tensors; the function that it returns waits for the hash (see `hash_tensors`)."""


def plain_path(path: str) -> str:
    """Return a module's path in the model before PEFT wrapped it, without PEFT's prefix."""
    return path.removeprefix(PREFIX)


def plain_model(model: Any) -> Any:
    """Return the model that PEFT wrapped, or the model itself if it is plain."""
    return model.get_base_model() if isinstance(model, PeftModel) else model


def state_tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return name -> parameter or saved buffer, by the names in `state_dict`, without calling it.

    `state_dict` makes bitsandbytes (0.50, on a CPU) undo its kernel's order of 4-bit weights, which are wrong from then
    on.
    """
    return {
        f"{path}.{name}" if path else name: tensor
        for path, module in model.named_modules(remove_duplicate=False)
        for name, tensor in (*module._parameters.items(), *module._buffers.items())
        if tensor is not None and name not in module._non_persistent_buffers_set
    }


def base_tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return name -> weight or saved buffer of the model without its adapters, by the plain model's names."""
    added = {
        f"{path}.{name}"
        for path, module in model.named_modules()
        if isinstance(module, BaseTunerLayer | AuxiliaryTrainingWrapper)
        for name in module.adapter_layer_names
    }
    return {
        re.sub(r"\.(base_layer|original_module)(?=\.)", "", plain_path(key)): tensor
        for key, tensor in state_tensors(model).items()
        if added.isdisjoint(accumulate(key.split("."), "{}.{}".format))  # neither the weight nor a module around it
    }


class ReadableWeights(dict[str, torch.Tensor]):
    """Dict of a model's weights as plain tensors: quantised ones in parts, offloaded and sharded ones got at `d[key]`.

    All processes over which a model is sharded must get the same weights in the same order.
    """

    def __init__(self, model: nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
        """Take name -> weight from `tensors`, split quantised ones, and note which module has each weight."""
        super().__init__(part for pair in tensors.items() for part in _plain_parts(*pair))
        self._places = {
            id(tensor): (module, name)
            for module in model.modules()
            for name, tensor in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False))
        }

    def __getitem__(self, key: str) -> torch.Tensor:
        """Return a weight with its numbers; an offloaded one is read from the host or the disk now."""
        tensor = super().__getitem__(key)
        module, name = self._places.get(id(tensor), (None, ""))
        return whole(tensor if module is None else real_tensor(module, name, tensor))


def _plain_parts(key: str, tensor: torch.Tensor) -> list[tuple[str, torch.Tensor]]:
    """Return (key, tensor) of the plain tensors that make up a quantised tensor, or of the tensor itself."""
    if type(tensor) in {torch.Tensor, nn.Parameter} or isinstance(tensor, DTensor):
        return [(key, tensor)]
    flatten = getattr(tensor, "__tensor_flatten__", None)
    if flatten is not None:  # torchao
        names: list[str] = flatten()[0]
        return [part for name in names for part in _plain_parts(f"{key}.{name}", getattr(tensor, name))]
    state, scales = getattr(tensor, "quant_state", None), getattr(tensor, "SCB", None)  # bitsandbytes, 4 and 8 bits
    extra = {} if state is None else state.as_dict(packed=True)
    extra |= {} if scales is None else {"SCB": scales}
    return [(key, tensor), *((f"{key}.{name}", part) for name, part in extra.items())]


@contextmanager
def hashing_in_thread() -> Iterator[Hash]:
    """Yield a function that begins to hash tensors in a thread; when the context ends, hashing is cancelled."""
    over = Event()
    with ThreadPoolExecutor(1) as thread:
        try:
            yield lambda tensors: thread.submit(hash_tensors, tensors, over=over.is_set).result
        finally:
            over.set()


def hash_at_once(tensors: Mapping[str, torch.Tensor]) -> Callable[[], Hashed]:
    """Hash tensors now, and return a function that returns their hash."""
    hashed = hash_tensors(tensors)
    return lambda: hashed


def count_not_finite(tensor: torch.Tensor) -> int:
    """Return how many of a tensor's numbers are NaN or infinite; integers and types of 8 bits aren't looked at."""
    if not tensor.is_floating_point() or tensor.itemsize == 1 or not tensor.numel():
        return 0
    if all(bound.isfinite() for bound in tensor.aminmax()):  # NaN if one is; a fifth of the time that hashing takes
        return 0
    return int((~tensor.isfinite()).sum())


def hash_tensors(
    tensors: Mapping[str, torch.Tensor],
    *,
    dtype: torch.dtype | None = None,
    over: Callable[[], bool] = lambda: False,
) -> Hashed:
    """Return the hash of name, dtype, shape and bytes of tensors, in the order of their names.

    Parameters
    ----------
    tensors
        By name, on any device; one at a time is copied to the host.
    dtype
        Widen to this type first, so that the same numbers kept in different types give one hash.
    over
        Called before each tensor; if it returns True, hashing is cancelled.

    Raises
    ------
    ValueError
        If a tensor is on the meta device and has no bytes.
    CancelledError
        If `over` returned True.
    """
    digest, not_finite = hashlib.sha256(), []
    for name in sorted(tensors):
        if over():
            raise CancelledError
        tensor = tensors[name].detach()
        if tensor.is_meta:
            raise ValueError(f"tensor {name!r} is on the meta device (offloaded?), so its bytes can't be hashed")
        if n := count_not_finite(tensor):
            not_finite.append((name, n))
        tensor = tensor.to(device="cpu", dtype=dtype or tensor.dtype).contiguous()
        digest.update(canonical_json([name, str(tensor.dtype).removeprefix("torch."), list(tensor.shape)]) + b"\n")
        octets: Any = tensor.reshape(-1).view(torch.uint8).numpy()
        digest.update(octets)
    return Hashed(digest.hexdigest(), tuple(not_finite))
