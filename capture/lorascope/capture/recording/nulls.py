"""Null adapters: an adapter that is turned at random in every layer, and what it does to outputs and predictions.

A null has the adapter's size, rank and layers, and another direction: what it does as well, the size alone does.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import product
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
from ..models.device import is_offloaded
from ..models.model import is_causal
from ..models.passes import Pass
from ..models.ranks import Ranks
from ..samples.encoded import PROBE_TOKENS, EncodedSample, plan_batches
from .forward import forward, kl_divergence, negative_log_likelihood
from .hooks import Recorder
from .importance import choose_samples
from .layout import Layout
from .progress import Report, counting

STREAM = 4
"""Second word of the key of the nulls' random numbers."""


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
    chosen, values = choose_samples(len(layout.samples), layout.plan.seed), dict[str, np.ndarray]()
    samples = [layout.samples[number] for number in chosen]
    slices = plan_batches([len(sample.token_ids) for sample in samples], batch_tokens=batch_tokens)
    batches, each = [samples[batch] for batch in slices], [slice(at, at + 1) for at in range(len(slices))]
    for adapter in layout.components:
        variants = _variants(model, adapter, n, layout.plan.seed)
        report = counting(progress, "null adapters", "passes")
        work = partial(_measure, layout, model, device, adapter, variants, report)
        measured = np.concatenate(ranks.map_batches(batches, each, work), axis=1)
        if not np.isfinite(measured).all():
            raise CaptureError(
                f"adapter {adapter!r} or a null of it gives numbers that aren't finite; in float16 they overflow, so "
                "load the model in bfloat16 or float32, or leave `null_adapters` out"
            )
        for column, of_chosen in zip(NULL_COLUMNS, measured, strict=True):
            whole = np.full((len(layout.samples), n + 1), np.nan, np.float32)
            whole[chosen] = of_chosen
            values[f"adapters/{adapter}/nulls/{column.name}"] = whole
    return values


def _variants(model: Any, adapter: str, n: int, seed: int) -> list[list[torch.Tensor]]:
    """Return B of each layer of an adapter, and of n nulls of it, whose numbers from 1 on are part of their seeds.

    Nulls are in host memory.
    """
    modules = [module for _, module in adapted_modules(model, adapter).values()]
    own = [m.lora_embedding_B[adapter] if isinstance(m, Embedding) else m.lora_B[adapter].weight for m in modules]
    variants = [own]
    for number in range(1, n + 1):
        rngs = (np.random.default_rng([seed, STREAM, number, place]) for place in range(len(own)))
        turned = (turn(b.detach().double().cpu().numpy(), rng) for b, rng in zip(own, rngs, strict=True))
        variants.append([torch.tensor(each, dtype=b.dtype) for each, b in zip(turned, own, strict=True)])
    return variants


def _measure(
    layout: Layout,
    model: Any,
    device: torch.device,
    adapter: str,
    variants: Sequence[Sequence[torch.Tensor]],
    report: Callable[[int, int], None],
    batches: Sequence[Sequence[EncodedSample]],
) -> np.ndarray:
    """Return `NULL_COLUMNS` (column, sample, variant) for each variant of B; the first is the model's own."""
    js, adapted, means = list[torch.Tensor](), Pass("adapted", adapter), []
    components = {adapter: layout.components[adapter]}
    options: dict[str, Any] = {"stream": layout.spec.stream, "keep_states": False}
    options["reducer"] = lambda *call: js.append(call[-1].js.to(device, torch.float64))
    for part, weights in product(batches, variants):
        lengths, targets = [len(s.token_ids) for s in part], [np.flatnonzero(s.is_target) for s in part]
        if weights is variants[0]:
            base = _logits(model, Pass("base", None), part, device)
            places = torch.from_numpy(flat_index([*map(np.arange, lengths)], base.shape[1])).to(base.device)
        js.clear()
        with _replaced(variants[0], weights):
            recorder = Recorder(components, **options)  # which looks at B
            with recorder.attached():
                for pass_ in recorder.passes:
                    with recorder.recording(empty_target(lengths, PROBE_TOKENS), pass_):
                        logits = _logits(model, pass_, part, device)
            if adapted not in recorder.passes:
                logits = _logits(model, adapted, part, device)
        nll, base_nll = (negative_log_likelihood(each, part, targets) for each in (logits, base))
        tokens = (torch.stack(js).sum(0), lengths), (kl_divergence(base, logits, places), lengths)
        by_column = (*tokens, (nll - base_nll, [*map(len, targets)]))
        means.append([[float(own.double().mean()) for own in torch.split(each, sizes)] for each, sizes in by_column])
        report(len(means), len(batches) * len(variants))
    n = len(variants)
    return np.concatenate([np.stack(means[at : at + n], axis=-1) for at in range(0, len(means), n)], axis=1)


def _logits(model: Any, pass_: Pass, samples: Sequence[EncodedSample], device: torch.device) -> torch.Tensor:
    """Return the logits of one pass over a batch."""
    with pass_.enabled(model):
        logits = forward(model, samples, device)
    assert logits is not None
    return logits


@contextmanager
def _replaced(parameters: Sequence[torch.Tensor], values: Sequence[torch.Tensor]) -> Iterator[None]:
    """Let parameters have other values within the context; afterwards they have their own memory again."""
    before = [parameter.data for parameter in parameters]
    try:
        for parameter, value in zip(parameters, values, strict=True):
            parameter.data = value.data.to(parameter.device)
        yield
    finally:
        for parameter, value in zip(parameters, before, strict=True):
            parameter.data = value
