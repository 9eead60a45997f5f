"""The layout of a capture and its run's specification, from settings, samples and facts about the model."""

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from lorascope.stores import Adapter, Component, RunSpec
from lorascope.stores.format.layout import is_factor_smaller, require_rows_fit_chunks
from lorascope.stores.format.spec import DTYPES, ROW_TOKENS, block_path
from lorascope.stores.format.tables import REPLY_SCALES
from lorascope.stores.size import parse_size

from ..config import CaptureConfig
from ..models.components import LoraComponent, component_axis, group_for_ablation
from ..models.experts import expert_block
from ..models.model import ModelFacts
from ..models.passes import n_change_passes
from ..recording.importance import MOST_SAMPLES
from ..recording.layout import Layout, plan_tokens
from ..samples.encoded import EncodedSample, plan_batches
from .estimate import choose_share

CPU_SHARE = 1 / 64
"""Share of tokens whose js is measured and whose sums are checked on a CPU: about 2 % of the forward pass's time."""

CHANGE_TOKENS = 20_000
"""Largest number of captured tokens whose next-token changes are all stored with `changes` = `auto`."""
CHANGE_TIME = 1 / 5
"""Largest time for next-token changes with `changes` = `auto` in a longer capture, relative to its own passes."""
CHANGE_COST = 0.45
"""Time to compute a token's changes from its logits, relative to its pass, of the demo's model on a CPU."""


def make_layout(
    config: CaptureConfig,
    facts: ModelFacts,
    samples: Sequence[EncodedSample],
    components: Mapping[str, Sequence[LoraComponent]],
    dtypes: Mapping[str, torch.dtype],
    device: torch.device,
    n_prompts: int = 0,
    n_logits: int = 0,
    reserved_bytes: int = 0,
) -> Layout:
    """Choose a capture's batches and tokens, and its run's specification; return them with the samples as Layout.

    Parameters
    ----------
    config
        The settings; a budget chooses the tokens.
    facts
        Facts about the model.
    samples, components
        The sequences that pass the model, and adapter -> the components that it changes.
    dtypes
        Type of each component's output, by its path.
    device
        Device of the model: on a GPU, js is measured on all tokens by default.
    n_prompts
        Number of prompts that the model replies to.
    n_logits
        Number of logits at each position; 0 for a model without.
    reserved_bytes
        Bytes of a budget that the run doesn't get: those of its neutral texts.

    Raises
    ------
    StoreError
        If the budget doesn't suffice for a token of each sample.
    ValueError
        If the selection takes no token of a sample, or an ablation, importance or replies are asked for and the model
        predicts no next tokens.
    """
    lengths = [len(sample.token_ids) for sample in samples]
    # Next-token distributions are compared if not all states are stored, and both passes predict tokens.
    changes = config.changes != "none" and facts.is_causal and n_logits > 0
    kl = config.states != "all" and config.stream != "base" and facts.is_causal
    for name, why in (
        ("ablate", "an ablation measures how predictions change"),
        ("importance", "importance is what such predictions need"),
    ):
        if (value := getattr(config, name)) and not facts.is_causal:
            reason = f"{facts.class_name} doesn't predict the next token, and {why}"
            raise ValueError(f"`{name}` is {value!r}, but {reason}; leave `{name}` out")
    experts = [own.path for some in components.values() for own in some if own.block is not None]
    if config.importance and experts:
        reason = f"{experts[0]!r} is a weight of experts, whose gradients aren't taken"
        raise ValueError(f"`importance` is {config.importance}, but {reason}; leave it out, or choose by `component`")
    if n_prompts and not facts.is_causal:
        raise ValueError(f"`replies` are asked for, but {facts.class_name} doesn't write text; leave `replies` out")
    counts: dict[str, Any] = {
        "n_samples": len(samples),
        "n_choices": sum(len(sample.choices) for sample in samples),
        "n_replies": n_prompts * len(REPLY_SCALES),
        "kl": kl or changes,
        "n_vocabulary": n_logits if changes else 0,
    }
    tokens = config.tokens
    if config.budget is not None:
        whole = make_run_spec(config, components, dtypes, n_tokens=sum(lengths), **counts)
        tokens = choose_share(whole, lengths, parse_size(config.budget), reserved_bytes)
    batches = plan_batches(lengths, batch_tokens=config.batch_tokens)
    js_share = config.js_share or (1.0 if device.type == "cuda" else CPU_SHARE)
    plan = plan_tokens(
        samples,
        batches,
        tokens,
        js_share=js_share,
        kl_share=config.kl_share if kl else 0.0,
        ablate_share=config.ablate_share if config.ablate else 0.0,
        change_share=partial(choose_change_share, config) if changes else lambda n_tokens: 0.0,
        seed=config.seed,
    )
    spec = make_run_spec(config, components, dtypes, n_tokens=plan.n_tokens, **counts)
    return Layout(samples, batches, plan, components, spec, tokens, js_share)


