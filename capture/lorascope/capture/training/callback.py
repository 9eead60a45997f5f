"""MIUB (js summed over components) while an adapter trains: a measurement in memory, and a callback to log it.

js is the Jensen-Shannon divergence of softmax(base) and softmax(base + delta), in nats.
"""

import sys
import time
from collections.abc import Sequence
from types import FrameType
from typing import Any

import numpy as np
import torch
from accelerate.utils import extract_model_from_parallel  # type: ignore[import-untyped]  # it has no stubs
from transformers import Trainer, TrainerCallback
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled

from ..buffers.target import BatchTarget, flat_index
from ..errors import CaptureError
from ..models.components import find_components
from ..models.device import input_device
from ..models.model import context_length, is_causal
from ..models.passes import evaluating
from ..models.preflight import require_adapter
from ..recording.forward import negative_log_likelihood
from ..recording.hooks import Recorder
from ..recording.reduce import Reduced
from ..samples.encode import encode_items
from ..samples.encoded import EncodedSample, pad, plan_batches
from ..samples.items import Item
from ..settling.data import collect_items

LAYER, KIND = "miub_layer_", "miub_kind_"
"""Beginnings of the names of MIUB's parts in a log."""
PROVED_EVERY = 64
"""One token in this many is compared with base + delta, as in a capture on a CPU."""


class MiubCallback(TrainerCallback):
    """Trainer callback that logs MIUB (summed JS divergence, nats) every `every` steps; the training isn't changed.

    It logs, in nats: `miub`, `miub_layer_{i}`, `miub_kind_{kind}`, and `ce` per token of the same samples. It also logs
    `miub_seconds`, the wall time of the measurement, and `miub_share`, the share of the training's time that all
    measurements took since it began or was resumed. The numbers go to `state.log_history` and to the loggers in
    `report_to`: at the start, after every step divisible by `every`, and after the last step, unless something stops
    the training early.

    Parameters
    ----------
    items
        Items to measure on, which the training shouldn't see: any source of `read_items`, a list of paths, items, or
        encoded samples. Each costs a forward pass, so a few of them suffice.
    tokenizer
        The model's fast tokenizer; needed unless items are encoded samples.
    every
        Number of optimiser steps between measurements.
    max_length
        Largest number of tokens in a sample; None for the model's context.
    window_tokens
        Number of tokens in each window of plain text.
    batch_tokens
        Largest number of tokens in a batch, with padding; a longer sample has its own batch.

    Raises
    ------
    ValueError
        If `every` is below 1, or there are no items or no tokenizer for them; and when training begins, if an item
        can't be encoded (see `encode_items`), `max_length` isn't given and the model states no context, or FSDP of
        version 1 or ZeRO-3 shards its weights.
    AdapterError
        When training begins, if the model has no LoRA adapter that can be measured (a `PeftModel`, one active adapter).
    CaptureError
        When it measures, if a hook doesn't fire once per pass or a layer's output isn't its base plus delta.

    Notes
    -----
    MIUB is the paper's eq. 9, as in `analyze.miub`, for the current adapter without dropout: the mean over all tokens
    of a sample. At the start it is 0, unless the adapter's init changed the base; then base is the frozen rest.
    Under autocast, base is the layer's output in the lower precision. If the training diverges, values are NaN. With
    several processes, each measures the same samples: on its own copy of the model, or all together on a model whose
    weights FSDP2 shards or tensor parallel splits.

    References
    ----------
    Zhang et al., arXiv 2501.03152, eq. 9.
    """

    def __init__(
        self,
        items: Any,
        tokenizer: Any = None,
        *,
        every: int = 50,
        max_length: int | None = None,
        window_tokens: int = 512,
        batch_tokens: int = 1024,
    ) -> None:
        """Check the arguments and read the items; they are encoded when the training begins."""
        if every < 1:
            raise ValueError(f"`every` is {every!r}; give at least 1")
        if isinstance(items, Sequence) and not items:
            raise ValueError("`items` is empty; give at least one to measure MIUB on")
        are_encoded = isinstance(items, Sequence) and all(isinstance(item, EncodedSample) for item in items)
        if tokenizer is None and not are_encoded:
            raise ValueError("`tokenizer` is None, but `items` aren't encoded; give the model's fast tokenizer")
        self.samples: Sequence[EncodedSample] = ()
        """The samples to measure on; empty until training begins."""
        self.seconds = 0.0
        """Seconds of wall time that the measurements of this training took."""
        self._items: Sequence[Item | EncodedSample] = items if are_encoded else collect_items(items)
        self._tokenizer = tokenizer
        self._every = every
        self._max_length = max_length
        self._window_tokens = window_tokens
        self._batch_tokens = batch_tokens
        self._trainer: Trainer | None = None
        self._began = 0.0
        self._is_start = False

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Encode the samples, and raise an error before the first step if MIUB can't be measured."""
        self._trainer = _calling_trainer()
        is_zero3 = is_deepspeed_zero3_enabled()  # type: ignore[no-untyped-call]  # transformers leaves it untyped
        if is_zero3 or (self._trainer.is_fsdp_enabled and not self._trainer.accelerator.is_fsdp2):
            kind = "DeepSpeed's ZeRO-3" if is_zero3 else "FSDP of version 1"
            raise ValueError(
                f"the model's weights are sharded over processes by {kind}, which hides the layers; MIUB can be "
                "measured under FSDP2, tensor parallel and DDP, or afterwards with `lorascope capture`"
            )
        plain = _unwrap_model(model)
        require_adapter(plain, allow_zero=True)
        self.samples = self._encode(plain.get_base_model())
        self.seconds, self._began, self._is_start = 0.0, time.perf_counter(), True

    def on_epoch_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Measure and log MIUB before the first step, unless a resumed training did that before.

        Every logger is ready only now.
        """
        if self._is_start and not any("miub" in entry for entry in state.log_history):
            self._measure(control, model)
        self._is_start = False

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Measure and log MIUB after every `every` optimiser steps, and after the last one."""
        if state.global_step % self._every == 0 or state.global_step == state.max_steps:
            self._measure(control, model)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Drop the reference to the Trainer."""
        self._trainer = None

    def _encode(self, model: Any) -> Sequence[EncodedSample]:
        """Return the samples to measure on; items are encoded for `max_length` or the model's context."""
        encoded = [item for item in self._items if isinstance(item, EncodedSample)]
        items = [item for item in self._items if not isinstance(item, EncodedSample)]
        if encoded:
            return encoded
        max_length = self._max_length or stated_context(model)
        return encode_items(items, self._tokenizer, max_length=max_length, window_tokens=self._window_tokens)

    def _measure(self, control: Any, model: Any) -> None:
        """Measure MIUB of the model's adapter, and log it with the seconds that the measurement took."""
        assert self._trainer is not None
        start = _synchronized_time()
        logs = measure_miub(_unwrap_model(model), self.samples, batch_tokens=self._batch_tokens)
        now = _synchronized_time()
        self.seconds += now - start
        logs["miub_seconds"] = now - start
        if not self._is_start:  # of no training so far
            logs["miub_share"] = self.seconds / (now - self._began)
        should_log = control.should_log
        # Not the method of a subclass: TRL's adds its running means to every log, and resets them.
        Trainer.log(self._trainer, logs)
        control.should_log = should_log  # a log resets it, although the loss of this step isn't logged yet


