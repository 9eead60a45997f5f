"""Devices on which a model computes, places where accelerate keeps its weights, and processes that compute together."""

import copy
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, NamedTuple, TypeVar

import torch
import torch.distributed as dist
from accelerate.hooks import AlignDevicesHook, SequentialHook  # type: ignore[import-untyped]  # it has no stubs
from torch import nn

from lorascope.stores.process import handling_signals

_PATIENCE = timedelta(days=30)
"""How long a finished rank waits for the others; a rank that died is noticed at once."""

S = TypeVar("S")
T = TypeVar("T")


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
    """Return a deep copy of a model without accelerate's hooks, which hold the offloaded weights.

    `memo` is that of `copy.deepcopy`: id of an object -> what the copy has in its place.
    """
    names = ("_hf_hook", "_old_forward", "forward")
    hooked = [module.__dict__ for module in model.modules() if "_hf_hook" in module.__dict__]
    memo.update({id(attributes[name]): None for attributes in hooked for name in names if name in attributes})
    twin = copy.deepcopy(model, memo)
    for attributes in [module.__dict__ for module in twin.modules() if "_hf_hook" in module.__dict__]:
        for name in names:
            attributes.pop(name, None)
    return twin


def _hooks(module: nn.Module) -> list[AlignDevicesHook]:
    """Return accelerate's hooks on a module that move its weights between devices."""
    hook = getattr(module, "_hf_hook", None)
    hooks = hook.hooks if isinstance(hook, SequentialHook) else [hook]
    return [hook for hook in hooks if isinstance(hook, AlignDevicesHook)]


class Ranks(NamedTuple):
    """Place of this process among the ranks (processes) of a capture, and exchanges of values between them."""

    rank: int
    size: int

    @property
    def leads(self) -> bool:
        """Whether this process is rank 0, which sets up and finishes the run."""
        return self.rank == 0

    def own_slice(self, n: int) -> slice:
        """Return this rank's part of range(n), a slice whose length differs from other ranks' by at most one."""
        return slice(-(-n * self.rank // self.size), -(-n * (self.rank + 1) // self.size))

    def gather(self, value: T) -> list[T]:
        """Return the `value` of every rank, in the order of ranks; waits until all ranks have called this."""
        if self.size == 1:
            return [value]
        values: list[T] = [value] * self.size
        # No handler of Python's would be called while a rank waits for others.
        with handling_signals(signal.SIG_DFL, signal.SIGTERM):
            dist.all_gather_object(values, value)
        return values

    def from_leader(self, value: T) -> T:
        """Return rank 0's `value` on every rank; waits until all ranks have called this."""
        return self.gather(value)[0]

    def map_batches(self, items: Sequence[S], batches: Sequence[slice], work: Callable[[Sequence[S]], T]) -> list[T]:
        """Run `work` on this rank's part of the batches of `items`; return the results of all ranks on every rank."""
        own = batches[self.own_slice(len(batches))]
        part = work(items[own[0].start : own[-1].stop]) if own else None
        return [result for result in self.gather(part) if result is not None]

    def wait(self) -> None:
        """Wait until every rank has called this."""
        self.gather(None)


ALONE = Ranks(0, 1)


@contextmanager
def join_ranks(device: torch.device) -> Iterator[Ranks]:
    """Yield this process's `Ranks` under torchrun, connected within the context; `ALONE` outside of torchrun.

    Only small Python objects go between ranks: the states of each go from its memory to the store. Raises a ValueError
    if models run on GPUs and a rank has no GPU to itself.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1 or dist.is_initialized():  # a caller's own group stays the caller's
        yield Ranks(dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else ALONE
        return
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.set_device(require_device(torch.device("cuda", local_rank())))
    dist.init_process_group("nccl" if on_gpu else "gloo", timeout=_PATIENCE)
    try:
        yield Ranks(dist.get_rank(), size)
    finally:
        dist.destroy_process_group()


def local_rank() -> int:
    """Return the number of this process on its machine, as torchrun gives it; 0 outside of torchrun."""
    return int(os.environ.get("LOCAL_RANK", "0"))
