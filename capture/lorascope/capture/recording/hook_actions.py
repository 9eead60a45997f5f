"""Hook actions of a pass: one class for passes with the adapter on, and one for passes with adapters off."""

from dataclasses import dataclass, field, replace
from typing import Any

import torch

from lorascope.stores.format.spec import block_path

from ..models.branches import adds_in_place, compute_factor, dora_delta, dora_dtype, dora_output, replaced_output
from ..models.experts import Written, output_without, read_routing, scales_input, write_out
from .expert_sums import put_measures, put_routing
from .sink import Sink, proved
from .sites import Addition, Site, Sum


@dataclass(slots=True)
class Call:
    """One call of a hooked module, as its forward hook gets it: arguments and output."""

    args: Any
    kwargs: Any
    output: Any

    @property
    def flat(self) -> torch.Tensor:
        """The module's output as a detached tensor (sequence * position, feature)."""
        flat: torch.Tensor = self.output.detach().flatten(0, -2)
        return flat


@dataclass(slots=True)
class BasePassActions:
    """Actions of the hooks in a pass with adapters off: store each layer's output and every adapter's delta.

    In a pair of passes, off and on, only the layer's output (the base) is taken.
    """

    sink: Sink
    pair_bases: dict[int, torch.Tensor]
    """Component of a pair -> its base, until the adapted pass."""
    outputs: dict[int, torch.Tensor] = field(default_factory=dict)
    """Component -> copy of the base of the proved tokens."""

    def take_base(self, site: Site, call: Call) -> None:
        """Store the frozen layer's output and, unless an adapted pass follows, compute and measure every delta.

        In a pair no delta is computed.
        """
        self._store_base(site, call.flat)
        self.outputs[site.index] = self.sink.take_proved(call.flat)
        if not self.sink.is_pair:
            for addition in site.additions:
                self.sink.measure(site, self._adapter_sum(site, addition, call))

    def take_output(self, site: Site, call: Call) -> None:
        """Compare the wrapped layer's output with the frozen layer's; with adapters off they must be equal."""
        if site.index in self.outputs:  # else a hook didn't fire, which is detected after the pass
            self.sink.prove_equal(site, self.outputs.pop(site.index), self.sink.take_proved(call.flat))

    def take_replaced(self, site: Site, call: Call) -> None:
        """Store the base weights' output of a layer with a trained copy, and measure how the copy's output differs.

        In a pair only the base is stored.
        """
        self._store_base(site, call.flat)
        if not self.sink.is_pair:
            for addition in site.additions:
                trained = replaced_output(site.module, addition.adapter, call.args, call.kwargs).flatten(0, -2)
                total = Sum(addition, call.flat, output=trained)
                self.sink.take_difference(total)
                self.sink.measure(site, total)

    def take_routing(self, site: Site, call: Call) -> None:
        """Store the routing of a block of experts in the base model."""
        routing = read_routing(site.additions[0].component.block, call.args, call.kwargs, call.output)
        put_routing(self.sink.target, f"experts/{block_path(site.path)}/base_", routing.select(self.sink.target.take))

    def take_block(self, site: Site, call: Call) -> None:
        """Store the output of a block of experts, with all adapters off."""
        self._store_base(site, call.flat)

    def _store_base(self, site: Site, base: torch.Tensor) -> None:
        """Store the frozen layer's output and, if an adapted pass of the batch follows, keep a copy for it."""
        self.sink.take_state(site, "base", base)
        if self.sink.is_pair:
            self.pair_bases[site.index] = self.sink.copy_for_pair(base)

    def _adapter_sum(self, site: Site, addition: Addition, call: Call) -> Sum:
        """Compute an adapter's factor or delta from the layer's input, store it, and return it with the base."""
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
    """Actions of the hooks in a pass with one adapter on: store each layer's base and delta, and measure.

    This is also the second pass of a pair.
    """

    sink: Sink
    pair_bases: dict[int, torch.Tensor]
    """Component of a pair -> its base in the base pass."""
    sums: dict[int, Sum] = field(default_factory=dict)
    """Component -> its sum so far; the tensors are the layer's own."""
    written: Written | None = None
    """Outputs of experts one by one for the proved tokens, of the block that runs or ran last."""
    together: torch.Tensor | None = None
    """Sum of what these experts output; None where they scale their input, so that the block's output is compared."""

    def take_base(self, site: Site, call: Call) -> None:
        """Store the frozen layer's output (base), and keep it, before PEFT changes it, until delta is known."""
        (addition,) = site.additions
        self._store_base(site, call.flat)
        is_lost = adds_in_place(site.module, addition.adapter)
        self.sums[site.index] = Sum(addition, call.flat.clone() if is_lost else call.flat)
        if site.is_embedding and addition.component.delta_source == "factor":
            factor = compute_factor(site.module, addition.adapter, call.args[0])
            self.take_factor(site, Call((), {}, factor))

    def take_factor(self, site: Site, call: Call) -> None:
        """Store the adapter's factor z = A x at a layer, and keep it until the layer's output comes."""
        if site.index in self.sums:
            total = replace(self.sums[site.index], z_or_delta=call.flat, dtype=call.output.dtype)
            self.sums[site.index] = total
            self.sink.take_factor(total.addition, call.flat)

    def take_branch(self, site: Site, call: Call) -> None:
        """Compute delta from the output of DoRA's magnitude module, store it, and keep it until the output comes."""
        if site.index in self.sums:
            total = self.sums[site.index]
            delta = dora_delta(site.module, call.output, total.base)
            self.sums[site.index] = replace(total, z_or_delta=delta, dtype=dora_dtype(call.output))
            self.sink.take_delta(total.addition, delta)

    def take_output(self, site: Site, call: Call) -> None:
        """Measure the layer's base and delta, and check that the output, which comes last, is their sum."""
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
        """Compute the base weights' output of a layer with a trained copy, and store and measure the difference.

        The base weights' output is computed here.
        """
        (addition,) = site.additions
        base = site.module.original_module(*call.args, **call.kwargs).flatten(0, -2)
        self._take_difference(site, Sum(addition, base, output=call.flat))

    def take_routing(self, site: Site, call: Call) -> None:
        """Store routing and measures of each chosen expert, once for all components of a block.

        What the experts output alone is kept for the proved tokens.
        """
        (addition,) = site.additions
        block, target, path = addition.component.block, self.sink.target, str(block_path(site.path))
        if self.written is not None and self.written.block is block:
            return
        routing = read_routing(block, call.args, call.kwargs, call.output).select(target.take)
        with target.meter.timed("reduce"), torch.autocast(routing.x.device.type, enabled=False):
            self.written = write_out(block, addition.adapter, routing.select(proved))
            self.together = None if scales_input(block.experts.get_base_layer()) else self._take_proved(call.output)
            if target.has_array(f"experts/{path}/expert"):
                put_routing(target, f"experts/{path}/", routing)
                put_measures(target, path, block, addition.adapter, routing, self.sink.threads)

    def take_block(self, site: Site, call: Call) -> None:
        """Run a block of experts again without the adapter of one parameter, and store and measure the difference."""
        (addition,) = site.additions
        bases: list[torch.Tensor] = []
        block, take = addition.component.block, lambda output: bases.append(self._take_proved(output))
        total = Sum(addition, output_without(site.module, block, call.args, call.kwargs, take), output=call.flat)
        if self.written is not None:  # else a hook didn't fire, which is detected after the pass
            # What comes after the experts, such as a factor or a norm, isn't theirs.
            if self.together is None:
                chosen = total.select(self._take_proved)
            else:
                chosen = Sum(addition, bases[0], output=self.together)
            self.sink.excess[site.path] = self.sink.experts.prove(self.written, chosen)
        self._take_difference(site, total)

    def _take_proved(self, output: torch.Tensor) -> torch.Tensor:
        """Return a copy of an output at the tokens on which experts' deltas are checked."""
        return proved(self.sink.target.take(output.flatten(0, -2))).clone()

    def _take_difference(self, site: Site, total: Sum) -> None:
        """Store and measure a base that was computed apart, and the output minus it."""
        self._store_base(site, total.base)
        self.sink.take_difference(total)
        self.sink.measure(site, total)
        self._finish_pair(site, total)

    def _store_base(self, site: Site, base: torch.Tensor) -> None:
        """Store the frozen layer's output, unless an earlier pass with adapters off has already stored it."""
        if not self.sink.is_pair:
            self.sink.take_state(site, "base", base)

    def _finish_pair(self, site: Site, total: Sum) -> None:
        """If a pass with adapters off came before, store the output and measure its difference from that base."""
        if self.sink.is_pair:
            self.sink.finish_pair(site, replace(total, base=self.pair_bases.pop(site.index), z_or_delta=None))
