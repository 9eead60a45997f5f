"""Sites of hooks: each component's module, what every adapter adds there, and the sum of both.

A component is a layer that an adapter changes.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from peft.tuners.lora import Embedding, LoraLayer

from ..models.branches import lora_b, lora_bias
from ..models.components import LoraComponent, component_axis
from ..models.shards import Shards


@dataclass(slots=True)
class Addition:
    """One adapter's part at one layer: B and bias, from which delta is made, and its place in the stored factor."""

    adapter: str
    component: LoraComponent
    start: int = -1
    """First column in the adapter's packed factor; -1 where delta itself is stored."""
    weight: torch.Tensor | None = None
    """B, float32 (feature, rank), of the features that this process computes; None where delta isn't made of a
    factor."""
    bias: torch.Tensor | None = None

    def weights_on(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the adapter's B (feature, rank) and its bias, or None without one, on this device.

        They stay there, B with contiguous columns, as the kernel reads them.
        """
        assert self.weight is not None
        if self.weight.device != device:
            self.weight = self.weight.T.contiguous().to(device).T
            self.bias = self.bias if self.bias is None else self.bias.to(device)
        return self.weight, self.bias

    def delta(self, factor: torch.Tensor) -> torch.Tensor:
        """Return delta = scaling * (factor B^T + bias), float32 (token, feature), in PEFT's order of operations."""
        with torch.autocast(factor.device.type, enabled=False):  # in which a model may run that is in training
            return torch.nn.functional.linear(factor.float(), *self.weights_on(factor.device)).mul_(
                self.component.scaling
            )


@dataclass(frozen=True, slots=True)
class Sum:
    """A layer's frozen output (base), an adapter's factor or delta, and the layer's output, at the same tokens."""

    addition: Addition
    base: torch.Tensor
    """(token, feature), in the layer's own type."""
    z_or_delta: torch.Tensor | None = None
    """z (token, rank), or delta itself, float32; None where delta is the difference of output and base."""
    output: torch.Tensor | None = None
    """The layer's output; None if the layer didn't add delta in this pass."""
    dtype: torch.dtype = torch.float32
    """Type in which the layer computed delta."""

    @property
    def is_factored(self) -> bool:
        """Whether delta is to be made from the factor z, rather than given or a difference."""
        return self.z_or_delta is not None and self.addition.weight is not None

    @property
    def delta(self) -> torch.Tensor:
        """Delta, float32 (token, feature): made from the factor, as given, or output minus base."""
        if self.z_or_delta is None:
            assert self.output is not None
            return self.output.float() - self.base.float()
        return self.addition.delta(self.z_or_delta) if self.is_factored else self.z_or_delta

    def select(self, take: Callable[[torch.Tensor], torch.Tensor]) -> "Sum":
        """Return the sum at some tokens only; `take` selects them from each tensor (token, feature)."""
        z_or_delta, output = (None if tensor is None else take(tensor) for tensor in (self.z_or_delta, self.output))
        return replace(self, base=take(self.base), z_or_delta=z_or_delta, output=output)


@dataclass(slots=True)
class Site:
    """One layer of the model that adapters change: its module, and what each adapter adds there."""

    index: int
    """Place on the component axis."""
    path: str
    module: Any
    """PEFT's LoRA layer, or its wrapper of trained weights."""
    additions: list[Addition] = field(default_factory=list)

    @property
    def is_wrapper(self) -> bool:
        """Whether the module wraps trained weights that replace the base's, so that no delta is known inside."""
        return not isinstance(self.module, LoraLayer)

    @property
    def shards(self) -> Shards | None:
        """Processes that each compute some output features of the layer; None where every process has them all."""
        return self.additions[0].component.shards

    @property
    def is_embedding(self) -> bool:
        """Whether the module is PEFT's LoRA embedding, whose A and B are bare parameters that no hook sees."""
        return isinstance(self.module, Embedding)


def make_sites(
    components: Mapping[str, Sequence[LoraComponent]],
    factor_start: Mapping[str, Sequence[int]] | None,
) -> list[Site]:
    """Return one `Site` per layer that any adapter changes, in the order of the run's component axis."""
    axis = {component.path: index for index, component in enumerate(component_axis(components))}
    sites: dict[str, Site] = {}
    for adapter, own in components.items():
        for component in own:
            path, module = component.path, component.module
            site = sites.setdefault(path, Site(axis[path], path, module))
            addition = Addition(adapter, component)
            if component.delta_source == "factor":
                addition.start = -1 if factor_start is None else factor_start[adapter][site.index]
                shards = component.shards
                features = slice(None) if shards is None else shards.own_features(component.d_out)
                addition.weight = torch.from_numpy(lora_b(module, adapter)[features])
                bias = lora_bias(module, adapter)
                addition.bias = None if bias is None else torch.from_numpy(bias[features])
            site.additions.append(addition)
    return sorted(sites.values(), key=lambda site: site.index)
