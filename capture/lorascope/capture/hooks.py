"""The hooks of one forward pass: what each component's frozen layer puts out, and its factor.

For every LoRA layer PEFT computes `base_layer(x) + lora_B(lora_A(x)) * scaling`. A hook on `base_layer` takes the base,
one on `lora_A[adapter]` the factor, and one on the layer itself sees the sum, which proves that nothing else was added.
All three only read; they copy at once, since later code may change a tensor in place.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

from .js import jensen_shannon
from .target import BatchTarget

__all__ = ["CaptureError", "Measured", "Recorder", "Wrapped"]


class CaptureError(RuntimeError):
    """The model did something under capture that would have put wrong data into the store."""


class Wrapped(NamedTuple):
    """One component's module, and what turns its factor into delta."""

    path: str
    module: torch.nn.Module
    """PEFT's LoRA layer."""
    lora_B: torch.Tensor  # noqa: N815 (PEFT's name)
    """Float32 (feature, rank)."""
    scaling: float
    factor_start: int
    """First column in the packed factor; -1 where delta itself is stored."""


@dataclass(slots=True)
class Measured:
    """What was seen of one component's real output over the measured tokens."""

    n_features: int = 0
    n_swallowed: int = 0
    """Features whose rounded sum equals the base although delta isn't zero."""
    worst_excess: float = 0.0
    """Largest |output - (base + delta)| over what rounding allows; above 1 the pass is refused."""


@dataclass(slots=True)
class Recorder:
    """Takes base and factor of every component into the rows of a batch while the model runs."""

    components: Sequence[Wrapped]
    adapter: str
    measured: dict[str, Measured] = field(default_factory=dict)
    dtypes: dict[str, torch.dtype] = field(default_factory=dict)
    """Type of each component's output, as last seen."""
    _target: BatchTarget | None = None
    _fired: Counter[tuple[str, str]] = field(default_factory=Counter)
    _seen: dict[str, dict[str, torch.Tensor]] = field(default_factory=dict)

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Hooks on every component, gone afterwards whatever happens."""
        handles = []
        try:
            for index, component in enumerate(self.components):
                module: Any = component.module
                handles += [
                    module.base_layer.register_forward_hook(self._hook("base", component, index)),
                    module.lora_A[self.adapter].register_forward_hook(self._hook("factor", component, index)),
                    module.register_forward_hook(self._hook("output", component, index)),
                ]
            yield
        finally:
            for handle in handles:
                handle.remove()

    @contextmanager
    def recording(self, target: BatchTarget) -> Iterator[None]:
        """One forward pass into `target`; raises `CaptureError` unless every hook fired exactly once."""
        self._target = target
        self._fired.clear()
        try:
            yield
            self._check_fired()
        finally:
            self._target = None
            self._seen.clear()

    def _hook(self, what: str, component: Wrapped, index: int) -> Any:
        take = {"base": self._take_base, "factor": self._take_factor, "output": self._take_output}[what]

        def hook(module: torch.nn.Module, args: Any, output: Any) -> None:
            if self._target is None:
                return
            self._fired[component.path, what] += 1
            if self._fired[component.path, what] == 1:
                if not isinstance(output, torch.Tensor):
                    raise CaptureError(f"{what} of {component.path!r} is a {type(output).__name__}, not a tensor")
                _check_layout(component, self._target.shape, output)
                take(component, index, self._target, output.detach().flatten(0, -2))

        return hook

    def _take_base(self, component: Wrapped, index: int, target: BatchTarget, output: torch.Tensor) -> None:
        self.dtypes[component.path] = output.dtype
        target.put(f"states/{component.path}/base", output)
        self._seen[component.path] = {"base": target.take_measured(output)}

    def _take_factor(self, component: Wrapped, index: int, target: BatchTarget, output: torch.Tensor) -> None:
        if component.factor_start >= 0:
            columns = slice(component.factor_start, component.factor_start + output.shape[-1])
            target.put(f"adapters/{self.adapter}/factor", output, columns)
        else:
            target.put(f"adapters/{self.adapter}/delta/{component.path}", delta_of(output, component))
        self._seen.setdefault(component.path, {})["factor"] = target.take_measured(output)

    def _take_output(self, component: Wrapped, index: int, target: BatchTarget, output: torch.Tensor) -> None:
        seen = self._seen.pop(component.path, {})
        if seen.keys() != {"base", "factor"} or not len(seen["base"]):
            return  # a hook that didn't fire is found when the pass is over
        delta = delta_of(seen["factor"], component)
        self._check_sum(component, seen, delta, target.take_measured(output))
        target.put_measured(f"adapters/{self.adapter}/js", index, jensen_shannon(seen["base"], delta))

    def _check_sum(
        self, component: Wrapped, seen: Mapping[str, torch.Tensor], delta: torch.Tensor, output: torch.Tensor
    ) -> None:
        """The layer's own output must be base + delta, to within what its rounding allows."""
        base, out = seen["base"].double(), output.double()
        total = base + delta.double()
        off = (out - total).abs() / _rounding(seen, output, component, delta)
        # Where base itself, or the sum in the layer's own type, overflowed there is nothing to compare.
        overflowed = ~torch.isfinite(base) | ~torch.isfinite(total.to(output.dtype)) & ~torch.isfinite(out)
        excess = float(off.where(~overflowed, torch.zeros_like(off)).max())
        record = self.measured.setdefault(component.path, Measured())
        record.worst_excess = max(record.worst_excess, excess)
        record.n_features += delta.numel()
        record.n_swallowed += int(((out == base) & (delta != 0)).sum())
        if not excess <= 1:
            raise CaptureError(
                f"output of {component.path!r} isn't its base plus delta: off by {excess:.3g} times what rounding "
                "allows; something else changes it (another adapter, a patched forward), and the store would be wrong"
            )

    def _check_fired(self) -> None:
        for component in self.components:
            for what in ("base", "factor", "output"):
                n = self._fired[component.path, what]
                if n != 1:
                    raise CaptureError(
                        f"the hook on the {what} of {component.path!r} fired {n} times in one pass, not once; "
                        "a compiled model, a fused kernel, gradient checkpointing or a layer used twice does so: "
                        "capture without it"
                    )


