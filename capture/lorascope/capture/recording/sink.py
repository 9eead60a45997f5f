"""Where the tensors of one forward pass go: rows, measurements, a reducer, and the proof."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from ..buffers.target import BatchTarget
from .gather import Gathered, Work
from .js import jensen_shannon
from .proof import Sum, excess, swallowed_share
from .sites import Addition, Site

__all__ = ["ReduceStates", "Sink"]

ReduceStates = Callable[[int, str, torch.Tensor, torch.Tensor], None]
"""Takes (place on the component axis, adapter, base, delta) of a batch's captured tokens, (token, feature) each."""


@dataclass(slots=True, kw_only=True)
class Sink:
    """Takes flat (sequence * position, feature) outputs of one pass over one batch."""

    target: BatchTarget
    is_pair: bool
    """Whether base and delta are those of two passes: then only the second pass can measure and reduce."""
    keep_states: bool
    reducer: ReduceStates | None
    excess: dict[str, torch.Tensor] = field(default_factory=dict)
    """Component path -> how far its output was from base + delta, over what is allowed; on its device."""
    _gathered: Gathered = field(default_factory=Gathered)

    def finish(self) -> None:
        """The pass is over: measure and prove what still waits."""
        self._gathered.finish()

    def take_measured(self, output: torch.Tensor) -> torch.Tensor:
        """The measured tokens of an output, a copy."""
        return self.target.take_measured(output)

    def put_state(self, site: Site, name: str, output: torch.Tensor) -> None:
        """Store an output of a component, as `base` or `adapted`."""
        if self.keep_states:
            self.target.put(f"states/{site.path}/{name}", output)

    def put_factor(self, addition: Addition, factor: torch.Tensor) -> None:
        """Store an adapter's factor, or the delta that it makes where that isn't larger."""
        if self.keep_states and addition.start >= 0:
            columns = slice(addition.start, addition.start + factor.shape[-1])
            self.target.put(f"adapters/{addition.adapter}/factor", factor, columns)
        elif self.keep_states:
            self.put_delta(addition, addition.delta(factor))

    def put_delta(self, addition: Addition, delta: torch.Tensor) -> None:
        """Store an adapter's delta."""
        if self.keep_states:
            self.target.put(f"adapters/{addition.adapter}/delta/{addition.component.path}", delta)

    def reduce_factor(self, site: Site, addition: Addition, base: torch.Tensor, factor: torch.Tensor) -> None:
        """Hand base and the delta of a factor to the reducer, while nothing has changed the base in place."""
        if self.reducer is not None and not self.is_pair:
            delta = addition.delta(self.take(factor))
            self.reducer(site.index, addition.adapter, self.take(base), delta)

    def reduce_delta(self, site: Site, addition: Addition, base: torch.Tensor, delta: torch.Tensor) -> None:
        """Hand base and delta to the reducer, while nothing has changed the base in place."""
        if self.reducer is not None and not self.is_pair:
            self.reducer(site.index, addition.adapter, self.take(base), self.take(delta))

    def measure(self, site: Site, addition: Addition, base: torch.Tensor, delta: torch.Tensor) -> None:
        """Store js of the measured tokens; with a reducer it is the reducer's to do, over all captured tokens."""
        if self.reducer is None and not self.is_pair:
            self._measure(jensen_shannon, "js", site, addition, base, delta)

    def measure_swallowed(
        self, site: Site, addition: Addition, base: torch.Tensor, delta: torch.Tensor, output: torch.Tensor
    ) -> None:
        """Store the share of features in which rounding leaves nothing of delta, of the measured tokens."""
        self._measure(swallowed_share, "swallowed", site, addition, base, delta, output)

    def hold(self, base: torch.Tensor) -> torch.Tensor:
        """What the adapted pass of a pair needs of the base pass: a copy, since the model may go on to change it."""
        return self.take_measured(base) if self.reducer is None else self.take(base).clone()

    def finish_pair(self, site: Site, addition: Addition, held: torch.Tensor, output: torch.Tensor) -> None:
        """Store the adapted output of a pair, and measure or reduce what it differs by from the base pass's."""
        self.put_state(site, "adapted", output)
        if self.reducer is not None:
            self.reducer(site.index, addition.adapter, held, self.take(output).float() - held.float())
        else:
            delta = self.take_measured(output).float() - held.float()
            self._measure(jensen_shannon, "js", site, addition, held, delta)

    def prove(self, site: Site, total: Sum, output: torch.Tensor) -> None:
        """Compare tokens of a layer's output with their sum; nothing waits for the result here."""
        done = partial(self.excess.__setitem__, site.path)
        tensors, settings = total[:3], {"n_roundings": total.n_roundings, "dtype": total.dtype}
        self._gathered.add(_excess, done, *tensors, output, **settings)

    def prove_equal(self, site: Site, base: torch.Tensor, output: torch.Tensor) -> None:
        """Adapters that are off leave nothing: the output is the base, bit for bit."""
        differ = (output != base) & ~(torch.isnan(output) & torch.isnan(base))
        self.excess[site.path] = torch.where(differ.any(), torch.inf, 0.0)

    def _measure(self, work: Work, name: str, site: Site, addition: Addition, *tensors: torch.Tensor) -> None:
        """Store one value a measured token, of one component and adapter."""
        done = partial(self.target.put_measured, f"adapters/{addition.adapter}/{name}", site.index)
        self._gathered.add(work, done, *tensors)

    def take(self, output: torch.Tensor) -> torch.Tensor:
        """The captured tokens of an output; maybe the output's own memory."""
        return self.target.take(output)


def _excess(
    base: torch.Tensor, delta: torch.Tensor, size: torch.Tensor, output: torch.Tensor, **settings: Any
) -> torch.Tensor:
    return excess(Sum(base, delta, size, **settings), output)
