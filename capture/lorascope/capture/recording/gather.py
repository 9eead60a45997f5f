"""Small tensors of many components, worked on together: a step on 16 tokens takes as long as one on a thousand."""

from collections.abc import Callable
from typing import Any

import torch

from .js import part_values

__all__ = ["Gathered", "Work"]

Work = Callable[..., torch.Tensor]
Done = Callable[[torch.Tensor], None]


class Gathered:
    """Calls of the same function on tensors of the same kinds, gathered until there are enough values for one call.

    The results are those of single calls, if the function treats what lies along a further first axis independently.
    """

    def __init__(self) -> None:
        self._waiting: dict[tuple[Any, ...], list[tuple[Done, tuple[torch.Tensor, ...]]]] = {}

    def add(self, work: Work, done: Done, *tensors: torch.Tensor, **settings: Any) -> None:
        """Hand `work(*tensors, **settings)` to `done`, now or later; nobody may change the tensors any more."""
        kinds = tuple((tensor.shape, tensor.dtype, tensor.device) for tensor in tensors)
        key = (work, kinds, tuple(settings.items()))
        self._waiting.setdefault(key, []).append((done, tensors))
        if len(self._waiting[key]) * tensors[0].numel() >= part_values(tensors[0].device):
            self._run(key)

    def finish(self) -> None:
        """Work on all that waits."""
        for key in list(self._waiting):
            self._run(key)

    @torch.inference_mode()
    def _run(self, key: tuple[Any, ...]) -> None:
        work, _, settings = key
        calls = self._waiting.pop(key)
        kinds = zip(*(tensors for _, tensors in calls), strict=True)
        stacked = [torch.stack(tensors) if len(tensors) > 1 else tensors[0][None] for tensors in kinds]
        for (done, _), result in zip(calls, work(*stacked, **dict(settings)), strict=True):
            done(result)
