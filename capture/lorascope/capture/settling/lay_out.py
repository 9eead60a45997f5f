"""The layout of a capture, from its settings, its samples, and a model that may be without numbers."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from lorascope.stores.size import parse_size

from ..config import CaptureConfig
from ..models.components import LoraComponent
from ..models.model import is_causal
from ..models.unembedding import unembedding_kind
from ..models.weights import plain_model
from ..recording.layout import Layout, plan_tokens
from ..samples.encoded import EncodedSample, plan_batches
from .estimate import choose_share
from .run_spec import make_run_spec

CPU_SHARE = 1 / 64
"""Share of tokens whose js is measured and whose sums are checked on a CPU: about 2 % of the forward pass's time."""


def lay_out(
    config: CaptureConfig,
    model: Any,
    samples: Sequence[EncodedSample],
    components: Mapping[str, Sequence[LoraComponent]],
    dtypes: Mapping[str, torch.dtype],
    device: torch.device,
) -> Layout:
    """Batches, tokens and specification of a capture of these samples.

    Parameters
    ----------
    config
        The settings; a budget chooses the tokens.
    model
        A `PeftModel`, on the meta device too.
    samples, components
        The sequences that pass, and adapter -> the components that it changes.
    dtypes
        Type of each component's output, by its path.
    device
        Where the model runs: on a GPU js is measured on all tokens by default.

    Raises
    ------
    StoreError
        If the budget doesn't suffice for a token of each sample.
    ValueError
        If the selection takes nothing of a sample, or the model has no predictions by which to measure an ablation.
    """
    lengths = [len(sample.token_ids) for sample in samples]
    # Next-token distributions are compared where states aren't all kept, and both models give them.
    kl = config.states != "all" and config.stream != "base" and is_causal(model)
    if config.ablate and not is_causal(model):
        raise ValueError(
            f"`ablate` is {config.ablate!r}, but {type(plain_model(model)).__name__} doesn't foresee the next token, "
            "and what is measured is how that changes; leave `ablate` out"
        )
    counts: dict[str, Any] = {
        "n_samples": len(samples),
        "n_choices": sum(len(sample.choices) for sample in samples),
        "kl": kl,
        "unembedding": unembedding_kind(model) if config.unembedding else None,
    }
    tokens = config.tokens
    if config.budget is not None:
        whole = make_run_spec(config, components, dtypes, n_tokens=sum(lengths), **counts)
        tokens = choose_share(whole, lengths, parse_size(config.budget))
    batches = plan_batches(lengths, batch_tokens=config.batch_tokens)
    js_share = config.js_share or (1.0 if device.type == "cuda" else CPU_SHARE)
    plan = plan_tokens(
        samples,
        batches,
        tokens,
        js_share=js_share,
        kl_share=config.kl_share if kl else 0.0,
        ablate_share=config.ablate_share if config.ablate else 0.0,
        seed=config.seed,
    )
    spec = make_run_spec(config, components, dtypes, n_tokens=plan.n_tokens, **counts)
    return Layout(samples, batches, plan, components, spec, tokens, js_share)


def with_chosen_tokens(config: CaptureConfig, layout: Layout) -> CaptureConfig:
    """The settings with the tokens that the budget chose, as a run keeps them."""
    return config if config.budget is None else dataclasses.replace(config, tokens=layout.tokens, budget=None)
