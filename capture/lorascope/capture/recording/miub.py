"""MIUB of a model as it stands, in memory: one pass over a few samples, of which nothing is stored."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ..buffers.target import BatchTarget, flat_places
from ..errors import CaptureError
from ..models.components import find_components
from ..models.device import input_device
from ..models.model import is_causal
from ..models.passes import evaluating
from ..samples.batches import pad, plan_batches
from ..samples.encoded import EncodedSample
from .forward import negative_log_likelihood
from .hooks import Recorder
from .reduce import Reduced

LAYER, KIND = "miub_layer_", "miub_kind_"
"""How the names of its parts begin."""
PROVED_EVERY = 64
"""One token in this many is compared with base + delta, as in a capture on a CPU."""


@torch.no_grad()
def measure_miub(model: Any, samples: Sequence[EncodedSample], *, batch_tokens: int = 1024) -> dict[str, float]:
    """MIUB of a `PeftModel`'s active adapter over all tokens of these samples, in nats, as `MiubCallback` logs it.

    That is `miub`, the mean over samples of the sum over components of the mean over tokens (NaN where base or delta
    isn't finite); its parts `miub_layer_{i}` and `miub_kind_{kind}`, components outside of the layers being in none of
    the former; and, unless the model is an encoder, `ce`, the mean over samples of the cross-entropy of their targets
    with the adapter, a token.

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
    js_by_component: dict[int, torch.Tensor] = {}
    js, ce = [], []
    with evaluating(model):

        def take(_: BatchTarget, index: int, adapter: str, reduced: Reduced) -> None:
            js_by_component[index] = reduced.js

        recorder = Recorder(model, {adapter: components}, keep_states=False, reducer=take)
        (pass_,) = recorder.passes
        with recorder.attached(), pass_.enabled(model):
            for part in (by_length[batch] for batch in batches):
                js_by_component.clear()
                # Not in inference mode: what a model keeps of a pass must be of use to the training afterwards.
                input_ids, attention_mask = (tensor.to(input_device(model)) for tensor in pad(part))
                flat = flat_places([np.arange(len(sample.token_ids)) for sample in part], input_ids.shape[1])
                shape = (len(part), input_ids.shape[1])
                target = BatchTarget(shape, flat, np.arange(len(flat)) % PROVED_EVERY == 0, ())
                try:
                    with recorder.recording(target, pass_):
                        output = model(input_ids=input_ids, attention_mask=attention_mask)
                except CaptureError:
                    # A js that is NaN is no fault of the measurement: the training has diverged.
                    is_diverged = any(bool(values.isnan().any()) for values in js_by_component.values())
                    if len(js_by_component) < len(components) or not is_diverged:
                        raise
                in_order = [js_by_component[index].to(js_by_component[0].device) for index in range(len(components))]
                js_of_batch = torch.stack(in_order)
                js.append(_sample_means(js_of_batch.double().cpu().numpy(), [len(sample.token_ids) for sample in part]))
                if is_causal(model):
                    ce.append(_cross_entropies(output.logits, part))
    by_sample = np.concatenate(js, axis=1)
    logs = {"miub": float(by_sample.sum(axis=0).mean())}
    layers = [f"{LAYER}{component.layer}" if component.layer >= 0 else "" for component in components]
    kinds = [f"{KIND}{component.kind}" for component in components]
    for name, mean in zip([*layers, *kinds], 2 * by_sample.mean(axis=1).tolist(), strict=True):
        if name:
            logs[name] = logs.get(name, 0.0) + mean
    return {**logs, "ce": float(np.concatenate(ce).mean())} if ce else logs


def _sample_means(js: np.ndarray, lengths: Sequence[int]) -> np.ndarray:
    """Mean over each sample's tokens, float64 (component, sample), of js (component, token)."""
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    means: np.ndarray = np.add.reduceat(js, starts, axis=1) / np.asarray(lengths)
    return means


def _cross_entropies(logits: torch.Tensor, samples: Sequence[EncodedSample]) -> np.ndarray:
    """Mean over each sample's target tokens of their negative log-likelihood, nats, float64 (sample,)."""
    positions = [np.flatnonzero(sample.is_target) for sample in samples]
    nll = negative_log_likelihood(logits, samples, positions).double().cpu().numpy()
    (means,) = _sample_means(nll[None], [len(places) for places in positions])
    return np.asarray(means)