def _check_layout(component: Wrapped, shape: tuple[int, int], output: torch.Tensor) -> None:
    """Tokens are found by their place: a layer that sees them in another order would put them into wrong rows."""
    found = tuple(output.shape[:-1])
    if found not in {shape, (shape[0] * shape[1],)}:
        raise CaptureError(
            f"{component.path!r} puts out {found} tokens for a batch of {shape[0]} sequences and {shape[1]} positions; "
            "only layers that keep (sequence, position) in this order can be captured"
        )


def delta_of(factor: torch.Tensor, component: Wrapped) -> torch.Tensor:
    """scaling * z B^T, float32 (token, feature): PEFT's own order of operations."""
    return torch.nn.functional.linear(factor.float(), component.lora_B) * component.scaling


def _rounding(
    seen: Mapping[str, torch.Tensor], output: torch.Tensor, component: Wrapped, delta: torch.Tensor
) -> torch.Tensor:
    """Bound on |output - (base + delta)| by feature, float64 (token, feature).

    The layer rounds its sum to the output's type (half a unit, doubled for a sum that falls on the other side), and
    the product z B^T may add its r terms in another order and, for an adapter kept in less than float32, in that type:
    (r + 3) * eps * |scaling| * |z| |B|^T.
    """
    factor = seen["factor"]
    product = factor.double().abs() @ component.lora_B.double().abs().T * abs(component.scaling)
    eps_output = torch.finfo(output.dtype).eps
    eps_factor = torch.finfo(factor.dtype).eps
    n_terms = factor.shape[-1] + 3
    total = seen["base"].double().abs() + delta.double().abs()
    tiny = torch.finfo(output.dtype).smallest_normal * eps_output
    return eps_output * total + n_terms * eps_factor * product + tiny
