"""The pass that captures states: one forward a batch, hooks on, every row handed to the writer when it is full."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch

from .batches import pad
from .encode import EncodedSample
from .hooks import CaptureError, Recorder
from .rows import RowQueue, Segment
from .selection import TokenPlan
from .target import BatchTarget, nowhere

__all__ = ["Progress", "evaluating", "forward_seconds", "probe", "stream_states"]


class Progress(NamedTuple):
    """How far a capture is."""

    stage: str
    """`score`, `score base` or `capture`."""
    done: int
    total: int
    unit: str
    """`choice` for scores, `token` for states."""
    stored_bytes: int = 0
    """Bytes on disk so far."""
    waits_for: str = "forward"
    """What took longer in the last batch: the `forward` pass, or waiting for the `disk`."""


@contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Evaluation mode for every module, checked; afterwards all modes and requires_grad flags are as they were."""
    modes = [(module, module.training) for module in model.modules()]
    gradients = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        model.eval()
        stubborn = [name for name, module in model.named_modules() if module.training]
        if stubborn:
            raise CaptureError(
                f"module {stubborn[0]!r} stays in training mode after `eval()` ({len(stubborn)} such); "
                "dropout would add noise to every delta"
            )
        yield
    finally:
        for module, mode in modes:
            module.training = mode
        for parameter, flag in gradients:
            parameter.requires_grad_(flag)


def probe(model: Any, recorder: Recorder, sample: EncodedSample, device: torch.device) -> dict[str, torch.dtype]:
    """Type of every component's output, from one pass in which each hook must fire exactly once."""
    with recorder.attached(), recorder.recording(nowhere((1, len(sample.token_ids)))):
        _forward(model, [sample], device)
    return dict(recorder.dtypes)


def forward_seconds(model: Any, samples: Sequence[EncodedSample], device: torch.device) -> float:
    """Seconds of one bare forward pass over a batch, no hooks."""
    start = time.perf_counter()
    _forward(model, samples, device)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def stream_states(
    model: Any,
    recorder: Recorder,
    samples: Sequence[EncodedSample],
    plan: TokenPlan,
    batches: Sequence[slice],
    rows: RowQueue,
    *,
    device: torch.device,
    progress: Callable[[Progress], None] | None = None,
) -> list[float]:
    """Run every batch through the model and its states into `rows`; returns seconds by batch, waiting left out.

    Raises
    ------
    CaptureError
        If a hook doesn't fire exactly once, or a layer's output isn't its base plus delta.
    OSError
        If the disk is full or fails.
    """
    seconds = []
    with recorder.attached():
        for batch in batches:
            waited = rows.seconds_waited
            start = time.perf_counter()
            n_tokens = int(plan.starts[batch.stop] - plan.starts[batch.start])
            segments = rows.take(n_tokens)
            _capture_batch(model, recorder, samples[batch], plan, batch, segments, device)
            rows.put()
            waiting = rows.seconds_waited - waited
            seconds.append(time.perf_counter() - start - waiting)
            if progress is not None:
                waits_for = "disk" if waiting > seconds[-1] else "forward"
                done = int(plan.starts[batch.stop])
                progress(Progress("capture", done, plan.n_tokens, "token", rows.stored_bytes, waits_for))
    rows.drain()
    return seconds


def _capture_batch(
    model: Any,
    recorder: Recorder,
    samples: Sequence[EncodedSample],
    plan: TokenPlan,
    batch: slice,
    segments: Sequence[Segment],
    device: torch.device,
) -> None:
    width = max(len(sample.token_ids) for sample in samples)
    positions = plan.positions[batch]
    flat = np.concatenate([index * width + chosen for index, chosen in enumerate(positions)])
    measured = plan.measured[plan.starts[batch.start] : plan.starts[batch.stop]]
    target = BatchTarget((len(samples), width), flat, measured, segments)
    with recorder.recording(target):
        logits = _forward(model, samples, device)
    ids = np.concatenate([sample.token_ids[chosen] for sample, chosen in zip(samples, positions, strict=True)])
    places = torch.from_numpy(flat).to(device)
    nll = _nll(logits, places, torch.from_numpy(ids).to(device), torch.from_numpy(np.concatenate(positions)).to(device))
    for segment in segments:
        segment.buffer.tensors["tokens/nll"][segment.target] = nll[segment.source]


@torch.inference_mode()
def _forward(model: Any, samples: Sequence[EncodedSample], device: torch.device) -> torch.Tensor:
    input_ids, attention_mask = pad(samples)
    output = model(input_ids=input_ids.to(device), attention_mask=attention_mask.to(device), use_cache=False)
    logits: torch.Tensor = output.logits
    return logits


def _nll(logits: torch.Tensor, flat: torch.Tensor, ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Negative log-likelihood of each captured token, nats, float32 on the CPU (token,); NaN at position 0."""
    before = logits.flatten(0, 1)[(flat - 1).clamp(min=0)].float()
    nll = torch.nn.functional.cross_entropy(before, ids, reduction="none")
    return torch.where(positions > 0, nll, torch.nan).cpu()
