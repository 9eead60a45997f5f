"""How often each layer runs in one forward pass, and whether what it puts out has a token axis."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from lorascope.stores import Problem

from ..models.modes import restoring_modes
from .passes import passes_of

__all__ = ["Calls", "inspect_calls"]


class Calls(NamedTuple):
    """What one forward pass shows of some layers."""

    problems: list[Problem]
    """Layers that don't run exactly once, put out something else than a tensor, or tokens in another layout."""
    pooled: list[str]
    """Paths of layers that run once, on something else than every token."""


def inspect_calls(
    model: nn.Module, modules: Mapping[str, nn.Module], probe: Mapping[str, Any], adapters: Sequence[str], stream: str
) -> Calls:
    """Calls of these modules in the last pass of the stream over the probe, in eval mode; modes are then as before."""
    n_sequences, n_positions = probe["input_ids"].shape
    shapes: dict[str, list[tuple[int, ...] | str]] = {path: [] for path in modules}

    def counter(path: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            is_tensor = isinstance(output, torch.Tensor)
            shapes[path].append(tuple(output.shape[:-1]) if is_tensor else type(output).__name__)

        return hook

    handles = [module.register_forward_hook(counter(path)) for path, module in modules.items()]
    try:
        with restoring_modes(model), passes_of(stream, adapters)[-1].enabled(model), torch.inference_mode():
            model.eval()
            model(**probe)
    finally:
        for handle in handles:
            handle.remove()
    found = Calls([], [])
    for path, calls in shapes.items():
        if len(calls) != 1:
            message = f"it ran {len(calls)} times in one pass, not once: a fused kernel does so, or a shared layer"
            found.problems.append(Problem(path, "calls", message))
        elif isinstance(calls[0], str):
            found.problems.append(Problem(path, "output", f"it puts out a {calls[0]}, not a tensor"))
        elif math.prod(calls[0]) != n_sequences * n_positions:
            found.pooled.append(path)
        elif calls[0] not in {(n_sequences, n_positions), (n_sequences * n_positions,)}:
            # Every number would be right, and stand under another token.
            message = (
                f"it puts out tokens as {calls[0]}; only layers that keep (sequence, position) in this order can be "
                "captured"
            )
            found.problems.append(Problem(path, "order", message))
    return found
