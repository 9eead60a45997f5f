"""The pass that captures states: batch after batch, hooks on, every row handed to the writer when it is full."""

import math
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch

from ..buffers.rows import RowQueue
from ..buffers.target import BatchTarget, Meter, flat_places
from ..models.passes import Pass, silenced
from ..samples.encoded import EncodedSample
from .forward import forward, forward_seconds, kl_divergence, negative_log_likelihood
from .hooks import Recorder
from .layout import TokenPlan
from .progress import CaptureProgress, Report

_BATCHES_A_BARE_PASS = 64
"""Batches of which one is passed again without hooks, where the overhead is measured: there it occurs."""
_MOST_BARE_PASSES = 3
"""Most batches that are passed again, however many there are."""


class Streamed(NamedTuple):
    """Measurements of a stream of batches, and whether it went to its end."""

    measured: dict[str, Any]
    """Numbers that a run keeps, as JSON values: seconds from the first batch to the last row on the disk, in all (bare
    passes left out) and by stage; rows and bytes; of an ablation `ablation_passes`, whose time is the stage `ablate`;
    and, where it was asked for, `bare_seconds` and `bare_tokens` of bare passes, taken in between, and `overhead`, the
    time but for the ablation's over theirs, token by token, NaN where there were none."""
    tokens: int
    """Tokens that passed, padding included; batches without a token of a wanted row don't."""
    stopped: bool
    """Whether it was stopped: rows that had been begun are written, others aren't."""