def with_chosen_tokens(config: CaptureConfig, layout: Layout) -> CaptureConfig:
    """Return the settings as a run stores them: with the choice of tokens that fits, instead of a budget."""
    return config if config.budget is None else dataclasses.replace(config, tokens=layout.tokens, budget=None)


def make_run_spec(
    config: CaptureConfig,
    components: Mapping[str, Sequence[LoraComponent]],
    dtypes: Mapping[str, torch.dtype],
    *,
    n_tokens: int,
    n_samples: int,
    **more: Any,
) -> RunSpec:
    """Return the specification of a capture's run: components, adapters, sizes, rows that store base and delta.

    A pure function, so that a plan and every process of a capture agree on it.

    `components` are those of each adapter, in module order; `dtypes` are the types of their outputs, by path; `more`
    are further fields of `RunSpec`. Raises a ValueError if one row of a component exceeds a chunk.
    """
    union = component_axis(components)
    parts = group_for_ablation(union, config.ablate) if config.ablate else {}
    stored = tuple(
        _stored_component(component, dtypes[component.path], narrow=config.store == "bf16") for component in union
    )
    blocks = {str(block_path(own.path)): own.block for own in union if own.block is not None}
    n_rows = -(-n_tokens // ROW_TOKENS)
    n_passes = config.importance * min(n_samples, MOST_SAMPLES)
    n_variants = config.null_adapters and 1 + config.null_adapters
    spec = RunSpec(
        stream=config.stream,
        components=stored,
        adapters=tuple(
            dataclasses.replace(_stored_adapter(name, own, stored, n_passes), n_variants=n_variants)
            for name, own in components.items()
        ),
        n_tokens=n_tokens,
        n_samples=n_samples,
        states=config.states,
        state_rows=choose_state_rows(n_rows, config.states_share, config.seed) if config.states == "sample" else (),
        codec="default" if config.codec == "auto" else config.codec,  # until a trial has chosen
        ablate=config.ablate,
        ablation_parts=tuple(parts),
        experts=tuple(expert_block(path, block) for path, block in blocks.items()),
        **more,
    )
    require_rows_fit_chunks(spec)
    return spec


def choose_change_share(config: CaptureConfig, n_tokens: int) -> float:
    """Return the share of the batches in which next-token changes are stored, for this number of captured tokens.

    That is 1 unless `config.changes` is `auto` and the tokens are more than 20,000; then all that is done for changes
    takes a fifth of the time of the capture's own passes.
    """
    if config.changes == "all" or n_tokens <= CHANGE_TOKENS:
        return 1.0
    names = list(config.adapters)
    further = n_change_passes(config.stream, names)
    return min(1.0, CHANGE_TIME * (1 + len(names) - further) / (further + CHANGE_COST * len(names)))


def choose_state_rows(n_rows: int, share: float, seed: int) -> tuple[bool, ...]:
    """Draw the rows that store base and delta: a seeded share of all rows, at least one; one bool per row."""
    n_chosen = max(1, round(share * n_rows))
    chosen = np.zeros(n_rows, dtype=bool)
    chosen[np.random.default_rng(seed).permutation(n_rows)[:n_chosen]] = True
    return tuple(chosen.tolist())


def _stored_component(component: LoraComponent, dtype: torch.dtype, *, narrow: bool) -> Component:
    """Return a component's entry in the run's specification; `narrow` stores base as bfloat16."""
    name = str(dtype).removeprefix("torch.")
    return Component(
        path=component.path,
        kind=component.kind,
        layer=component.layer,
        d_in=component.d_in,
        d_out=component.d_out,
        dtype=name,
        stored_dtype="bfloat16" if narrow else name,
        fused=component.fused,
    )


def _stored_adapter(
    name: str, components: Sequence[LoraComponent], stored: Sequence[Component], n_passes: int
) -> Adapter:
    """Return an adapter's entry in the run's specification: rank, scaling and form of delta per component.

    `n_passes` is the number of passes whose gradients are stored.
    """
    by_path = {component.path: component for component in components}
    on_axis = [by_path.get(component.path) for component in stored]
    factored = tuple(
        c is not None
        and c.delta_source == "factor"
        and is_factor_smaller(rank=c.rank, d_out=c.d_out, itemsize=DTYPES[s.stored_dtype][0].itemsize)
        for c, s in zip(on_axis, stored, strict=True)
    )
    n_directions = sum(c.rank + c.biased if c.delta_source == "factor" else 1 for c in components)
    return Adapter(
        name=name,
        importance=(n_passes, n_directions) if n_passes else None,
        rank=tuple(c.rank if c else 0 for c in on_axis),
        scaling=tuple(c.scaling if c else 0.0 for c in on_axis),
        factored=factored,
        biased=tuple(c is not None and c.biased and has_z for c, has_z in zip(on_axis, factored, strict=True)),
        delta_source=tuple(
            "" if c is None else "branch" if c.delta_source == "factor" and not has_z else c.delta_source
            for c, has_z in zip(on_axis, factored, strict=True)
        ),
    )