def stated_context(model: Any) -> int:
    """Return the model's context in tokens; raise ValueError if its configuration doesn't state it."""
    length = context_length(model)
    if length is None:
        raise ValueError(f"the model is a {type(model).__name__}, which states no context; give `max_length`")
    return length


def _unwrap_model(model: Any) -> Any:
    """Return the model without wrappers for distribution and `torch.compile`; its autocast stays."""
    return extract_model_from_parallel(model, keep_torch_compile=False)


def _synchronized_time() -> float:
    """Return the clock's time in seconds, after the GPU has finished its work."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def _calling_trainer() -> Trainer:
    """Return the Trainer that calls the callback, found on the call stack; raise RuntimeError without one.

    A callback doesn't get it as an argument, but only `Trainer.log` reaches both `log_history` and every logger: values
    that `on_log` adds to a log are too late for earlier callbacks, and the loggers of `report_to` come first.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if isinstance(caller := frame.f_locals.get("self"), Trainer):
            return caller
        frame = frame.f_back
    raise RuntimeError("`MiubCallback` was called by something else than a `transformers.Trainer`; give it to one")


@torch.no_grad()
def measure_miub(model: Any, samples: Sequence[EncodedSample], *, batch_tokens: int = 1024) -> dict[str, float]:
    """Measure MIUB (summed JS divergence, nats) of the active adapter; return name -> value, as they are logged.

    It is measured over all tokens of the samples.

    `miub` is the mean over samples of the sum over components of the mean over tokens (NaN if base or delta isn't
    finite). Its parts are `miub_layer_{i}` (without components outside of the layers) and `miub_kind_{kind}`. Unless
    the model is an encoder, `ce` is the mean over samples of the cross-entropy per target token, with the adapter.

    The model's training modes, gradients and hooks are afterwards as before. It runs in the types and under the
    autocast of the training.

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
            """Keep the js of the component with this index, for all tokens of the batch."""
            js_by_component[index] = reduced.js

        recorder = Recorder({adapter: components}, keep_states=False, reducer=take)
        (pass_,) = recorder.passes
        with recorder.attached(), pass_.enabled(model):
            for part in (by_length[batch] for batch in batches):
                js_by_component.clear()
                # Not in inference mode: tensors that the model keeps must be usable in the training afterwards.
                input_ids, attention_mask = (tensor.to(input_device(model)) for tensor in pad(part))
                flat = flat_index([np.arange(len(sample.token_ids)) for sample in part], input_ids.shape[1])
                shape = (len(part), input_ids.shape[1])
                target = BatchTarget(shape, flat, np.arange(len(flat)) % PROVED_EVERY == 0, ())
                try:
                    with recorder.recording(target, pass_):
                        output = model(input_ids=input_ids, attention_mask=attention_mask)
                except CaptureError:
                    # If js is NaN, the measurement isn't wrong: the training has diverged.
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
    """Return the mean of js (component, token) over each sample's tokens, float64 (component, sample)."""
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    means: np.ndarray = np.add.reduceat(js, starts, axis=1) / np.asarray(lengths)
    return means


def _cross_entropies(logits: torch.Tensor, samples: Sequence[EncodedSample]) -> np.ndarray:
    """Return each sample's mean cross-entropy over its target tokens, in nats, float64 (sample,)."""
    positions = [np.flatnonzero(sample.is_target) for sample in samples]
    nll = negative_log_likelihood(logits, samples, positions).double().cpu().numpy()
    (means,) = _sample_means(nll[None], [len(places) for places in positions])
    return np.asarray(means)