def stream_states(
    model: Any,
    recorder: Recorder,
    samples: Sequence[EncodedSample],
    plan: TokenPlan,
    batches: Sequence[slice],
    rows: RowQueue,
    *,
    device: torch.device,
    kl_batches: np.ndarray | None = None,
    parts: Sequence[Sequence[Any]] = (),
    measure_overhead: bool = False,
    stop: Callable[[], bool] = lambda: False,
    progress: Report = None,
) -> Streamed:
    """Run every batch that has tokens of wanted rows through the model, and its states into `rows`.

    Parameters
    ----------
    kl_batches
        Bool (batch,): those whose KL of base and adapted logits is measured, at the cost of a pass without the adapter
        unless the recorder makes one anyway.
    parts
        PEFT's layers of each part of the adapter that is left out in turn in the plan's `ablate_batches`, at the cost
        of a pass for each, with hooks that record nothing; a model without logits has none.
    measure_overhead
        Whether a few batches pass once more without hooks.
    stop
        Asked before each batch. Once it says so, rows that aren't begun are no longer wanted: the batches with the
        missing tokens of those that are still pass, and then it returns.
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
    passes = recorder.passes
    todo = [index for index, batch in enumerate(batches) if rows.wants(*_tokens(plan, batch))]
    n_ablations = len(parts) * int(plan.ablate_batches[todo].sum())
    stream = _Stream(model, recorder, samples, plan, rows, device, parts, n_ablations, progress)
    # In parts of about equal length; after each a bare pass may be measured.
    n_parts = min(_MOST_BARE_PASSES if measure_overhead else 1, -(-len(todo) // _BATCHES_A_BARE_PASS))
    bounds = [len(todo) * part // n_parts for part in range(n_parts + 1)] if n_parts else []
    stopped = False
    start = time.perf_counter()
    for part in (todo[first:last] for first, last in pairwise(bounds)):
        # Where a stream has several passes, each of them switches the adapters.
        with recorder.attached(), passes[0].enabled(model) if len(passes) == 1 else nullcontext():
            for index in part:
                if not stopped and stop():
                    stopped = True
                    rows.begin_no_more()
                first, n_tokens = _tokens(plan, batches[index])
                if rows.wants(first, n_tokens):
                    kl = kl_batches is not None and bool(kl_batches[index])
                    stream.capture(batches[index], kl=kl, ablate=n_ablations > 0 and bool(plan.ablate_batches[index]))
                    if progress is not None:
                        now = (rows.stored_bytes, stream.meter.bottleneck())
                        progress(CaptureProgress("capture", first + n_tokens, plan.n_tokens, "token", *now))
        if measure_overhead and not stopped:
            stream.pass_bare(batches[part[len(part) // 2]])
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
    if parts:
        measured["ablation_passes"] = stream.ablations
    if measure_overhead:
        bare = stream.bare_seconds / stream.bare_tokens if stream.bare_tokens else math.nan
        own = seconds - stream.meter.seconds["ablate"]
        measured["overhead"] = own / stream.tokens / bare if stream.tokens else math.nan
        measured |= {"bare_seconds": stream.bare_seconds, "bare_tokens": stream.bare_tokens}
    return Streamed(measured, stream.tokens, stopped)


@dataclass(slots=True)
class _Stream:
    """A stream of batches under way."""

    model: Any
    recorder: Recorder
    samples: Sequence[EncodedSample]
    plan: TokenPlan
    rows: RowQueue
    device: torch.device
    parts: Sequence[Sequence[Any]]
    n_ablations: int
    """Passes without a part, in all."""
    progress: Report
    ablations: int = 0
    """Those that are done."""
    meter: Meter = field(default_factory=Meter)
    tokens: int = 0
    seconds_apart: float = 0.0
    """Spent on bare passes."""
    bare_seconds: float = 0.0
    bare_tokens: int = 0

    def capture(self, batch: slice, *, kl: bool, ablate: bool) -> None:
        """One batch: all of its passes into the rows of its tokens."""
        with self.meter.timed("wait"):
            segments = self.rows.take(*_tokens(self.plan, batch))
        samples, positions = self.samples[batch], self.plan.positions[batch]
        shape = _shape(samples)
        measured = self.plan.measured[self.plan.starts[batch.start] : self.plan.starts[batch.stop]]
        target = BatchTarget(shape, flat_places(positions, shape[1]), measured, segments, self.rows.copier, self.meter)
        logits: dict[str, torch.Tensor | None] = {}
        for pass_ in self.recorder.passes:
            # Walking over all modules to switch them takes as long as a small batch on a fast device.
            switched = pass_.enabled(self.model) if len(self.recorder.passes) > 1 else nullcontext()
            with switched, self.meter.timed("forward"), self.recorder.recording(target, pass_):
                logits[pass_.name] = forward(self.model, samples, self.device)
        with self.meter.timed("logits"):
            self._put_logits(logits, samples, positions, target, kl=kl)
        last_logits = logits.pop(self.recorder.passes[-1].name)
        logits.clear()  # of a base pass, before there are others
        if ablate and last_logits is not None:
            self._ablate(last_logits, samples, target)
        target.flush()
        self.rows.put()
        self.tokens += math.prod(shape)
        self._take_times()

    def pass_bare(self, batch: slice) -> None:
        """Pass the batch once more without hooks, when no writer is at work; waiting for that is capture's own time."""
        self.drain()
        start = time.perf_counter()
        samples = self.samples[batch]
        for pass_ in self.recorder.passes:
            with pass_.enabled(self.model):
                self.bare_seconds += forward_seconds(self.model, samples, self.device)
        self.bare_tokens += math.prod(_shape(samples))
        self.seconds_apart += time.perf_counter() - start

    def drain(self) -> None:
        """Wait until every full row is on the disk."""
        with self.meter.timed("wait"):
            self.rows.drain()
        self._take_times()

    def _put_logits(
        self,
        logits: dict[str, torch.Tensor | None],
        samples: Sequence[EncodedSample],
        positions: Sequence[np.ndarray],
        target: BatchTarget,
        *,
        kl: bool,
    ) -> None:
        """The nll of every captured token, NaN where the model has no logits; and KL, where it is asked for."""
        last = self.recorder.passes[-1]
        last_logits = logits[last.name]
        if last_logits is None:
            target.put_values("tokens/nll", torch.full((len(target.flat),), torch.nan))
            return
        target.put_values("tokens/nll", negative_log_likelihood(last_logits, samples, positions))
        if kl and last.name == "adapted":
            base = logits["base"] if "base" in logits else self._base_logits(samples)
            assert base is not None
            flat = torch.from_numpy(target.flat).to(last_logits.device)
            target.put_values(f"adapters/{last.adapter}/kl", kl_divergence(base, last_logits, flat))

    def _ablate(self, adapted: torch.Tensor, samples: Sequence[EncodedSample], target: BatchTarget) -> None:
        """KL(adapted || without a part) of every captured token, for each part in turn; no pass is recorded."""
        last = self.recorder.passes[-1]
        flat = torch.from_numpy(target.flat).to(adapted.device)
        with last.enabled(self.model):
            for column, layers in enumerate(self.parts):
                with self.meter.timed("ablate"):
                    with silenced(layers):
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
                    self.progress(CaptureProgress("ablate", self.ablations, self.n_ablations, "pass", *now))

    def _base_logits(self, samples: Sequence[EncodedSample]) -> torch.Tensor | None:
        with Pass("base", None).enabled(self.model), self.meter.timed("forward"):
            return forward(self.model, samples, self.device)

    def _take_times(self) -> None:
        self.meter.seconds["encode"] = self.rows.seconds_encode
        self.meter.seconds["write"] = self.rows.seconds_write


def _tokens(plan: TokenPlan, batch: slice) -> tuple[int, int]:
    """First captured token of a batch, and how many it has."""
    return int(plan.starts[batch.start]), int(plan.starts[batch.stop] - plan.starts[batch.start])


def _shape(samples: Sequence[EncodedSample]) -> tuple[int, int]:
    """(sequences, positions) of the padded batch."""
    return len(samples), max(len(sample.token_ids) for sample in samples)
