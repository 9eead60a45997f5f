"""Experts' weights that an adapter changes (`target_parameters`): their names, sizes, and what they compute.

A block of a mixture keeps a weight of all its experts in one parameter of three axes. PEFT wraps the experts in one
`ParamWrapper` for each such parameter, which adds scaling * B A of each expert to it while they run. Base is the output
of the whole block with one wrapper off, on the same input.
"""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from peft.tuners.lora.layer import ParamWrapper
from torch.nn.functional import linear

from lorascope.stores.format.spec import ExpertBlock, block_path

from .passes import disabled_adapters

PARAMETERS = ("gate_up_proj", "down_proj")
"""Parameters of experts that can be captured, in the order in which a token meets them."""
ARGUMENTS = ("hidden_states", "top_k_index", "top_k_weights")
"""Names of what experts are called with, in the common code of transformers."""
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
    if not (is_known or scales_input(experts)) or not block.isidentifier():
        return f"how a {kind} and the block around it compute isn't known"
    return None


def weight_sizes(experts: Any, name: str) -> tuple[int, int]:
    """Return (input, output) features of a parameter of experts."""
    first, second = getattr(experts, name).shape[1:]
    return (first, second) if is_transposed(experts) else (second, first)


def scales_input(experts: Any) -> bool:
    """Return whether routing weights multiply the input of experts, not their output."""
    return type(experts).__name__ == SCALED_INPUT


def is_transposed(experts: Any) -> bool:
    """Return whether weights are (expert, input, output), not (expert, output, input)."""
    return scales_input(experts) or bool(experts.is_transposed)


def block_output(output: Any) -> torch.Tensor:
    """Return the hidden states in the output of a block of experts, alone or before the router's logits."""
    states: torch.Tensor = output[0] if isinstance(output, tuple) else output
    return states


def output_without(
    wrapper: Any, block: Any, args: Any, kwargs: Any, take: Callable[[torch.Tensor], None]
) -> torch.Tensor:
    """Run a block of experts again with one parameter's adapter off; return its output (flat token, feature).

    `take` gets what the experts output. Hooks of others change this output as they changed the one before.
    """
    handle = block.experts.register_forward_hook(lambda module, args, output: take(output))
    try:
        with disabled_adapters([wrapper]):
            return block_output(block(*args, **kwargs)).flatten(0, -2)
    finally:
        handle.remove()


class Routing(NamedTuple):
    """Tokens of a block, the experts that its router chose for each, and these experts' weights."""

    x: torch.Tensor
    """Input of the experts (token, feature), before it is scaled where `SCALED_INPUT` is."""
    chosen: torch.Tensor
    """Indices (token, choice)."""
    weights: torch.Tensor
    """Weights that the router gives them (token, choice)."""

    def select(self, take: Callable[[torch.Tensor], torch.Tensor]) -> "Routing":
        """Return the routing of some tokens only; `take` selects them from each tensor."""
        return Routing(*map(take, self))


def expert_block(path: str, block: Any) -> ExpertBlock:
    """Return what a run stores of a block of experts: its path and its numbers of experts."""
    experts = block.experts.get_base_layer()
    n_choices = next(int(module.top_k) for module in block.modules() if hasattr(module, "top_k"))
    applied_to: Any = "input" if scales_input(experts) else "output"
    return ExpertBlock(path=path, n_experts=int(experts.num_experts), n_choices=n_choices, applied_to=applied_to)


def routing_module(block: Any) -> Any:
    """Return the module of a block whose call has its routing: the experts, or the router if it scales their input."""
    return block.router if scales_input(block.experts.get_base_layer()) else block.experts


def read_routing(block: Any, args: Any, kwargs: Any, output: Any) -> Routing:
    """Return the routing in a call of `routing_module`, from its arguments and its output."""
    if not scales_input(block.experts.get_base_layer()):
        arguments = dict(zip(ARGUMENTS, args, strict=False)) | kwargs
        return Routing(*(arguments[name].flatten(0, -2) for name in ARGUMENTS))
    logits, chosen = output[1].topk(block.top_k, dim=1)
    return Routing(args[0], chosen, logits.float().sigmoid().to(logits.dtype))


