"""The pass that captures states: batches run with hooks, and every full row goes to the writer."""

import math
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple

import torch

from ..buffers.rows import RowQueue, row_spans
from ..buffers.target import BatchTarget, Meter, flat_index
from ..errors import CaptureError
from ..models.passes import Pass, disabled_adapters
from ..samples.encoded import EncodedSample
from .changes import draw_uniforms, next_token_changes
from .forward import forward, forward_seconds, kl_divergence, negative_log_likelihood
from .hooks import Recorder
from .layout import Layout, TokenPlan
from .progress import CaptureProgress, Report

_BATCHES_A_BARE_PASS = 64
"""One batch in this many runs again without hooks, to measure the overhead."""
_MOST_BARE_PASSES = 3
"""Maximum number of batches that run again."""

Logits = dict[str, torch.Tensor | None]
"""Name of a pass -> its logits (sequence, position, token id) of a batch; None of a model without."""


class Streamed(NamedTuple):
    """Result of running a capture's batches: times, bytes and rows, tokens with padding, and if it was stopped."""

    measured: dict[str, Any]
    """Numbers that a run keeps, as JSON values: seconds from the first batch to the last row on the disk (without bare
    passes), in all and by stage; rows and bytes; with next-token changes `change_passes` and `change_tokens`, whose
    time is the stage `changes`; with an ablation `ablation_passes`, whose time is the stage `ablate`; with
    `measure_overhead`, `bare_seconds` and `bare_tokens` of passes without hooks, and `overhead`, the seconds per token
    (without those two stages) divided by the bare seconds per token, NaN without bare passes."""
    tokens: int
    """Number of tokens that passed, with padding; batches without tokens of a chosen row don't pass."""
    stopped: bool
    """Whether it was stopped: rows that were started are written, others aren't."""
    experts: dict[str, torch.Tensor]
    """Component -> sums over its experts' proved tokens, as in `ExpertSums`; {} without experts."""


