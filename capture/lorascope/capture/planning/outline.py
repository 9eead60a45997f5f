"""What a capture would pass and store, settled on a model without numbers, by the steps of `prepare`."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from peft import PeftModel

from lorascope.stores import RunSpec
from lorascope.stores.size import parse_size

from ..adapters.components import find_components
from ..adapters.preflight import Preflight, inspect
from ..buffers.rows import row_spans
from ..config import CaptureConfig
from ..models.model import is_causal
from ..prepare import measures_kl
from ..samples.batches import plan_batches
from ..samples.encode import GENERATED, EncodedSample
from ..samples.selection import plan_tokens
from ..specify import specify
from .estimate import choose_share
from .meta import meta_inputs, output_dtypes
from .probe import padded_tokens

__all__ = ["Outline", "draw_outline"]


class Outline(NamedTuple):
    """A capture as far as it is known without the model's weights."""

    config: CaptureConfig
    """With the tokens that a budget chose."""
    samples: Sequence[EncodedSample]
    """What passes the model; new tokens, if any, as many as there may be."""
    batches: Sequence[slice]
    spans: Sequence[range]
    """Rows that each batch reaches into."""
    spec: RunSpec
    preflight: Preflight
    runs_on_meta: bool
    """Whether a pass on the meta device told output types and calls; else the weights' types stand for them."""
    batch_tokens: tuple[int, ...]
    """Tokens of each batch, padding included."""
    scored_tokens: int
    """Tokens that pass for scores and answers, once with the adapter and, if asked for, once without; 0 for none."""

    @property
    def n_all_tokens(self) -> int:
        """Tokens that pass the model, captured or not; padding left out."""
        return sum(len(sample.token_ids) for sample in self.samples)

    @property
    def passed_tokens(self) -> int:
        """Tokens of all batches, padding included, once for each pass over them."""
        return (2 if self.spec.stream == "pair" else 1) * sum(self.batch_tokens)


def draw_outline(config: CaptureConfig, model: PeftModel, scored: Sequence[EncodedSample]) -> Outline:
    """The outline of a capture of these samples with this model, adapters attached, on the meta device.

    Raises
    ------
    AdapterError
        If something about an adapter would make what is stored wrong.
    StoreError
        If the budget doesn't suffice for one token of each sample.
    ValueError
        If the selection takes nothing of a sample.
    """
    inputs = meta_inputs(model)
    # Whether lora_B is zero was seen in the files.
    preflight = inspect(model, tuple(config.adapters), stream=config.stream, allow_zero=True, probe=inputs)
    components = {
        name: find_components(model, name, stream=config.stream, skip=preflight.skipped) for name in config.adapters
    }
    dtypes = output_dtypes(model, components, inputs)
    samples = [_generated(sample, config.generate) for sample in scored] if config.generate else scored
    lengths = [len(sample.token_ids) for sample in samples]
    common: dict[str, Any] = {
        "n_samples": len(samples),
        "n_choices": sum(len(sample.choices) for sample in samples),
        "kl": measures_kl(config, model),
    }
    if config.budget is not None:
        every = specify(config, components, dtypes, n_tokens=sum(lengths), **common)
        tokens = choose_share(every, lengths, parse_size(config.budget))
        config = dataclasses.replace(config, tokens=tokens, budget=None)
    batches = plan_batches(lengths, batch_tokens=config.batch_tokens)
    chosen = plan_tokens(samples, batches, config.tokens, js_share=1.0, seed=config.seed)
    return Outline(
        config=config,
        samples=samples,
        batches=batches,
        spans=row_spans(chosen.starts, batches),
        spec=specify(config, components, dtypes, n_tokens=chosen.n_tokens, **common),
        preflight=preflight,
        runs_on_meta=inputs is not None,
        batch_tokens=tuple(padded_tokens(lengths[batch]) for batch in batches),
        scored_tokens=sum(_scored_tokens(sample, config) for sample in scored) if is_causal(model) else 0,
    )


def _generated(sample: EncodedSample, n: int) -> EncodedSample:
    """The sample with as many new tokens as it may get, which ones nobody knows yet."""
    prompt = sample.n_context if sample.choices else len(sample.token_ids)
    return dataclasses.replace(
        sample,
        token_ids=np.concatenate([sample.token_ids[:prompt], np.zeros(n, np.int64)]),
        roles=np.concatenate([sample.roles[:prompt], np.full(n, GENERATED, np.uint8)]),
    )


def _scored_tokens(sample: EncodedSample, config: CaptureConfig) -> int:
    """Tokens that pass for a sample's scores: its prompt once, and every choice; for its answer the prompt again."""
    n_models = (2 if config.score_base else 1) if config.score else 0
    if not sample.choices:
        return n_models * len(sample.token_ids)
    answered = sample.n_context + config.answer_tokens if config.answer_tokens else 0
    return n_models * (sample.n_context + sum(len(choice.token_ids) for choice in sample.choices) + answered)
