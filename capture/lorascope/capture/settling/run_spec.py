"""What a capture will store: a `RunSpec` from components, their output types and the token plan."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from lorascope.stores import Adapter, Component, RunSpec
from lorascope.stores.format.layout import require_chunks, worth_factoring
from lorascope.stores.format.spec import DTYPES, ROW_TOKENS, Unembedding

from ..adapters.components import LoraComponent, in_module_order, parts_of
from ..config import CaptureConfig


def specify(
    config: CaptureConfig,
    components: Mapping[str, Sequence[LoraComponent]],
    dtypes: Mapping[str, torch.dtype],
    *,
    n_tokens: int,
    n_samples: int,
    n_choices: int,
    kl: bool = False,
    unembedding: Unembedding | None = None,
) -> RunSpec:
    """The specification of a run; a pure function, so that a plan and every process of a capture agree on it.

    `components` has those that each adapter changes, in module order, `dtypes` the type of each one's output by its
    path; `kl` says whether next-token distributions are compared, `unembedding` what is kept of it. Raises a ValueError
    if a component is too wide for a chunk to hold a row of it.
    """
    union = in_module_order(components)
    stored = tuple(_component(component, dtypes[component.path], narrow=config.store == "bf16") for component in union)
    n_rows = -(-n_tokens // ROW_TOKENS)
    spec = RunSpec(
        stream=config.stream,
        components=stored,
        adapters=tuple(_adapter(name, found, stored) for name, found in components.items()),
        n_tokens=n_tokens,
        n_samples=n_samples,
        n_choices=n_choices,
        states=config.states,
        state_rows=choose_state_rows(n_rows, config.states_share, config.seed) if config.states == "sample" else (),
        codec="default" if config.codec == "auto" else config.codec,  # until a trial has chosen
        kl=kl,
        ablate=config.ablate,
        ablation_parts=tuple(parts_of(union, config.ablate)) if config.ablate else (),
        unembedding=unembedding,
    )
    require_chunks(spec)
    return spec


def choose_state_rows(n_rows: int, share: float, seed: int) -> tuple[bool, ...]:
    """Which rows keep their states: a seeded share of them, at least one, drawn without replacement."""
    n_kept = max(1, round(share * n_rows))
    kept = np.zeros(n_rows, dtype=bool)
    kept[np.random.default_rng(seed).permutation(n_rows)[:n_kept]] = True
    return tuple(kept.tolist())


def _component(component: LoraComponent, dtype: torch.dtype, *, narrow: bool) -> Component:
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


def _adapter(name: str, found: Sequence[LoraComponent], stored: Sequence[Component]) -> Adapter:
    by_path = {component.path: component for component in found}
    kept = [by_path.get(component.path) for component in stored]
    factored = tuple(
        c is not None
        and c.delta_source == "factor"
        and worth_factoring(rank=c.rank, d_out=c.d_out, itemsize=DTYPES[s.stored_dtype][0].itemsize)
        for c, s in zip(kept, stored, strict=True)
    )
    return Adapter(
        name=name,
        rank=tuple(c.rank if c else 0 for c in kept),
        scaling=tuple(c.scaling if c else 0.0 for c in kept),
        factored=factored,
        biased=tuple(c is not None and c.biased and is_kept for c, is_kept in zip(kept, factored, strict=True)),
        delta_source=tuple(
            "" if c is None else "branch" if c.delta_source == "factor" and not is_kept else c.delta_source
            for c, is_kept in zip(kept, factored, strict=True)
        ),
    )
