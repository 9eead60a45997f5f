"""Forward passes that processes make together, because each pass gathers weights that FSDP2 shards over them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import FSDPModule

from .shards import is_fully_sharded
from .weights import plain_model


class Steps:
    """Passes of a sharded model on all ranks: before each one, they agree that one of them wants it.

    A rank is a process of a capture. One that has no work of its own takes part with an empty pass.
    """

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        """Take a `PeftModel` and the device of its token ids; `attached` makes its passes steps."""
        self.stops = False
        """Whether this rank wants to stop, or another one wanted to at the last step."""
        self._model, self._device = model, device
        plain = plain_model(model)
        self._outer: Any = model if isinstance(model, FSDPModule) and model is not plain else None
        """The `PeftModel`, if FSDP2 has sharded weights of its own; `generate` calls the plain model in it."""
        self._modules = [module for module in (self._outer, plain) if module is not None]
        self._has_agreed = False
        self._is_empty = False

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Make every pass of the model a step within the context."""
        handles = [module.register_forward_pre_hook(self._before_pass, prepend=True) for module in self._modules]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def finish(self, stop: Callable[[], bool] = lambda: False) -> None:
        """Take part in the passes of other ranks until none wants one; returns on all ranks at once.

        If `stop` returns True before a step, this rank wants to stop.
        """
        while self._agree(False, stop()):
            self._is_empty = True
            try:
                with torch.no_grad():
                    self._model(input_ids=torch.zeros((1, 1), dtype=torch.int64, device=self._device))
            finally:
                self._is_empty = False

    def _before_pass(self, module: nn.Module, args: Any) -> None:
        """Forward pre-hook, before FSDP2's own: agree on a pass that this rank wants, once for nested modules."""
        if self._is_empty:
            return
        if module is self._outer:
            self._agree(True)
            self._has_agreed = True
        elif self._has_agreed:
            self._has_agreed = False
        else:
            self._agree(True)
            if self._outer is not None:
                self._outer.unshard()

    def _agree(self, wants_pass: bool, stops: bool = False) -> bool:
        """Return whether any rank wants a pass, and note whether one wants to stop; waits for all ranks."""
        if self._outer is not None:
            self._outer.reshard()  # so that on every rank the pass gathers the same weights
        wants = torch.tensor([wants_pass, self.stops or stops], dtype=torch.int32, device=self._device)
        dist.all_reduce(wants, dist.ReduceOp.MAX)
        any_pass, any_stop = wants.tolist()
        self.stops = bool(any_stop)
        return bool(any_pass)


@contextmanager
def passes_in_step(model: nn.Module, device: torch.device) -> Iterator[Steps | None]:
    """Within the context, let all ranks make every pass of a model together; yields None if that isn't needed.

    It is needed if FSDP2 shards the model's weights over processes. `device` takes the token ids.
    """
    if not is_fully_sharded(model):
        yield None
        return
    steps = Steps(model, device)
    with steps.attached():
        yield steps