def expert_factors(outer: Any, adapter: str) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Return parameter -> each expert's own LoRA factors, float32, from PEFT's wrappers around the experts.

    They are right (expert, rank, input feature), so that z = right x, and left (expert, output feature, rank), with the
    scaling, so that left z is what the adapter adds to the parameter's output. Without an adapter the rank is 0.
    """
    experts = outer.get_base_layer()
    n, factors = experts.num_experts, dict[str, tuple[torch.Tensor, torch.Tensor]]()
    for name in PARAMETERS:
        d_in, d_out = weight_sizes(experts, name)
        weight = getattr(experts, name)
        factors[name] = weight.new_zeros(n, 0, d_in).float(), weight.new_zeros(n, d_out, 0).float()
    while outer is not experts:
        if outer.parameter_name in PARAMETERS and adapter in outer.lora_A:
            a, b = (side[adapter].weight.detach().float() for side in (outer.lora_A, outer.lora_B))
            # Rows are expert after expert, columns rank after rank.
            rows, columns = a.reshape(n, -1, a.shape[1]), b.reshape(len(b), -1, n).permute(2, 0, 1)
            right, left = (columns.mT, rows.mT) if scales_input(experts) else (rows, columns)
            factors[outer.parameter_name] = right, left * outer.scaling[adapter]
        outer = outer.base_layer
    return factors


class Written(NamedTuple):
    """Outputs of a block's experts one by one, for each token and each chosen expert, and adapters' parts; float32."""

    block: Any
    routing: Routing
    output: torch.Tensor
    """An expert's output before its weight (token, choice, feature)."""
    delta: dict[str, torch.Tensor]
    """Adapted parameter -> that output minus the output without its adapter (token, choice, feature)."""
    z: dict[str, torch.Tensor]
    """Adapted parameter -> the adapter's inner activations (token, choice, rank)."""


@torch.no_grad()
def write_out(block: Any, adapter: str, routing: Routing) -> Written:
    """Compute what chosen experts output from W, A and B, without PEFT's code; it waits for the device once."""
    experts, factors = block.experts.get_base_layer(), expert_factors(block.experts, adapter)
    (n_tokens, n_choices), chosen, parts = routing.chosen.shape, routing.chosen.flatten(), []
    order: Any = chosen.argsort(stable=True)
    counts = torch.bincount(chosen, minlength=experts.num_experts).tolist()
    for expert, places in enumerate(order.split(counts)):
        if len(places) == 0 and len(order) > 0:
            continue
        x = routing.x[places // n_choices].to(experts.down_proj.dtype)  # another one under a training's autocast
        if scales_input(experts):
            x = x * routing.weights.flatten()[places, None].to(x.dtype)
        (up, up_bias), (down, down_bias) = (_weights(experts, name, expert) for name in PARAMETERS)
        (up_right, up_left), (down_right, down_left) = ([side[expert] for side in factors[name]] for name in PARAMETERS)
        z_up, both = linear(x.float(), up_right), linear(x, up, up_bias).float()
        inside = _activate(experts, both + linear(z_up, up_left))
        z_down, change = linear(inside, down_right), inside - _activate(experts, both)
        delta_down = linear(z_down, down_left)
        delta_up = linear(change.to(x.dtype), down).float() + linear(linear(change, down_right), down_left)
        output = linear(inside.to(x.dtype), down, down_bias).float() + delta_down
        parts.append((output, delta_up, delta_down, z_up, z_down))
    back = order.argsort()
    output, *others = (
        torch.cat(each)[back].view(n_tokens, n_choices, each[0].shape[1]) for each in zip(*parts, strict=True)
    )
    delta, z = (dict(zip(PARAMETERS, each, strict=True)) for each in (others[:2], others[2:]))
    adapted = [name for name in PARAMETERS if z[name].shape[-1]]
    return Written(block, routing, output, {name: delta[name] for name in adapted}, {name: z[name] for name in adapted})


def _weights(experts: Any, name: str, expert: int) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return an expert's weight (output, input) and bias."""
    weight, bias = getattr(experts, name)[expert], getattr(experts, f"{name}_bias", None)
    return weight.T if is_transposed(experts) else weight, None if bias is None else bias[expert]


def _activate(experts: Any, both: torch.Tensor) -> torch.Tensor:
    """Return the gated activation of gate and up, as the experts compute it."""
    gate, up = both.chunk(2, dim=-1)
    activated: torch.Tensor = up * experts.act_fn(gate) if scales_input(experts) else experts._apply_gate(both)
    return activated
