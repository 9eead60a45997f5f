"""Null adapters: an adapter that is turned at random in every layer, and what it does to outputs and predictions.

A null has the adapter's size, rank and layers, and another direction: what it does as well, the size alone does.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64
from peft.tuners.lora import Embedding
from peft.tuners.lora.layer import Conv1d, Conv2d, Conv3d, LoraLayer, MultiheadAttention, ParamWrapper

from lorascope.stores.format.tables import NULL_COLUMNS

from ..buffers.target import empty_target, flat_index
from ..errors import CaptureError
from ..models.components import adapted_modules
from ..models.device import Ranks, is_offloaded
from ..models.model import is_causal
from ..models.passes import Pass
from ..samples.encoded import PROBE_TOKENS, EncodedSample, plan_batches
from .forward import forward, kl_divergence, negative_log_likelihood
from .hooks import Recorder
from .importance import choose_samples
from .layout import Layout
from .progress import Report, counting
from .reduce import Reduced

Weights = Sequence[torch.Tensor]
"""B of every layer of an adapter."""
STREAM = 4
"""Second word of the key of the nulls' random numbers, so that they differ from others of the same seed."""


def turn(b: np.ndarray, rng: np.random.Generator) -> Float64[np.ndarray, "feature rank"]:
    """Return U R, where b (feature, rank) is Q R, and U has random orthonormal columns instead of Q's.

    Then (U R)^T U R = R^T R = b^T b. U is uniformly distributed (Mezzadri 2007, How to generate random matrices from
    the classical compact groups, section 5).
    """
    r = np.linalg.qr(b, mode="r")
    u, signs = np.linalg.qr(rng.standard_normal((len(b), len(r))))
    return np.asarray(u * np.sign(np.diagonal(signs)) @ r)


def require_turnable(model: Any, adapters: Sequence[str]) -> None:
    """Raise ValueError if the model has no logits or offloaded weights, or an adapter is more than B A in a layer."""
    problem = "" if is_causal(model) else f"{type(model.get_base_model()).__name__} doesn't predict the next token"
    problem = problem or "some of the model's weights are offloaded" * is_offloaded(model)
    others = Conv1d | Conv2d | Conv3d | MultiheadAttention | ParamWrapper
    for adapter in adapters:
        for path, (_, module) in adapted_modules(model, adapter).items():
            is_plain = isinstance(module, LoraLayer) and not isinstance(module, others)
            if not is_plain or module.lora_variant.get(adapter) or module.lora_bias.get(adapter):
                problem = problem or f"adapter {adapter!r} changes {path!r} by more than a plain B A"
    if problem:
        raise ValueError(f"{problem}, so that no null adapters can be measured; leave `null_adapters` out")


def all_nulls(
    layout: Layout, model: Any, device: torch.device, ranks: Ranks, progress: Report, *, n: int, batch_tokens: int
) -> dict[str, np.ndarray]:
    """Return path in the run -> values (sample, variant) of each adapter and n nulls of it; ranks share the batches.

    Up to 32 samples are read, others have NaN. Raises CaptureError if a value isn't finite.
    """
    seed, n_samples, report = layout.plan.seed, len(layout.samples), counting(progress, "null adapters", "passes")
    chosen = choose_samples(n_samples, seed)
    samples, values = [layout.samples[number] for number in chosen], dict[str, np.ndarray]()
    for adapter in layout.components:
        variants = _variants(model, adapter, n, seed)

        def work(
            own: Sequence[EncodedSample], adapter: str = adapter, variants: Sequence[Weights] = variants
        ) -> np.ndarray:
            """Return the values (sample, variant, column) of samples."""
            batches, blocks = _batches(own, batch_tokens), list[np.ndarray]()
            for batch in batches:
                rows = list[np.ndarray]()
                for row in _measure(model, own[batch], device, adapter, layout, variants):
                    rows.append(row)
                    report(len(blocks) * len(variants) + len(rows), len(batches) * len(variants))
                blocks.append(np.stack(rows, axis=1))
            return np.concatenate(blocks)

        measured = np.concatenate(ranks.map_batches(samples, _batches(samples, batch_tokens), work))
        if not np.isfinite(measured).all():
            raise CaptureError(
                f"adapter {adapter!r} or a null of it gives numbers that aren't finite; in float16 they overflow, so "
                "load the model in bfloat16 or float32, or leave `null_adapters` out"
            )
        for column, by_sample in zip(NULL_COLUMNS, np.moveaxis(measured, -1, 0), strict=True):
            whole = np.full((n_samples, len(variants)), np.nan, np.float32)
            whole[chosen] = by_sample
            values[f"adapters/{adapter}/nulls/{column.name}"] = whole
    return values


