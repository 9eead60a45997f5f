"""Where hooks go: each component's module, and what every adapter adds there."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from peft.tuners.lora import Embedding, LoraLayer

from ..adapters.branches import lora_b, lora_bias
from ..adapters.components import LoraComponent, adapted_modules, in_module_order


@dataclass(slots=True)
class Addition:
    """What one adapter adds to one component."""

    adapter: str
    component: LoraComponent
    start: int = -1
    """First column in the adapter's packed factor; -1 where delta itself is stored."""
    weight: torch.Tensor | None = None
    """B, float32 (feature, rank); None where delta isn't made of a factor."""
    bias: torch.Tensor | None = None

    def on(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor | None]:
        """B and its bias on this device, where they stay; on a GPU with B's columns contiguous, as its kernel reads."""
        assert self.weight is not None
        if self.weight.device != device:
            self.weight = self.weight.T.contiguous().to(device).T
            self.bias = self.bias if self.bias is None else self.bias.to(device)
        return self.weight, self.bias

    def delta(self, factor: torch.Tensor) -> torch.Tensor:
        """scaling * (z B^T + bias), float32 (token, feature): PEFT's own order of operations."""
        with torch.autocast(factor.device.type, enabled=False):  # in which a model may run that is in training
            return torch.nn.functional.linear(factor.float(), *self.on(factor.device)).mul_(self.component.scaling)


@dataclass(slots=True)
class Site:
    """One component's module in the model."""

    index: int
    """Place on the component axis."""
    path: str
    module: Any
    """PEFT's LoRA layer, or its wrapper of trained weights."""
    additions: list[Addition] = field(default_factory=list)

    @property
    def is_wrapper(self) -> bool:
        """Whether trained weights stand in the place of the base's, so that only whole outputs can be had."""
        return not isinstance(self.module, LoraLayer)

    @property
    def is_embedding(self) -> bool:
        """Whether LoRA's A and B are bare parameters, which no hook sees."""
        return isinstance(self.module, Embedding)


def make_sites(
    model: torch.nn.Module,
    components: Mapping[str, Sequence[LoraComponent]],
    factor_start: Mapping[str, Sequence[int]] | None,
) -> list[Site]:
    """The sites of these components (adapter -> its own), in the order of the component axis."""
    axis = {component.path: index for index, component in enumerate(in_module_order(components))}
    sites: dict[str, Site] = {}
    for adapter, found in components.items():
        modules = adapted_modules(model, adapter)
        for component in found:
            path, module = component.path, modules[component.path][1]
            site = sites.setdefault(path, Site(axis[path], path, module))
            addition = Addition(adapter, component)
            if component.delta_source == "factor":
                addition.start = -1 if factor_start is None else factor_start[adapter][site.index]
                addition.weight = torch.from_numpy(lora_b(module, adapter))
                bias = lora_bias(module, adapter)
                addition.bias = None if bias is None else torch.from_numpy(bias)
            site.additions.append(addition)
    return sorted(sites.values(), key=lambda site: site.index)
