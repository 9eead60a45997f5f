"""How often each layer runs in one forward pass, and whether what it puts out has a token axis."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from lorascope.stores import Problem

from .passes import passes_of

__all__ = ["Calls", "call_problems", "count_calls"]


@dataclass(slots=True)
class Calls:
    """The calls of one layer in one pass."""

    layouts: set[tuple[int, ...]]
    """Shapes that hold every token of the batch, without the features."""
    shapes: list[tuple[int, ...] | str] = field(default_factory=list)
    """Of each output, without the features; the type's name where it isn't a tensor."""

    @property
    def is_pooled(self) -> bool:
        """Whether it ran once, on something else than every token."""
        return self._differs and math.prod(self.shapes[0]) != math.prod(next(iter(self.layouts)))

    @property
    def is_reordered(self) -> bool:
        """Whether it ran once, on every token, but in another layout: each number right, and under another token."""
        return self._differs and not self.is_pooled

    @property
    def _differs(self) -> bool:
        return len(self.shapes) == 1 and isinstance(self.shapes[0], tuple) and self.shapes[0] not in self.layouts


def count_calls(
    model: nn.Module, modules: Mapping[str, nn.Module], probe: Mapping[str, Any], adapters: Sequence[str], stream: str
) -> dict[str, Calls]:
    """Calls of these modules in the last pass of the stream over the probe, in eval mode; modes are then as before."""
    n_sequences, n_positions = probe["input_ids"].shape
    layouts = {(n_sequences, n_positions), (n_sequences * n_positions,)}
    calls = {path: Calls(layouts) for path in modules}

    def counter(path: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            is_tensor = isinstance(output, torch.Tensor)
            calls[path].shapes.append(tuple(output.shape[:-1]) if is_tensor else type(output).__name__)

        return hook

    modes = [(module, module.training) for module in model.modules()]
    handles = [module.register_forward_hook(counter(path)) for path, module in modules.items()]
    try:
        model.eval()
        with passes_of(stream, adapters)[-1].enabled(model), torch.inference_mode():
            model(**probe)
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in modes:
            module.training = mode
    return calls


def call_problems(calls: Mapping[str, Calls]) -> Iterator[Problem]:
    """Layers that don't run exactly once a pass, or put out something else than a tensor."""
    for path, call in calls.items():
        if len(call.shapes) != 1:
            yield Problem(
                path,
                "calls",
                f"it ran {len(call.shapes)} times in one pass, not once: a fused kernel does so, or a shared layer",
            )
        elif isinstance(call.shapes[0], str):
            yield Problem(path, "output", f"it puts out a {call.shapes[0]}, not a tensor")
        elif call.is_reordered:
            message = (
                f"it puts out tokens as {call.shapes[0]}; only layers that keep (sequence, position) in this order can "
                "be captured"
            )
            yield Problem(path, "order", message)
