"""The layout of a capture: samples, batches, tokens, components and arrays."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from lorascope.stores import RunSpec

from ..models.components import LoraComponent, factor_weights
from ..samples.encoded import EncodedSample
from ..samples.selection import TokenPlan


class Layout(NamedTuple):
    """Samples, batches, tokens and arrays of a capture; a pure function of data, model and settings.

    Every process that shares a capture, and every later attempt at it, gets the same layout.
    """

    samples: Sequence[EncodedSample]
    """The sequences that pass the model."""
    batches: Sequence[slice]
    """Samples that pass together."""
    plan: TokenPlan
    """Captured tokens of each sample, and their places on the token axis."""
    components: Mapping[str, Sequence[LoraComponent]]
    """Adapter -> the components that it changes."""
    spec: RunSpec
    """Arrays of the run."""
    tokens: str
    """The choice of tokens in words; where there is a budget, the one that fits it."""
    js_share: float
    """Share of the tokens on which js is measured."""

    def weights(self, model: Any) -> dict[str, Any]:
        """lora_B, and lora_bias where there is one, of every factored component, by their paths in the run."""
        weights: dict[str, Any] = {}
        for adapter in self.spec.adapters if self.spec.states != "none" else ():
            starts = dict(zip((c.path for c in self.spec.components), adapter.factor_start, strict=True))
            factored = [component for component in self.components[adapter.name] if starts[component.path] >= 0]
            pairs = factor_weights(model, factored, adapter.name)
            for component, (lora_b, bias) in zip(factored, pairs, strict=True):
                weights[f"adapters/{adapter.name}/lora_B/{component.path}"] = lora_b
                if bias is not None:
                    weights[f"adapters/{adapter.name}/lora_bias/{component.path}"] = bias
        return weights