def _batches(samples: Sequence[EncodedSample], batch_tokens: int) -> list[slice]:
    """Return slices of samples, one for each batch."""
    return plan_batches([len(sample.token_ids) for sample in samples], batch_tokens=batch_tokens)


def _variants(model: Any, adapter: str, n: int, seed: int) -> list[Weights]:
    """Return B of each layer of an adapter, and of n nulls of it, whose numbers from 1 on are part of their seeds."""
    modules = [module for _, module in adapted_modules(model, adapter).values()]
    own = [m.lora_embedding_B[adapter] if isinstance(m, Embedding) else m.lora_B[adapter].weight for m in modules]
    variants: list[Weights] = [own]
    for number in range(1, n + 1):
        rngs = (np.random.default_rng([seed, STREAM, number, place]) for place in range(len(own)))
        turned = (turn(b.detach().double().cpu().numpy(), rng) for b, rng in zip(own, rngs, strict=True))
        variants.append([torch.tensor(each).to(b) for each, b in zip(turned, own, strict=True)])
    return variants


def _measure(
    model: Any,
    samples: Sequence[EncodedSample],
    device: torch.device,
    adapter: str,
    layout: Layout,
    variants: Sequence[Weights],
) -> Iterator[np.ndarray]:
    """Yield `NULL_COLUMNS` (sample, column) of a batch for each variant of B; the first is the model's own."""
    lengths, targets = [len(s.token_ids) for s in samples], [np.flatnonzero(s.is_target) for s in samples]
    base, adapted = _logits(model, Pass("base", None), samples, device), Pass("adapted", adapter)
    flat = torch.from_numpy(flat_index([*map(np.arange, lengths)], base.shape[1])).to(base.device)
    base_nll, components = negative_log_likelihood(base, samples, targets), {adapter: layout.components[adapter]}
    js = torch.zeros(len(flat), dtype=torch.float64, device=base.device)

    def add(target: Any, index: int, name: str, reduced: Reduced) -> None:
        """Add a component's js by token."""
        js.add_(reduced.js.to(js))

    for weights in variants:
        js.zero_()
        with _replaced(variants[0], weights):
            recorder = Recorder(components, stream=layout.spec.stream, keep_states=False, reducer=add)
            with recorder.attached():
                for pass_ in recorder.passes:
                    with recorder.recording(empty_target(lengths, PROBE_TOKENS), pass_):
                        logits = _logits(model, pass_, samples, device)
            if adapted not in recorder.passes:
                logits = _logits(model, adapted, samples, device)
        kl, change = kl_divergence(base, logits, flat), negative_log_likelihood(logits, samples, targets) - base_nll
        by_column = (js, lengths), (kl, lengths), (change, [*map(len, targets)])
        means = [[part.double().mean() for part in torch.split(tokens, counts)] for tokens, counts in by_column]
        yield torch.tensor(means, dtype=torch.float64).numpy().T


def _logits(model: Any, pass_: Pass, samples: Sequence[EncodedSample], device: torch.device) -> torch.Tensor:
    """Return the logits of one pass over a batch."""
    with pass_.enabled(model):
        logits = forward(model, samples, device)
    assert logits is not None
    return logits


@contextmanager
def _replaced(parameters: Weights, values: Weights) -> Iterator[None]:
    """Let parameters have other values within the context; afterwards they have their own memory again."""
    before = [parameter.data for parameter in parameters]
    try:
        for parameter, value in zip(parameters, values, strict=True):
            parameter.data = value.data
        yield
    finally:
        for parameter, value in zip(parameters, before, strict=True):
            parameter.data = value
