"""Hook actions of a pass: one class for passes with the adapter on, and one for passes with adapters off."""

from dataclasses import dataclass, field, replace
from typing import Any

import torch

from ..models.branches import adds_in_place, compute_factor, dora_delta, dora_dtype, dora_output, replaced_output
from .sink import Sink
from .sites import Addition, Site, Sum


@dataclass(slots=True)
class Call:
    """One call of a hooked module."""

    args: Any
    kwargs: Any
    output: Any

    @property
    def flat(self) -> torch.Tensor:
        """The output as (sequence * position, feature)."""
        flat: torch.Tensor = self.output.detach().flatten(0, -2)
        return flat


@dataclass(slots=True)
class BasePassActions:
    """Hook actions of a pass with adapters off: take the base and every adapter's delta, or the base of a pair."""

    sink: Sink
    pair_bases: dict[int, torch.Tensor]
    """Component of a pair -> its base, until the adapted pass."""
    outputs: dict[int, torch.Tensor] = field(default_factory=dict)
    """Component -> copy of the base of the proved tokens."""

    def take_base(self, site: Site, call: Call) -> None:
        """Take the frozen layer's output."""
        self._store_base(site, call.flat)
        self.outputs[site.index] = self.sink.take_proved(call.flat)
        if not self.sink.is_pair:
            for addition in site.additions:
                self.sink.measure(site, self._adapter_sum(site, addition, call))

    def take_output(self, site: Site, call: Call) -> None:
        """Take the wrapped layer's output, which must be the frozen layer's."""
        if site.index in self.outputs:  # else a hook didn't fire, which is detected after the pass
            self.sink.prove_equal(site, self.outputs.pop(site.index), self.sink.take_proved(call.flat))

    def take_replaced(self, site: Site, call: Call) -> None:
        """Take the output of a wrapper of trained weights, which is the base's in this pass."""
        self._store_base(site, call.flat)
        if not self.sink.is_pair:
            for addition in site.additions:
                trained = replaced_output(site.module, addition.adapter, call.args, call.kwargs).flatten(0, -2)
                total = Sum(addition, call.flat, output=trained)
                self.sink.take_difference(total)
                self.sink.measure(site, total)

    def _store_base(self, site: Site, base: torch.Tensor) -> None:
        """Store the base and, in a pair, keep a copy for the adapted pass."""
        self.sink.take_state(site, "base", base)
        if self.sink.is_pair:
            self.pair_bases[site.index] = self.sink.copy_for_pair(base)

    def _adapter_sum(self, site: Site, addition: Addition, call: Call) -> Sum:
        """Compute one adapter's branch from the frozen layer's input, and return the sum."""
        if addition.component.delta_source == "factor":
            factor = compute_factor(site.module, addition.adapter, call.args[0]).flatten(0, -2)
            self.sink.take_factor(addition, factor)
            return Sum(addition, call.flat, factor)
        output = dora_output(site.module, addition.adapter, call.args[0], call.output)
        delta = dora_delta(site.module, output, call.flat)
        self.sink.take_delta(addition, delta)
        return Sum(addition, call.flat, delta)


@dataclass(slots=True)
class AdaptedPassActions:
    """Hook actions of a pass with one adapter on, which is the second pass of a pair."""

    sink: Sink
    pair_bases: dict[int, torch.Tensor]
    """Component of a pair -> its base in the base pass."""
    sums: dict[int, Sum] = field(default_factory=dict)
    """Component -> its sum so far; the tensors are the layer's own."""

    def take_base(self, site: Site, call: Call) -> None:
        """Take the frozen layer's output, before PEFT changes it."""
        (addition,) = site.additions
        self._store_base(site, call.flat)
        is_lost = adds_in_place(site.module, addition.adapter)
        self.sums[site.index] = Sum(addition, call.flat.clone() if is_lost else call.flat)
        if site.is_embedding and addition.component.delta_source == "factor":
            factor = compute_factor(site.module, addition.adapter, call.args[0])
            self.take_factor(site, Call((), {}, factor))

    def take_factor(self, site: Site, call: Call) -> None:
        """Take the factor z = A x."""
        if site.index in self.sums:
            total = replace(self.sums[site.index], z_or_delta=call.flat, dtype=call.output.dtype)
            self.sums[site.index] = total
            self.sink.take_factor(total.addition, call.flat)

    def take_branch(self, site: Site, call: Call) -> None:
        """Take the output of DoRA's magnitude module."""
        if site.index in self.sums:
            total = self.sums[site.index]
            delta = dora_delta(site.module, call.output, total.base)
            self.sums[site.index] = replace(total, z_or_delta=delta, dtype=dora_dtype(call.output))
            self.sink.take_delta(total.addition, delta)

    def take_output(self, site: Site, call: Call) -> None:
        """Take the wrapped layer's output, which is the sum."""
        total = self.sums.pop(site.index, None)
        if total is None:
            return  # a hook didn't fire, which is detected after the pass
        total = replace(total, output=call.flat)
        if total.addition.component.delta_source == "difference":
            self.sink.take_difference(total)
        if total.z_or_delta is not None or total.addition.component.delta_source == "difference":
            self.sink.measure(site, total)
        self._finish_pair(site, total)

    def take_replaced(self, site: Site, call: Call) -> None:
        """Take the output of a wrapper of trained weights, and compute the output of the base's weights."""
        (addition,) = site.additions
        base = site.module.original_module(*call.args, **call.kwargs).flatten(0, -2)
        self._store_base(site, base)
        total = Sum(addition, base, output=call.flat)
        self.sink.take_difference(total)
        self.sink.measure(site, total)
        self._finish_pair(site, total)

    def _store_base(self, site: Site, base: torch.Tensor) -> None:
        """Store the base, unless the base pass of a pair stored it."""
        if not self.sink.is_pair:
            self.sink.take_state(site, "base", base)

    def _finish_pair(self, site: Site, total: Sum) -> None:
        """In the second pass of a pair, compare the output with the first pass's base."""
        if self.sink.is_pair:
            self.sink.finish_pair(site, replace(total, base=self.pair_bases.pop(site.index), z_or_delta=None))
