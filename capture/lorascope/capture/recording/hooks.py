"""The hooks of a forward pass: they take each component's base and the adapters' deltas.

For every LoRA layer PEFT computes `base_layer(x) + lora_B(lora_A(x)) * scaling`. A hook on `base_layer` takes the
base, one on `lora_A[adapter]` the factor (on DoRA's magnitude module, the whole delta), and one on the layer itself
sees the sum, which proves that nothing else was added. With adapters off, the hook on `base_layer` computes each
adapter's branch from the layer's own input. Hooks only read. They copy stored tensors at once, since later code may
change a tensor in place. They never wait for the device, and don't read frozen weights, which may be offloaded (except
DoRA's in stream `base`, which is refused for offloaded weights).
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from ..buffers.target import BatchTarget
from ..errors import CaptureError
from ..models.components import LoraComponent
from ..models.experts import block_output, routing_module
from ..models.passes import Pass, stream_passes
from .expert_sums import ExpertSums
from .hook_actions import AdaptedPassActions, BasePassActions, Call
from .reduce import make_helper_threads
from .sink import Sink, TakeReduced
from .sites import Site, make_sites

INSIDE = ("factor", "branch")
"""Names of the hooks inside of an adapter, which fire only while it is on."""


class Recorder:
    """Forward hooks that copy every adapted layer's base and delta into the rows of a batch while the model runs.

    Base is the frozen layer's output, delta what an adapter adds to it.

    Parameters
    ----------
    components
        Adapter -> the components that it changes (`find_components`); one adapter, except in stream `base`.
    stream
        `adapted`: one pass, the adapter on. `base`: one pass, adapters off, the base and every adapter's delta.
        `pair`: a base pass, then an adapted one over the same batch.
    factor_start
        Adapter -> first column of each component's z in the adapter's packed factor, as in `stores.Adapter`; None for
        a probe, which stores nothing.
    keep_states
        Whether base, factor and delta are stored; it may be changed between batches.
    reducer
        Called once per batch, component and adapter, with the target and the measures of base and delta at the captured
        tokens. In `pair`, delta is the difference of the adapted pass's output from the base pass's.

    Raises
    ------
    ValueError
        If the stream isn't known, or takes a different number of adapters.

    Notes
    -----
    A `pair` keeps the base pass's outputs on their devices until the adapted pass is over: those of the measured
    tokens, or with a reducer those of all captured tokens.
    """

    def __init__(
        self,
        components: Mapping[str, Sequence[LoraComponent]],
        *,
        stream: str = "adapted",
        factor_start: Mapping[str, Sequence[int]] | None = None,
        keep_states: bool = True,
        reducer: TakeReduced | None = None,
    ) -> None:
        """Plan the passes and hooks, without attaching any; ValueError if the stream doesn't fit the adapters."""
        self.keep_states = keep_states
        self.dtypes: dict[str, torch.dtype] = {}
        """Type of each component's last output."""
        self.worst_excess = 0.0
        """Largest |output - (base + delta)| so far, divided by what rounding allows."""
        self._components = components
        self.experts = ExpertSums()
        """Sums over the passes so far, which say whether each expert of a block adds its own delta."""
        self.adapters = tuple(components)
        """Names of the adapters."""
        self._stream = stream
        self._sites = make_sites(components, factor_start)
        self.passes: tuple[Pass, ...] = stream_passes(stream, list(components))
        self._reducer = reducer
        self._threads = None if reducer is None else make_helper_threads()
        self._pair_bases: dict[int, torch.Tensor] = {}
        self._pass = self.passes[0]
        self._actions: BasePassActions | AdaptedPassActions | None = None
        self._fired: Counter[tuple[str, str]] = Counter()

    @property
    def proofs(self) -> tuple["Recorder", ...]:
        """Recorders that check each adapter's branch in a trial pass: one per adapter in stream `base`, else none."""
        by_adapter = self._components.items() if self._stream == "base" else ()
        return tuple(Recorder({adapter: components}) for adapter, components in by_adapter)

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Hook every adapted layer inside the block; the hooks are removed afterwards, also after an error."""
        handles = []
        try:
            for site in self._sites:
                for what, module in _hooked_modules(site, self._stream).items():
                    handles.append(module.register_forward_hook(self._hook(what, site), with_kwargs=True))
            yield
        finally:
            for handle in handles:
                handle.remove()

    @contextmanager
    def recording(self, target: BatchTarget, pass_: Pass) -> Iterator[None]:
        """Record the block's pass; raise `CaptureError` unless all hooks fire and all outputs are base + delta."""
        sink = Sink(
            target=target,
            is_pair=self._stream == "pair",
            keep_states=self.keep_states,
            reducer=self._reducer,
            threads=self._threads,
            experts=self.experts,
        )
        self._pass = pass_
        self._actions = (BasePassActions if pass_.name == "base" else AdaptedPassActions)(sink, self._pair_bases)
        self._fired.clear()
        try:
            yield
            self._check_fired()
            sink.finish()
            self._check_sums(sink)
        except BaseException:
            self._pair_bases.clear()
            raise
        finally:
            self._actions = None

    def _hook(self, what: str, site: Site) -> Any:
        """Return the forward hook for one module of a layer; `what` names its role, such as `base` or `factor`.

        The names are those of `_hooked_modules`.
        """

        def hook(module: torch.nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            """Hand a planned module's first output in a pass to the pass's action; do nothing outside of a pass."""
            actions = self._actions
            if actions is None or not self._is_planned(what):
                return
            self._fired[site.path, what] += 1
            if self._fired[site.path, what] > 1:
                return
            if what == "block":
                output = block_output(output)
            _check_layout(site, what, actions.sink.target.shape, output)
            if what in {"base", "replaced", "block"}:
                self.dtypes[site.path] = output.dtype
            self._actions = None  # what the hook itself runs isn't part of the pass
            getattr(actions, f"take_{what}")(site, Call(args, kwargs, output))
            self._actions = actions

        return hook

    def _check_sums(self, sink: Sink) -> None:
        """Raise `CaptureError` unless every layer's output is its base plus delta, and experts' deltas are their own.

        This is the only place that waits for the device.
        """
        self.experts.require_own()
        for path, value in zip(sink.excess, _largest_values(sink.excess.values()), strict=True):
            self.worst_excess = max(self.worst_excess, value)
            if math.isnan(value):
                raise CaptureError(
                    f"output of {path!r} isn't its base plus delta: delta or output isn't finite although the base "
                    "is; the adapter overflows (look at its weights and its `lora_alpha`), DoRA divides by the norm of "
                    "a zero row, or something else changes the output"
                )
            if value > 1:
                raise CaptureError(
                    f"output of {path!r} isn't its base plus delta: off by {value:.3g} times what rounding allows; "
                    "something else changes it (another adapter, a patched forward), and the store would be wrong"
                )

    def _is_planned(self, what: str) -> bool:
        """Return whether hooks that take `what` must fire in the pass, each exactly once; adapters may be off."""
        return what not in INSIDE or self._pass.name == "adapted"

    def _check_fired(self) -> None:
        """Raise `CaptureError` unless every hook planned for the pass fired exactly once."""
        for site in self._sites:
            for what in filter(self._is_planned, _hooked_modules(site, self._stream)):
                n = self._fired[site.path, what]
                if n != 1:
                    raise CaptureError(
                        f"the hook on the {what} of {site.path!r} fired {n} times in one pass, not once; "
                        "a compiled model, a fused kernel, gradient checkpointing or a layer used twice causes this: "
                        "capture without it"
                    )


def _hooked_modules(site: Site, stream: str) -> dict[str, torch.nn.Module]:
    """Return the modules of an adapted layer to hook, keyed by what the hook takes, such as `base`.

    DoRA calls lora_A and lora_B twice, and an embedding's A and B are bare parameters: they have no hook.
    """
    if site.is_wrapper:
        return {"replaced": site.module}
    addition = site.additions[0]
    if (block := addition.component.block) is not None:
        return {"routing": routing_module(block), "block": block}
    modules = {"base": site.module.base_layer, "output": site.module}
    source = addition.component.delta_source
    if stream != "base" and source == "branch":
        modules["branch"] = site.module.lora_magnitude_vector[addition.adapter]
    elif stream != "base" and source == "factor" and not site.is_embedding:
        modules["factor"] = site.module.lora_A[addition.adapter]
    return modules


def _check_layout(site: Site, what: str, shape: tuple[int, int], output: Any) -> None:
    """Raise `CaptureError` unless an output keeps the axes (sequence, position), which identify the tokens."""
    if what in {"branch", "routing"}:
        return  # of the same shape as the output, which is checked; an embedding's is a pair of tensors
    if not isinstance(output, torch.Tensor):
        raise CaptureError(f"{what} of {site.path!r} is a {type(output).__name__}, not a tensor")
    layout = tuple(output.shape[:-1])
    if layout not in {shape, (shape[0] * shape[1],)}:
        raise CaptureError(
            f"{site.path!r} outputs {layout} tokens for a batch of {shape[0]} sequences and {shape[1]} positions; "
            "only layers that keep (sequence, position) in this order can be captured"
        )


def _largest_values(values: Any) -> list[float]:
    """Return the largest value of each tensor as a list, NaN if a value is NaN; it reads a device once for a shape."""
    tensors = list(values)
    kinds = [(tensor.device, tensor.shape) for tensor in tensors]
    largest: dict[int, float] = {}
    for kind in {*kinds}:
        places = [place for place, other in enumerate(kinds) if other == kind]
        together = torch.stack([tensors[place] for place in places]).reshape(len(places), -1).amax(1).tolist()
        largest |= dict(zip(places, together, strict=True))
    return [largest[place] for place in range(len(tensors))]
