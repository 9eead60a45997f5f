"""The sink of a pass: it stores and measures the tensors, and proves that base plus delta is the output.

Base is a frozen layer's output, delta an adapter's addition to it, and js (JS) the Jensen-Shannon divergence of their
softmaxes, with and without delta.

On a GPU, one launch of the kernel in `fused` measures a sum. Other devices use the float64 functions below, on several
components together.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch

from ..buffers.target import BatchTarget
from ..models.shards import Shards
from .expert_sums import ExpertSums
from .reduce import Reduced, has_kernel, jensen_shannon, reduce_tokens, values_per_part
from .sites import Addition, Site, Sum

TakeReduced = Callable[[BatchTarget, int, str, Reduced], None]
"""A function that takes a batch's target, a component's index, an adapter's name, and the measures of the tokens."""
Work = Callable[..., torch.Tensor]
Done = Callable[[torch.Tensor], None]
PROVED_TOKENS = 256
"""Maximum number of tokens of a pass that are proved, evenly spaced among the measured ones: anything else that
changes a layer's output changes it for most tokens."""


class _GatheredCalls:
    """Queue of calls of functions on small tensors: calls with equal shapes and types are made as one.

    A step on 16 tokens takes as long as one on a thousand. The results equal those of single calls if the function
    treats the entries of a further first axis independently.
    """

    def __init__(self) -> None:
        """Start with no calls waiting."""
        self._waiting: dict[tuple[Any, ...], list[tuple[Done, tuple[torch.Tensor, ...]]]] = {}

    def add(self, work: Work, done: Done, *tensors: torch.Tensor, **settings: Any) -> None:
        """Pass `work(*tensors, **settings)` to `done`, now or later; the tensors must not change any more."""
        kinds = tuple((tensor.shape, tensor.dtype, tensor.device) for tensor in tensors)
        key = (work, kinds, tuple(settings.items()))
        self._waiting.setdefault(key, []).append((done, tensors))
        if len(self._waiting[key]) * tensors[0].numel() >= values_per_part(tensors[0].device):
            self._run(key)

    def finish(self) -> None:
        """Make all calls that are still queued."""
        for key in list(self._waiting):
            self._run(key)

    @torch.inference_mode()
    def _run(self, key: tuple[Any, ...]) -> None:
        """Make all calls that wait under `key` as one call on stacked tensors, and pass each result on."""
        work, _, settings = key
        calls = self._waiting.pop(key)
        kinds = zip(*(tensors for _, tensors in calls), strict=True)
        stacked = [torch.stack(tensors) if len(tensors) > 1 else tensors[0][None] for tensors in kinds]
        for (done, _), result in zip(calls, work(*stacked, **dict(settings)), strict=True):
            done(result)


