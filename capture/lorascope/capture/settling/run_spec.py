"""The specification of a run, from components, the types of their outputs and numbers of tokens and samples."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from lorascope.stores import Adapter, Component, RunSpec
from lorascope.stores.format.layout import is_factor_smaller, require_rows_fit_chunks
from lorascope.stores.format.spec import DTYPES, ROW_TOKENS, Unembedding

from ..config import CaptureConfig
from ..models.components import LoraComponent, in_module_order, parts_of


def make_run_spec(
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
        adapters=tuple(_adapter(name, own, stored) for name, own in components.items()),
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
    require_rows_fit_chunks(spec)
    return spec


def choose_state_rows(n_rows: int, share: float, seed: int) -> tuple[bool, ...]:
    """Choose the rows that keep their states: a seeded share of them, at least one, drawn without replacement."""
    n_chosen = max(1, round(share * n_rows))
    chosen = np.zeros(n_rows, dtype=bool)
    chosen[np.random.default_rng(seed).permutation(n_rows)[:n_chosen]] = True
    return tuple(chosen.tolist())


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


def _adapter(name: str, components: Sequence[LoraComponent], stored: Sequence[Component]) -> Adapter:
    by_path = {component.path: component for component in components}
    on_axis = [by_path.get(component.path) for component in stored]
    factored = tuple(
        c is not None
        and c.delta_source == "factor"
        and is_factor_smaller(rank=c.rank, d_out=c.d_out, itemsize=DTYPES[s.stored_dtype][0].itemsize)
        for c, s in zip(on_axis, stored, strict=True)
    )
    return Adapter(
        name=name,
        rank=tuple(c.rank if c else 0 for c in on_axis),
        scaling=tuple(c.scaling if c else 0.0 for c in on_axis),
        factored=factored,
        biased=tuple(c is not None and c.biased and has_z for c, has_z in zip(on_axis, factored, strict=True)),
        delta_source=tuple(
            "" if c is None else "branch" if c.delta_source == "factor" and not has_z else c.delta_source
            for c, has_z in zip(on_axis, factored, strict=True)
        ),
    )
