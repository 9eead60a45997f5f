"""MIUB of a model as it stands, in memory: one pass over a few samples, of which nothing is stored."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import numpy as np
import torch

from ..adapters.components import LoraComponent, find_components
from ..adapters.passes import evaluating
from ..buffers.target import BatchTarget
from ..errors import CaptureError
from ..models.device import input_device
from ..models.model import is_causal
from ..samples.batches import pad, plan_batches
from ..samples.encode import EncodedSample
from .hooks import Recorder
from .logits import negative_log_likelihood
from .reduce import other_threads, reduce_tokens

__all__ = ["MeasuredMiub", "measure_miub"]

PROVED_EVERY = 64
"""Tokens of which one is compared with base + delta, as in a capture on a CPU."""


class MeasuredMiub(NamedTuple):
    """MIUB of a model as it stands, in nats."""

    miub: float
    """Mean over samples of the sum over components of the mean over tokens; NaN where base or delta isn't finite."""
    by_layer: Mapping[int, float]
    """Layer -> its components' part of it; those outside of the layers are in no part."""
    by_kind: Mapping[str, float]
    """Kind of component -> its part."""
    ce: float | None
    """Mean over samples of the cross-entropy of their targets with the adapter, nats per token; None of an encoder."""


@torch.no_grad()
def measure_miub(model: Any, samples: Sequence[EncodedSample], *, batch_tokens: int = 1024) -> MeasuredMiub:
    """MIUB of a `PeftModel`'s active adapter over all tokens of these samples, in nats, its parts and their CE.

    The model is afterwards as it was: training modes, gradients, and what hangs on its modules. It runs as it is, in
    the types and under the autocast that it trains in.

    Raises
    ------
    AdapterError, CaptureError
        See `MiubCallback`.
    """
    adapter = str(model.active_adapter)
    components = find_components(model, adapter)
    by_length = sorted(samples, key=lambda sample: len(sample.token_ids))  # little padding
    batches = plan_batches([len(sample.token_ids) for sample in by_length], batch_tokens=batch_tokens)
    found: dict[int, torch.Tensor] = {}
    js, ce = [], []
    with evaluating(model), other_threads() or nullcontext() as threads:

        def take(index: int, adapter: str, base: torch.Tensor, delta: torch.Tensor) -> None:
            found[index] = reduce_tokens(base, delta, threads=threads).js

        recorder = Recorder(model, {adapter: components}, keep_states=False, reducer=take)
        (pass_,) = recorder.passes
        with recorder.attached(), pass_.enabled(model):
            for part in (by_length[batch] for batch in batches):
                found.clear()
                try:
                    with recorder.recording(_target(part), pass_):
                        output = _forward(model, part)
                except CaptureError:
                    # A js that is NaN is no fault of the measurement: the training has diverged.
                    if len(found) < len(components) or not any(bool(values.isnan().any()) for values in found.values()):
                        raise
                own = torch.stack([found[index].to(found[0].device) for index in range(len(components))])
                js.append(_sample_means(own.double().cpu().numpy(), [len(sample.token_ids) for sample in part]))
                if is_causal(model):
                    ce.append(_cross_entropies(output.logits, part))
    return _reduced(components, np.concatenate(js, axis=1), float(np.concatenate(ce).mean()) if ce else None)


def _forward(model: Any, samples: Sequence[EncodedSample]) -> Any:
    """One pass. Not in inference mode: what a model keeps of it must be of use to the training afterwards."""
    input_ids, attention_mask = (tensor.to(input_device(model)) for tensor in pad(samples))
    return model(input_ids=input_ids, attention_mask=attention_mask)


def _target(samples: Sequence[EncodedSample]) -> BatchTarget:
    """Takes every token that isn't padding, and stores nothing."""
    width = max(len(sample.token_ids) for sample in samples)
    flat = np.concatenate([row * width + np.arange(len(sample.token_ids)) for row, sample in enumerate(samples)])
    return BatchTarget((len(samples), width), flat, np.arange(len(flat)) % PROVED_EVERY == 0, ())


def _sample_means(js: np.ndarray, lengths: Sequence[int]) -> np.ndarray:
    """Mean over each sample's tokens, float64 (component, sample), of js (component, token)."""
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    means: np.ndarray = np.add.reduceat(js, starts, axis=1) / np.asarray(lengths)
    return means


def _cross_entropies(logits: torch.Tensor, samples: Sequence[EncodedSample]) -> np.ndarray:
    """Mean over each sample's target tokens of their negative log-likelihood, nats, float64 (sample,)."""
    positions = [np.flatnonzero(sample.is_target) for sample in samples]
    flat = np.concatenate([row * logits.shape[1] + places for row, places in enumerate(positions)])
    ids = np.concatenate([sample.token_ids[places] for sample, places in zip(samples, positions, strict=True)])
    tensors = (torch.from_numpy(values).to(logits.device) for values in (flat, ids, np.concatenate(positions)))
    nll = negative_log_likelihood(logits, *tensors).double().cpu().numpy()
    (means,) = _sample_means(nll[None], [len(places) for places in positions])
    return np.asarray(means)


def _reduced(components: Sequence[LoraComponent], by_sample: np.ndarray, ce: float | None) -> MeasuredMiub:
    """MIUB and its parts, from js (component, sample)."""
    by_layer: dict[int, float] = {}
    by_kind: dict[str, float] = {}
    for component, js in zip(components, by_sample.mean(axis=1).tolist(), strict=True):
        by_kind[component.kind] = by_kind.get(component.kind, 0.0) + js
        if component.layer >= 0:
            by_layer[component.layer] = by_layer.get(component.layer, 0.0) + js
    return MeasuredMiub(float(by_sample.sum(axis=0).mean()), by_layer, by_kind, ce)
