"""Experts' weights that an adapter changes (`target_parameters`): their names, sizes, and the block that they are in.

A block of a mixture keeps a weight of all its experts in one parameter of three axes. PEFT wraps the experts in one
`ParamWrapper` for each such parameter, which adds scaling * B A of each expert to it while they run. Base is the output
of the whole block with one wrapper off, on the same input.
"""

import re
from typing import Any

import torch
from peft.tuners.lora.layer import ParamWrapper

from lorascope.stores.format.spec import block_path

from .passes import disabled_adapters

PARAMETERS = ("gate_up_proj", "down_proj")
"""Parameters of experts that can be captured, in the order in which a token meets them."""
EXPERT = re.compile(r"\.experts\.\d+(\.|$)")
"""Path of an expert that is a module of its own."""
SCALED_INPUT = "Llama4TextExperts"
"""Class of experts whose routing weights multiply the input, not the output. It doesn't say that its weights are
(expert, input, output), so that PEFT's A is on their output side."""


def parameter_path(path: str, module: Any) -> str:
    """Return the path of what PEFT's `module` changes: its own, or that of a parameter not named `weight`."""
    if not isinstance(module, ParamWrapper):
        return path
    name = "" if module.parameter_name == "weight" else f".{module.parameter_name}"
    return re.sub(r"(\.base_layer)+$", "", path) + name


def experts_reason(path: str, wrapper: ParamWrapper) -> str | None:
    """Return why a parameter in a `ParamWrapper` can't be captured, as a phrase; None if it can be."""
    experts: Any = wrapper.get_base_layer()
    kind, weight = type(experts).__name__, getattr(experts, wrapper.parameter_name)
    if wrapper.parameter_name not in PARAMETERS or weight.ndim != 3:
        return "`target_parameters` are put into the weight; only experts' `gate_up_proj` and `down_proj` are captured"
    if getattr(experts, "_is_expert_parallel", False):
        return "expert parallel gives each process other experts"
    if not weight.is_floating_point() or weight.itemsize == 1:
        return "its experts are quantised"
    block = (block_path(path) or "").rpartition(".")[2]  # "" or a layer's number where experts have no own block
    is_known = getattr(experts, "has_gate", False) and not experts.has_post_expert_norm
    if not (is_known or kind == SCALED_INPUT) or not block.isidentifier():
        return f"how a {kind} and the block around it compute isn't known"
    return None


def weight_sizes(experts: Any, name: str) -> tuple[int, int]:
    """Return (input, output) features of a parameter of experts."""
    first, second = getattr(experts, name).shape[1:]
    return (first, second) if is_transposed(experts) else (second, first)


def is_transposed(experts: Any) -> bool:
    """Return whether weights are (expert, input, output), not (expert, output, input)."""
    return type(experts).__name__ == SCALED_INPUT or bool(experts.is_transposed)


def block_output(output: Any) -> torch.Tensor:
    """Return the hidden states in the output of a block of experts, alone or before the router's logits."""
    states: torch.Tensor = output[0] if isinstance(output, tuple) else output
    return states


def output_without(wrapper: Any, block: Any, args: Any, kwargs: Any) -> torch.Tensor:
    """Run a block of experts again with one parameter's adapter off; return its output (flat token, feature)."""
    with disabled_adapters([wrapper]):
        return block_output(block.forward(*args, **kwargs)).flatten(0, -2)
