"""What is taken at each hook of a pass: one class for a pass with the adapter on, one for a pass with adapters off."""

from dataclasses import dataclass, field
from typing import Any

import torch

from ..adapters.branches import dora_delta, dora_dtype, dora_output, factor_beside, replaced_output
from .sink import Sink, Sum, factor_size, proved
from .sites import Addition, Site


@dataclass(slots=True)
class Call:
    """One call of a hooked module."""

    args: Any
    kwargs: Any
    output: Any

    @property
    def flat(self) -> torch.Tensor:
        """Its output as (sequence * position, feature)."""
        flat: torch.Tensor = self.output.detach().flatten(0, -2)
        return flat


@dataclass(slots=True)
class _Seen:
    """What was seen of a component so far."""

    base: torch.Tensor
    """Base of every token, in the layer's own memory."""
    measured: torch.Tensor
    """Base of the measured tokens, a copy."""
    delta: torch.Tensor | None = None
    """Delta of the measured tokens."""
    total: Sum | None = None
    """The sum to be proved, for some of the measured tokens."""


@dataclass(slots=True)
class BaseTaker:
    """A pass with adapters off: the true base, and beside it every adapter's delta, or what a pair needs of it."""

    sink: Sink
    held: dict[int, torch.Tensor]
    """Component of a pair -> its base, until the adapted pass."""
    seen: dict[int, torch.Tensor] = field(default_factory=dict)
    """Component -> base of its measured tokens."""

    def take_base(self, site: Site, call: Call) -> None:
        """The frozen layer's output."""
        base = call.flat
        measured = self.seen[site.index] = self._take(site, base)
        if not self.sink.is_pair:
            for addition in site.additions:
                delta = self._add(site, addition, call)
                self.sink.measure_swallowed(site, addition, measured, delta, (measured + delta).to(measured.dtype))
                self.sink.measure(site, addition, measured, delta)

    def take_output(self, site: Site, call: Call) -> None:
        """The wrapped layer's output, which must be the frozen layer's."""
        if site.index in self.seen:  # else a hook didn't fire, which is found when the pass is over
            self.sink.prove_equal(site, self.seen.pop(site.index), self.sink.target.take_measured(call.flat))

    def take_replaced(self, site: Site, call: Call) -> None:
        """The output of a wrapper of trained weights, here the base's own."""
        base = call.flat
        measured = self._take(site, base)
        if not self.sink.is_pair:
            for addition in site.additions:
                trained = replaced_output(site.module, addition.adapter, call.args, call.kwargs).flatten(0, -2)
                delta = self.sink.take_delta(site, addition, base, trained.float() - base.float())
                self.sink.measure(site, addition, measured, delta)

    def _take(self, site: Site, base: torch.Tensor) -> torch.Tensor:
        if self.sink.is_pair:
            self.held[site.index] = self.sink.hold(base)
        return self.sink.take_state(site, "base", base)

    def _add(self, site: Site, addition: Addition, call: Call) -> torch.Tensor:
        """One adapter's branch, from the frozen layer's own input: delta of the measured tokens."""
        base = call.flat
        if addition.component.delta_source == "factor":
            factor = factor_beside(site.module, addition.adapter, call.args[0]).flatten(0, -2)
            return addition.delta(self.sink.take_factor(site, addition, base, factor))
        output = dora_output(site.module, addition.adapter, call.args[0], call.output)
        return self.sink.take_delta(site, addition, base, dora_delta(site.module, output, base))


@dataclass(slots=True)
class AdaptedTaker:
    """A pass with one adapter on; in a pair, the second one."""

    sink: Sink
    held: dict[int, torch.Tensor]
    """Component of a pair -> its base in the base pass."""
    seen: dict[int, _Seen] = field(default_factory=dict)

    def take_base(self, site: Site, call: Call) -> None:
        """The frozen layer's output, of which PEFT hasn't changed anything yet."""
        (addition,) = site.additions
        base = call.flat
        measured = self._take(site, base)
        if addition.component.delta_source == "difference":
            base = base.clone()  # aLoRA adds to it in place
        self.seen[site.index] = _Seen(base, measured)
        if site.is_embedding and addition.component.delta_source == "factor":
            factor = factor_beside(site.module, addition.adapter, call.args[0])
            self.take_factor(site, Call((), {}, factor))

    def take_factor(self, site: Site, call: Call) -> None:
        """z = A x."""
        (addition,) = site.additions
        if site.index not in self.seen:
            return
        seen = self.seen[site.index]
        z = self.sink.take_factor(site, addition, seen.base, call.flat)
        seen.delta = addition.delta(z)
        size = factor_size(proved(z), *addition.on(z.device), addition.component.scaling)
        seen.total = Sum(proved(seen.measured), proved(seen.delta), size, z.shape[-1] + 4, z.dtype)

    def take_branch(self, site: Site, call: Call) -> None:
        """What DoRA's magnitude module puts out."""
        (addition,) = site.additions
        if site.index not in self.seen:
            return
        seen = self.seen[site.index]
        seen.delta = self.sink.take_delta(site, addition, seen.base, dora_delta(site.module, call.output, seen.base))
        base, added = proved(seen.measured), proved(seen.delta)
        size = base.float().abs() + 2 * added.abs()
        seen.total = Sum(base, added, size, 4, dora_dtype(call.output))

    def take_output(self, site: Site, call: Call) -> None:
        """The wrapped layer's output: the sum."""
        (addition,) = site.additions
        seen = self.seen.pop(site.index, None)
        if seen is None:
            return  # a hook didn't fire, which is found when the pass is over
        if addition.component.delta_source == "difference":
            self._take_difference(site, addition, seen, call.flat)
        elif seen.delta is not None and seen.total is not None:
            measured = self.sink.target.take_measured(call.flat)
            self.sink.prove(site, seen.total, proved(measured))
            self.sink.measure_swallowed(site, addition, seen.measured, seen.delta, measured)
            self.sink.measure(site, addition, seen.measured, seen.delta)
        self._finish(site, addition, call.flat)

    def take_replaced(self, site: Site, call: Call) -> None:
        """The output of a wrapper of trained weights; the base's own weights are run beside it."""
        (addition,) = site.additions
        base = site.module.original_module(*call.args, **call.kwargs).flatten(0, -2)
        self._take_difference(site, addition, _Seen(base, self._take(site, base)), call.flat)
        self._finish(site, addition, call.flat)

    def _take(self, site: Site, base: torch.Tensor) -> torch.Tensor:
        """Store the base, unless the base pass of a pair has; its measured tokens."""
        if self.sink.is_pair:
            return self.sink.target.take_measured(base)
        return self.sink.take_state(site, "base", base)

    def _take_difference(self, site: Site, addition: Addition, seen: _Seen, output: torch.Tensor) -> None:
        delta = self.sink.take_delta(site, addition, seen.base, output.float() - seen.base.float())
        self.sink.measure(site, addition, seen.measured, delta)

    def _finish(self, site: Site, addition: Addition, output: torch.Tensor) -> None:
        if self.sink.is_pair:
            self.sink.finish_pair(site, addition, self.held.pop(site.index), output)
