"""Where the tensors of one pass go: rows, measurements, a reducer, and the proof that base plus delta is the output."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import torch

from ..buffers.target import BatchTarget
from .reduce import jensen_shannon, part_values
from .sites import Addition, Site

ReduceStates = Callable[[BatchTarget, int, str, torch.Tensor, torch.Tensor], None]
"""Takes (target, place on the component axis, adapter, base, delta) of a batch's captured tokens, (token, feature)."""
Work = Callable[..., torch.Tensor]
Done = Callable[[torch.Tensor], None]
PROVED_TOKENS = 256
"""Most tokens of a pass that are proved, evenly spaced among the measured: whatever else changes a layer's output
changes it for most tokens."""


class Sum(NamedTuple):
    """A base and what is added to it, for some tokens."""

    base: torch.Tensor
    """(token, feature), in the layer's own type."""
    delta: torch.Tensor
    """Float32, same shape."""
    size: torch.Tensor
    """Same shape: magnitudes of the terms of delta, added up."""
    n_roundings: int
    """How often a partial sum of delta may have been rounded otherwise than the layer did."""
    dtype: torch.dtype
    """Type in which the layer computes delta."""


class _Gathered:
    """Calls of one function on tensors of the same kinds, gathered until there are enough values for one call.

    A step on 16 tokens takes as long as one on a thousand. The results are those of single calls, if the function
    treats what lies along a further first axis independently.
    """

    def __init__(self) -> None:
        self._waiting: dict[tuple[Any, ...], list[tuple[Done, tuple[torch.Tensor, ...]]]] = {}

    def add(self, work: Work, done: Done, *tensors: torch.Tensor, **settings: Any) -> None:
        """Hand `work(*tensors, **settings)` to `done`, now or later; nobody may change the tensors any more."""
        kinds = tuple((tensor.shape, tensor.dtype, tensor.device) for tensor in tensors)
        key = (work, kinds, tuple(settings.items()))
        self._waiting.setdefault(key, []).append((done, tensors))
        if len(self._waiting[key]) * tensors[0].numel() >= part_values(tensors[0].device):
            self._run(key)

    def finish(self) -> None:
        """Work on all that waits."""
        for key in list(self._waiting):
            self._run(key)

    @torch.inference_mode()
    def _run(self, key: tuple[Any, ...]) -> None:
        work, _, settings = key
        calls = self._waiting.pop(key)
        kinds = zip(*(tensors for _, tensors in calls), strict=True)
        stacked = [torch.stack(tensors) if len(tensors) > 1 else tensors[0][None] for tensors in kinds]
        for (done, _), result in zip(calls, work(*stacked, **dict(settings)), strict=True):
            done(result)


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
    _gathered: _Gathered = field(default_factory=_Gathered)

    def finish(self) -> None:
        """The pass is over: measure and prove what still waits."""
        self._gathered.finish()

    def take_state(self, site: Site, name: str, output: torch.Tensor) -> torch.Tensor:
        """Store an output of a component, as `base` or `adapted`; returns a copy of its measured tokens."""
        if self.keep_states:
            self.target.put(f"states/{site.path}/{name}", output)
        return self.target.take_measured(output)

    def take_factor(self, site: Site, addition: Addition, base: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
        """Store an adapter's factor, or the delta that it makes where that isn't larger; returns its measured tokens.

        Base and delta go to the reducer, while nothing has changed the base in place.
        """
        if self.keep_states and addition.start >= 0:
            columns = slice(addition.start, addition.start + factor.shape[-1])
            self.target.put(f"adapters/{addition.adapter}/factor", factor, columns)
        elif self.keep_states:
            self.target.put(_delta_path(addition), addition.delta(factor))
        if self.reducer is not None and not self.is_pair:
            delta = addition.delta(self.target.take(factor))
            self.reducer(self.target, site.index, addition.adapter, self.target.take(base), delta)
        return self.target.take_measured(factor)

    def take_delta(self, site: Site, addition: Addition, base: torch.Tensor, delta: torch.Tensor) -> torch.Tensor:
        """Store an adapter's delta, and hand it to the reducer with its base; returns its measured tokens."""
        if self.keep_states:
            self.target.put(_delta_path(addition), delta)
        if self.reducer is not None and not self.is_pair:
            self.reducer(self.target, site.index, addition.adapter, self.target.take(base), self.target.take(delta))
        return self.target.take_measured(delta)

    def measure(self, site: Site, addition: Addition, base: torch.Tensor, delta: torch.Tensor) -> None:
        """Store js of the measured tokens; with a reducer it is the reducer's to do, over all captured tokens."""
        if self.reducer is None and not self.is_pair:
            self._measure(jensen_shannon, "js", site, addition, base, delta)

    def measure_swallowed(
        self, site: Site, addition: Addition, base: torch.Tensor, delta: torch.Tensor, output: torch.Tensor
    ) -> None:
        """Store the share of features in which rounding leaves nothing of delta, of the measured tokens."""
        self._measure(_swallowed_share, "swallowed", site, addition, base, delta, output)

    def hold(self, base: torch.Tensor) -> torch.Tensor:
        """What the adapted pass of a pair needs of the base pass: a copy, since the model may go on to change it."""
        return self.target.take_measured(base) if self.reducer is None else self.target.take(base).clone()

    def finish_pair(self, site: Site, addition: Addition, held: torch.Tensor, output: torch.Tensor) -> None:
        """Store the adapted output of a pair, and measure or reduce what it differs by from the base pass's."""
        measured = self.take_state(site, "adapted", output)
        if self.reducer is not None:
            delta = self.target.take(output).float() - held.float()
            self.reducer(self.target, site.index, addition.adapter, held, delta)
        else:
            self._measure(jensen_shannon, "js", site, addition, held, measured.float() - held.float())

    def prove(self, site: Site, total: Sum, output: torch.Tensor) -> None:
        """Compare tokens of a layer's output with their sum; nothing waits for the result here."""
        done = partial(self.excess.__setitem__, site.path)
        self._gathered.add(excess, done, *total[:3], output, n_roundings=total.n_roundings, dtype=total.dtype)

    def prove_equal(self, site: Site, base: torch.Tensor, output: torch.Tensor) -> None:
        """Adapters that are off leave nothing: the output is the base, bit for bit."""
        differ = (output != base) & ~(torch.isnan(output) & torch.isnan(base))
        self.excess[site.path] = torch.where(differ.any(), torch.inf, 0.0)

    def _measure(self, work: Work, name: str, site: Site, addition: Addition, *tensors: torch.Tensor) -> None:
        """Store one value a measured token, of one component and adapter."""
        path, column = f"adapters/{addition.adapter}/{name}", site.index
        self._gathered.add(work, partial(self.target.put_values, path, column=column, measured=True), *tensors)


def proved(measured: torch.Tensor) -> torch.Tensor:
    """The measured tokens (token, feature) that are proved; a copy, unless they are all of them."""
    return measured[:: max(1, -(-len(measured) // PROVED_TOKENS))].contiguous()


def excess(
    base: torch.Tensor,
    delta: torch.Tensor,
    size: torch.Tensor,
    output: torch.Tensor,
    *,
    n_roundings: int,
    dtype: torch.dtype,
) -> torch.Tensor:
    """Largest |output - (base + delta)| over what rounding allows, on the device; NaN if either side is.

    The tensors are those of a `Sum`, and the layer's output. The result is a scalar for tensors of (token, feature);
    of each first index for those with further axes before these two.

    Notes
    -----
    The layer rounds its sum to the output's type (half a unit; some round delta first, which is another half), and
    delta may have its terms added in another order and, for an adapter kept in less than float32, in that type:
    eps_output * (|base| + |delta|) + n_roundings * eps_delta * size. Where the base itself, or the sum in the layer's
    own type, overflowed there is nothing to compare.
    """
    step = max(1, part_values(output.device) * output.shape[-2] // max(1, output.numel()))
    parts = zip(*(torch.split(tensor, step, dim=-2) for tensor in (base, delta, size, output)), strict=True)
    return torch.stack([_excess(part, torch.finfo(dtype).eps * n_roundings) for part in parts]).amax(0)


def _excess(part: tuple[torch.Tensor, ...], rounding: float) -> torch.Tensor:
    base, delta, size, output = part
    base, delta, out = base.double(), delta.double(), output.double()
    both = base + delta
    eps = torch.finfo(output.dtype).eps
    smallest = torch.finfo(output.dtype).smallest_normal * eps
    allowed = eps * (base.abs() + delta.abs()) + rounding * size + smallest
    # An adapter whose own branch isn't finite is no overflow of the model: there `off` is NaN.
    sum_overflows = ~torch.isfinite(both.to(output.dtype)) & ~torch.isfinite(out) & torch.isfinite(delta)
    overflowed = ~torch.isfinite(base) | sum_overflows
    off = ((out - both).abs() / allowed).masked_fill(overflowed, 0)
    return off.amax((-2, -1)) if off.numel() else off.new_zeros(off.shape[:-2])


def factor_size(factor: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, scaling: float) -> torch.Tensor:
    """|scaling| * (|z| |B|^T + |bias|): magnitudes of the terms of delta, float32 (token, feature)."""
    offset = None if bias is None else bias.abs()
    with torch.autocast(factor.device.type, enabled=False):  # in which a model may run that is in training
        return torch.nn.functional.linear(factor.float().abs(), weight.abs(), offset) * abs(scaling)


def _swallowed_share(base: torch.Tensor, delta: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
    """Share of features whose output is the base although delta isn't zero, float32 (token,)."""
    swallowed = (output == base).logical_and_(delta != 0)
    return (torch.count_nonzero(swallowed, dim=-1) / base.shape[-1]).float()


def _delta_path(addition: Addition) -> str:
    return f"adapters/{addition.adapter}/delta/{addition.component.path}"