def stream_states(
    model: Any,
    recorder: Recorder,
    layout: Layout,
    rows: RowQueue,
    *,
    device: torch.device,
    measure_overhead: bool = False,
    stop: Callable[[], bool] = lambda: False,
    progress: Report = None,
) -> Streamed:
    """Run the model with hooks on all batches with tokens of rows to be written; fill `rows`, return measurements.

    Parameters
    ----------
    layout
        Its plan has the batches whose KL of base and adapted logits, next-token changes or ablation is measured. KL and
        changes take the passes that the recorder doesn't make, and an ablation one for each part, all without
        recording; a model without logits isn't ablated.
    measure_overhead
        Whether a few batches run once more without hooks.
    stop
        Called before each batch. Once it returns True, no new row is started: batches with missing tokens of started
        rows still run, and then the stream ends.
    progress
        Called after every batch, and in stage `ablate` after every pass without a part.

    Raises
    ------
    CaptureError
        If a hook doesn't fire as planned, a layer's output isn't its base plus delta, or an array of a row isn't
        filled once for every token.
    OSError
        If the disk is full or fails.
    """
    passes, plan, batches = recorder.passes, layout.plan, layout.batches
    todo = [index for index, batch in enumerate(batches) if rows.has_expected_rows(*_token_range(plan, batch))]
    parts = layout.ablated_layers()
    n_ablations = len(parts) * int(plan.ablate_batches[todo].sum())
    stream = _Stream(model, recorder, layout, rows, device, parts, n_ablations, progress)
    # In parts of about equal length; a pass without hooks may be measured after each.
    n_parts = min(_MOST_BARE_PASSES if measure_overhead else 1, -(-len(todo) // _BATCHES_A_BARE_PASS))
    bounds = [len(todo) * part // n_parts for part in range(n_parts + 1)] if n_parts else []
    stopped = False
    start = time.perf_counter()
    for part in (todo[first:last] for first, last in pairwise(bounds)):
        # If there are several passes, each of them switches the adapters.
        with recorder.attached(), passes[0].enabled(model) if len(passes) == 1 else nullcontext():
            for index in part:
                if not stopped and stop():
                    stopped = True
                    rows.drop_unstarted_rows()
                first, n_tokens = _token_range(plan, batches[index])
                if rows.has_expected_rows(first, n_tokens):
                    stream.capture(index)
                    if progress is not None:
                        now = (rows.stored_bytes, stream.meter.bottleneck())
                        progress(CaptureProgress("capture", first + n_tokens, plan.n_tokens, "tokens", *now))
        if measure_overhead and not stopped:
            stream.time_bare_pass(batches[part[len(part) // 2]])
    stream.drain()
    seconds = time.perf_counter() - start - stream.seconds_apart
    measured = {
        "seconds": seconds,
        "stages": dict(stream.meter.seconds),
        "seconds_waiting_for_disk": rows.seconds_waited,
        "rows": len(rows.written_rows),
        "raw_bytes": rows.raw_bytes,
        "stored_bytes": rows.stored_bytes,
        "buffer_bytes": rows.n_bytes,
        "worst_excess": recorder.worst_excess,
    }
    if layout.spec.n_vocabulary:
        measured |= {"change_passes": stream.change_passes, "change_tokens": stream.change_tokens}
    if parts:
        measured["ablation_passes"] = stream.ablations
    if measure_overhead:
        bare = stream.bare_seconds / stream.bare_tokens if stream.bare_tokens else math.nan
        own = seconds - stream.meter.seconds["ablate"] - stream.meter.seconds["changes"]
        measured["overhead"] = own / stream.tokens / bare if stream.tokens else math.nan
        measured |= {"bare_seconds": stream.bare_seconds, "bare_tokens": stream.bare_tokens}
    experts = {path: sums.cpu() for path, sums in recorder.experts.sums.items()}
    return Streamed(measured, stream.tokens, stopped, experts)


@dataclass(slots=True)
class _Stream:
    """State of a capture while its batches run: model, hooks, rows, and seconds and tokens so far."""

    model: Any
    recorder: Recorder
    layout: Layout
    rows: RowQueue
    device: torch.device
    parts: Sequence[Sequence[Any]]
    n_ablations: int
    """Number of all passes without a part."""
    progress: Report
    change_passes: int = 0
    """Number of passes for next-token changes alone."""
    change_tokens: int = 0
    """Number of captured tokens whose next-token changes are stored."""
    ablations: int = 0
    """Number of passes without a part that are done."""
    meter: Meter = field(default_factory=Meter)
    tokens: int = 0
    seconds_apart: float = 0.0
    """Seconds spent on passes without hooks."""
    bare_seconds: float = 0.0
    bare_tokens: int = 0

    def capture(self, index: int) -> None:
        """Run all passes of one batch with hooks, fill the rows of its tokens, and hand full rows to the writer."""
        batch, plan = self.layout.batches[index], self.layout.plan
        kl, changes, ablate = (mask[index] for mask in (plan.kl_batches, plan.change_batches, plan.ablate_batches))
        with self.meter.timed("wait"):
            segments = self.rows.take(*_token_range(plan, batch))
        self.recorder.keep_states = self._has_states(batch)
        samples = self.layout.samples[batch]
        shape = _padded_shape(samples)
        measured = plan.measured[plan.starts[batch.start] : plan.starts[batch.stop]]
        flat = flat_index(plan.positions[batch], shape[1])
        target = BatchTarget(shape, flat, measured, segments, self.rows.copier, self.meter)
        logits: Logits = {}
        for pass_ in self.recorder.passes:
            # Walking over all modules to switch them takes as long as a small batch on a fast device.
            switched = pass_.enabled(self.model) if len(self.recorder.passes) > 1 else nullcontext()
            with switched, self.meter.timed("forward"), self.recorder.recording(target, pass_):
                logits[pass_.name] = forward(self.model, samples, self.device)
        with self.meter.timed("logits"):
            self._put_nll_and_kl(logits, batch, target, kl=kl and not changes)
        if changes:
            with self.meter.timed("changes"):
                self._put_changes(logits, batch, target)
        last_logits = logits.pop(self.recorder.passes[-1].name)
        logits.clear()  # of a base pass, before there are others
        if ablate and last_logits is not None:
            self._ablate(last_logits, samples, target)
        target.flush()
        self.rows.put()
        self.tokens += math.prod(shape)
        self._update_times()

    def _has_states(self, batch: slice) -> bool:
        """Return whether any row that a batch reaches into keeps base and delta."""
        spec, (rows,) = self.layout.spec, row_spans(self.layout.plan.starts, [batch])
        return spec.states == "all" or any(spec.state_rows[rows.start : rows.stop])

    def time_bare_pass(self, batch: slice) -> None:
        """Add the time of a batch's passes without hooks to `bare_seconds`, after waiting for the writers.

        The wait is part of capture's time.
        """
        self.drain()
        start = time.perf_counter()
        samples = self.layout.samples[batch]
        for pass_ in self.recorder.passes:
            with pass_.enabled(self.model):
                self.bare_seconds += forward_seconds(self.model, samples, self.device)
        self.bare_tokens += math.prod(_padded_shape(samples))
        self.seconds_apart += time.perf_counter() - start

    def drain(self) -> None:
        """Wait until every full row is on the disk, and update the writers' times."""
        with self.meter.timed("wait"):
            self.rows.drain()
        self._update_times()

    def _put_nll_and_kl(self, logits: Logits, batch: slice, target: BatchTarget, *, kl: bool) -> None:
        """Store captured tokens' negative log-likelihoods (NaN without logits) and, with `kl`, KL(base || adapted)."""
        last = self.recorder.passes[-1]
        last_logits = logits[last.name]
        if last_logits is None:
            target.put_values("tokens/nll", torch.full((len(target.flat),), torch.nan))
            return
        target.put_values("tokens/nll", self._nll(last_logits, batch))
        if kl and last.name == "adapted":
            with self.meter.timed("forward"):
                base = self._logits(logits, Pass("base", None), batch)
            flat = torch.from_numpy(target.flat).to(last_logits.device)
            target.put_values(f"adapters/{last.adapter}/kl", kl_divergence(base, last_logits, flat))

    def _put_changes(self, logits: Logits, batch: slice, target: BatchTarget) -> None:
        """Store how each adapter changes the next token's distribution after a batch's captured tokens, and KL."""
        n_logits = self.layout.spec.n_vocabulary
        first, n_tokens = _token_range(self.layout.plan, batch)
        base = self._logits(logits, Pass("base", None), batch)
        if base.shape[-1] != n_logits:
            raise CaptureError(
                f"a pass has {base.shape[-1]} logits at each position, where an earlier one had {n_logits}, so that "
                "ids of next tokens aren't sure; capture with `--changes none`"
            )
        drawn = draw_uniforms(self.layout.plan.seed, first, n_tokens)
        flat, uniforms = (torch.from_numpy(values).to(base.device) for values in (target.flat, drawn))
        base_nll = self._nll(base, batch)
        for adapter in self.recorder.adapters:
            adapted = self._logits(logits, Pass("adapted", adapter), batch)
            values = next_token_changes(base, adapted, flat, uniforms)
            values |= {"base_nll": base_nll, "adapted_nll": self._nll(adapted, batch)}
            target.put_values(f"adapters/{adapter}/kl", values.pop("kl"))
            for name, array in values.items():
                target.put_values(f"adapters/{adapter}/changes/{name}", array)
            del adapted  # before there is another
        self.change_tokens += n_tokens
        self.change_passes += 1 + len(self.recorder.adapters) - len(self.recorder.passes)  # the others are recorded
        if self.device.type == "cuda":  # else only the launches would be timed
            torch.cuda.synchronize(self.device)

    def _logits(self, logits: Logits, pass_: Pass, batch: slice) -> torch.Tensor:
        """Return the logits of a pass over a batch, from one more pass without recording unless they are there."""
        known = logits.get(pass_.name)
        if known is None:
            with pass_.enabled(self.model):
                known = forward(self.model, self.layout.samples[batch], self.device)
        assert known is not None
        return known

    def _nll(self, logits: torch.Tensor, batch: slice) -> torch.Tensor:
        """Return the negative log-likelihoods of a batch's captured tokens, in nats, float32 (token,)."""
        return negative_log_likelihood(logits, self.layout.samples[batch], self.layout.plan.positions[batch])

    def _ablate(self, adapted: torch.Tensor, samples: Sequence[EncodedSample], target: BatchTarget) -> None:
        """Run the model without each part of the adapter in turn, and store KL(adapted || without) of every token."""
        last = self.recorder.passes[-1]
        flat = torch.from_numpy(target.flat).to(adapted.device)
        with last.enabled(self.model):
            for column, layers in enumerate(self.parts):
                with self.meter.timed("ablate"):
                    with disabled_adapters(layers):
                        without = forward(self.model, samples, self.device)
                    assert without is not None
                    target.put_values(
                        f"adapters/{last.adapter}/ablation", kl_divergence(adapted, without, flat), column
                    )
                    del without  # before there is another
                    if self.device.type == "cuda":  # else only the launches would be timed
                        torch.cuda.synchronize(self.device)
                self.ablations += 1
                if self.progress is not None:
                    now = (self.rows.stored_bytes, self.meter.bottleneck())
                    self.progress(CaptureProgress("ablate", self.ablations, self.n_ablations, "passes", *now))

    def _update_times(self) -> None:
        """Copy the writing threads' seconds (encoding and disk) to the meter of stages."""
        self.meter.seconds["encode"] = self.rows.seconds_encode
        self.meter.seconds["write"] = self.rows.seconds_write


def _token_range(plan: TokenPlan, batch: slice) -> tuple[int, int]:
    """Return (first captured token, number of captured tokens) of a batch on the run's token axis."""
    return int(plan.starts[batch.start]), int(plan.starts[batch.stop] - plan.starts[batch.start])


def _padded_shape(samples: Sequence[EncodedSample]) -> tuple[int, int]:
    """Return (sequences, positions) of the padded batch that these samples make."""
    return len(samples), max(len(sample.token_ids) for sample in samples)