@dataclass(slots=True, kw_only=True)
class Sink:
    """Receiver of the layers' outputs in one pass over a batch: it stores, measures and checks them.

    Outputs are (sequence * position, feature).
    """

    target: BatchTarget
    is_pair: bool
    """Whether base and delta come from two passes: then only the second pass can measure and reduce."""
    keep_states: bool
    reducer: TakeReduced | None
    threads: ThreadPoolExecutor | None = None
    """Further threads, for reductions in host memory."""
    excess: dict[str, torch.Tensor] = field(default_factory=dict)
    """Component path -> |output - (base + delta)| divided by what rounding allows, one value or one per token, on the
    component's device."""
    experts: ExpertSums = field(default_factory=ExpertSums)
    """Sums over the passes so far, which say whether each expert of a block adds its own delta."""
    _gathered: _GatheredCalls = field(default_factory=_GatheredCalls)

    def finish(self) -> None:
        """Make the queued measurements and checks, once the pass is over."""
        self._gathered.finish()

    def take_state(self, site: Site, name: str, output: torch.Tensor) -> None:
        """Store a layer's output (flat token, feature) as its `base` or `adapted`, the `name`, if states are kept."""
        if self.keep_states:
            self._put(f"states/{site.path}/{name}", output, site.shards)

    def take_factor(self, addition: Addition, factor: torch.Tensor) -> None:
        """Store an adapter's factor z = A x at a layer, if states are kept.

        If the run stores delta itself, it is made from the factor and stored.
        """
        if self.keep_states and addition.start >= 0:
            columns = slice(addition.start, addition.start + factor.shape[-1])
            self.target.put(f"adapters/{addition.adapter}/factor", factor, columns)
        elif self.keep_states:
            self.take_delta(addition, addition.delta(factor))

    def take_delta(self, addition: Addition, delta: torch.Tensor) -> None:
        """Store an adapter's delta (flat token, feature) at a layer, if states are kept."""
        if self.keep_states:
            component = addition.component
            self._put(f"adapters/{addition.adapter}/delta/{component.path}", delta, component.shards)

    def _put(self, path: str, output: torch.Tensor, shards: Shards | None) -> None:
        """Store an output (flat token, feature) at `path`, put together where processes have some features each."""
        if shards is None:
            self.target.put(path, output)
            return
        from .partial_sums import gather_features  # imports this module

        with self.target.meter.timed("copy"):
            gathered = gather_features(self.target.take(output), shards)
        if gathered is not None:
            self.target.put_taken(path, gathered)

    def take_difference(self, total: Sum) -> None:
        """Store a layer's output minus its base as the adapter's delta, if states are kept."""
        if self.keep_states:
            self.take_delta(total.addition, total.delta)

    def measure(self, site: Site, total: Sum) -> None:
        """Store the measures of a layer's base and delta, and check their sum if the layer itself added delta.

        The measures are js (in a pair only the second pass can measure it) and the share of features whose delta
        rounding swallows. With a reducer, js and the other measures go to it instead, for all captured tokens.
        """
        if total.z_or_delta is None and self.is_pair:
            return
        if has_kernel(total.base.device) or site.shards is not None:
            self._measure_at_once(
                site, total, self.target.token_index(total.base.device, measured=self.reducer is None)
            )
            return
        if not self.is_pair and self.reducer is not None:
            needed = total if total.z_or_delta is None else replace(total, output=None)
            self._reduce(site, needed.select(self.target.take))
        if total.z_or_delta is None and self.reducer is not None:
            return
        chosen = total.select(self.target.take_measured)
        delta = chosen.delta
        if chosen.z_or_delta is not None:
            output = (chosen.base + delta).to(chosen.base.dtype) if chosen.output is None else chosen.output
            self._measure(_swallowed_share, "swallowed", site, total.addition, chosen.base, delta, output)
            if chosen.output is not None:
                self._prove(site, chosen, delta)
        if not self.is_pair and self.reducer is None:
            self._measure(jensen_shannon, "js", site, total.addition, chosen.base, delta)

    def copy_for_pair(self, base: torch.Tensor) -> torch.Tensor:
        """Return a copy of a layer's base at the tokens to compare, for the pass with the adapter that follows.

        The model may change the base itself later.
        """
        if self.reducer is None:
            return self.target.take_measured(base)
        taken = self.target.take(base)
        is_view = taken.untyped_storage().data_ptr() == base.untyped_storage().data_ptr()
        return taken.clone() if is_view else taken

    def finish_pair(self, site: Site, total: Sum) -> None:
        """Store a layer's output with adapters on, and measure its difference from the earlier base."""
        assert total.output is not None
        self.take_state(site, "adapted", total.output)
        take = self.target.take_measured if self.reducer is None else self.target.take
        chosen = replace(total, output=take(total.output))
        if has_kernel(chosen.base.device) or site.shards is not None:
            self._measure_at_once(site, chosen, None)
        elif self.reducer is not None:
            self._reduce(site, chosen)
        else:
            self._measure(jensen_shannon, "js", site, total.addition, chosen.base, chosen.delta)

    def take_proved(self, output: torch.Tensor) -> torch.Tensor:
        """Return a copy of an output at the tokens on which base + delta = output is checked."""
        rows = self.target.token_index(output.device, measured=True)
        return output[:: _proof_step(len(output))].clone() if rows is None else output.index_select(0, proved(rows))

    def prove_equal(self, site: Site, base: torch.Tensor, output: torch.Tensor) -> None:
        """Record excess 0 if a layer's output, with adapters off, equals its base bit for bit, else infinity."""
        differ = (output != base) & ~(torch.isnan(output) & torch.isnan(base))
        self.excess[site.path] = torch.where(differ.any(), torch.inf, 0.0)

    def _measure_at_once(self, site: Site, total: Sum, rows: torch.Tensor | None) -> None:
        """Measure a layer's tokens at `rows` (all if None) with the GPU kernel in one launch, and store the results.

        Where processes have some features each, their sums measure.
        """
        with self.target.meter.timed("reduce"):
            n_tokens = len(total.base) if rows is None else len(rows)
            step = _proof_step(n_tokens)
            if site.shards is not None:
                from .partial_sums import measure_shards  # imports this module

                measured = measure_shards(total, site.shards, rows, prove_every=step)
            else:
                from .fused import measure_sum  # imports triton

                measured = measure_sum(total, rows, prove_every=step)
            adapter = total.addition.adapter
            if total.z_or_delta is None or not self.is_pair:
                if self.reducer is not None:
                    self.reducer(self.target, site.index, adapter, Reduced(*measured[:4]))
                else:
                    self.target.put_values(f"adapters/{adapter}/js", measured.js, site.index, measured=True)
            if total.z_or_delta is not None:
                swallowed = (
                    measured.swallowed if self.reducer is None else self.target.select_measured(measured.swallowed)
                )
                self.target.put_values(f"adapters/{adapter}/swallowed", swallowed, site.index, measured=True)
                if total.output is not None and n_tokens:
                    self.excess[site.path] = measured.excess

    def _reduce(self, site: Site, chosen: Sum) -> None:
        """Compute JS, norms and width of a layer's captured tokens, and hand them to the reducer, which stores them."""
        assert self.reducer is not None
        with self.target.meter.timed("reduce"):
            reduced = reduce_tokens(chosen.base, chosen.delta, threads=self.threads)
            self.reducer(self.target, site.index, chosen.addition.adapter, reduced)

    def _prove(self, site: Site, chosen: Sum, delta: torch.Tensor) -> None:
        """Compare a layer's output with base + delta on at most 256 measured tokens, without waiting for the result."""
        assert chosen.z_or_delta is not None
        assert chosen.output is not None
        base, delta, output = proved(chosen.base), proved(delta), proved(chosen.output)
        if chosen.is_factored:
            weights = chosen.addition.weights_on(base.device)
            size = factor_size(proved(chosen.z_or_delta), *weights, chosen.addition.component.scaling)
            n_roundings = chosen.z_or_delta.shape[-1] + 4
        else:
            size, n_roundings = base.float().abs() + 2 * delta.abs(), 4
        done = partial(self.excess.__setitem__, site.path)
        self._gathered.add(excess, done, base, delta, size, output, n_roundings=n_roundings, dtype=chosen.dtype)

    def _measure(self, work: Work, name: str, site: Site, addition: Addition, *tensors: torch.Tensor) -> None:
        """Store `work(*tensors)`, one value per measured token, as array `name` of one layer and adapter."""
        path, column = f"adapters/{addition.adapter}/{name}", site.index
        self._gathered.add(work, partial(self.target.put_values, path, column=column, measured=True), *tensors)


def _proof_step(n_tokens: int) -> int:
    """Return the step between the tokens on which base + delta = output is checked, at most 256 of `n_tokens`.

    It is odd, or else windows of even length were proved at the same positions.
    """
    return -(-n_tokens // PROVED_TOKENS) | 1


def proved(measured: torch.Tensor) -> torch.Tensor:
    """Return the measured tokens (token, feature), at most 256, on which base + delta = output is checked.

    They are a copy, unless they are all measured tokens.
    """
    return measured[:: _proof_step(len(measured))].contiguous()


def excess(
    base: torch.Tensor,
    delta: torch.Tensor,
    size: torch.Tensor,
    output: torch.Tensor,
    *,
    n_roundings: int,
    dtype: torch.dtype,
) -> torch.Tensor:
    """Return the largest |output - (base + delta)| divided by what rounding allows; above 1 the sum is wrong.

    It stays on the device, and is NaN if either side is NaN.

    Tensors (token, feature) give a scalar; tensors with a further first axis give one value per index of that axis.

    Parameters
    ----------
    base, delta, output
        Base in the layer's own type, delta in float32, and the layer's output.
    size
        Sum of the magnitudes of delta's terms.
    n_roundings
        Number of roundings in which a partial sum of delta may differ from the layer's.
    dtype
        Type in which the layer computes delta.

    Notes
    -----
    The layer rounds its sum to the output's type (half a unit; some round delta first, which is another half), and
    delta may have its terms added in another order and, for an adapter kept in less than float32, in that type:
    eps_output * (|base| + |delta|) + n_roundings * eps_delta * size. Where the base itself, or the sum in the layer's
    own type, overflowed there is nothing to compare.
    """
    step = max(1, values_per_part(output.device) * output.shape[-2] // max(1, output.numel()))
    eps, rounding = torch.finfo(output.dtype).eps, torch.finfo(dtype).eps * n_roundings
    smallest = torch.finfo(output.dtype).smallest_normal * eps
    largest = []
    parts = zip(*(torch.split(tensor, step, dim=-2) for tensor in (base, delta, size, output)), strict=True)
    for some_base, some_delta, terms, some_output in parts:
        x, d, out = some_base.double(), some_delta.double(), some_output.double()
        both = x + d
        allowed = eps * (x.abs() + d.abs()) + rounding * terms + smallest
        # An adapter whose own branch isn't finite is no overflow of the model: there `off` is NaN.
        sum_overflows = ~torch.isfinite(both.to(output.dtype)) & ~torch.isfinite(out) & torch.isfinite(d)
        off = ((out - both).abs() / allowed).masked_fill(~torch.isfinite(x) | sum_overflows, 0)
        largest.append(off.amax((-2, -1)) if off.numel() else off.new_zeros(off.shape[:-2]))
    return torch.stack(largest).amax(0)


def factor_size(factor: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, scaling: float) -> torch.Tensor:
    """Return |scaling| * (|factor| |weight|^T + |bias|), float32 (token, feature), which bounds delta's rounding."""
    offset = None if bias is None else bias.abs()
    with torch.autocast(factor.device.type, enabled=False):  # in which a model may run that is in training
        return torch.nn.functional.linear(factor.float().abs(), weight.abs(), offset) * abs(scaling)


def _swallowed_share(base: torch.Tensor, delta: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
    """Return each token's share of features whose output is the base although delta isn't 0, float32 (token,)."""
    swallowed = (output == base).logical_and_(delta != 0)
    return (torch.count_nonzero(swallowed, dim=-1) / base.shape[-1]).float()
