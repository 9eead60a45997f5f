"""The specification, tables and weights of a run that exists, for whoever writes another one like it."""

import json
from collections.abc import Iterable
from typing import Any

import numpy as np

from ..format.spec import Adapter, Component, RunSpec
from ..format.tables import TABLES, TOKEN_TEXT
from ..reading.run import Run

__all__ = ["attributes_of", "spec_of", "tables_of", "weights_of"]

FORMAT_ATTRIBUTES = frozenset(
    {"format", "format_version", "stream", "states", "n_tokens", "n_rows", "adapters", "finished", "static_digest"}
)
"""Root attributes that follow from a specification, or from what became of the run."""


def spec_of(run: Run) -> RunSpec:
    """The specification with which an equal run is set up; its attributes are left empty."""
    return RunSpec(
        stream=run.stream,  # type: ignore[arg-type]  # was checked when the run was opened
        states=run.attributes["states"],
        state_rows=tuple(run.state_rows.tolist()) if run.attributes["states"] == "sample" else (),
        kl=any(f"adapters/{name}/kl" in run.arrays for name in run.adapters),
        codec="zstd" if run.arrays["tokens/nll"].compressed else "raw",
        token_text=f"tokens/{TOKEN_TEXT.name}" in run.arrays,
        n_tokens=run.n_tokens,
        n_samples=run.samples.sizes["sample"],
        n_choices=run.choices.sizes["choice"],
        components=_components(run),
        adapters=tuple(_adapter(run, name) for name in run.adapters),
    )


def _components(run: Run) -> tuple[Component, ...]:
    columns = {name: run.components[name].values.tolist() for name in (c.name for c in TABLES["components"])}
    entries = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    return tuple(
        Component(**{**entry, "fused": tuple(map(tuple, json.loads(entry["fused"] or "[]")))}) for entry in entries
    )


def _adapter(run: Run, name: str) -> Adapter:
    table = run.adapter(name)
    sources = table["delta_source"].values.tolist() if "delta_source" in table else []
    biased = tuple(f"adapters/{name}/lora_bias/{path}" in run.arrays for path in run.component_paths)
    return Adapter(
        name=name,
        rank=tuple(table["rank"].values.tolist()),
        scaling=tuple(table["scaling"].values.tolist()),
        factored=tuple((table["factor_start"].values >= 0).tolist()),
        biased=biased if any(biased) else (),
        delta_source=tuple(sources),
    )


def attributes_of(run: Run) -> dict[str, Any]:
    """Root attributes that a run like this one is given: fingerprint, provenance and what else there is."""
    return {name: value for name, value in run.attributes.items() if name not in FORMAT_ATTRIBUTES}


def tables_of(run: Run) -> dict[str, dict[str, np.ndarray]]:
    """`samples`, `choices` and `tokens` as `create_run` takes them: what is known before the first row."""
    once = {path for path, array in run.arrays.items() if not array.by_row}  # a run fills in some that it doesn't hold
    return {
        table: {str(name): column.values for name, column in dataset.items() if f"{table}/{name}" in once}
        for table, dataset in {"samples": run.samples, "choices": run.choices, "tokens": run.tokens}.items()
    }


def weights_of(run: Run, paths: Iterable[str] | None = None) -> dict[str, np.ndarray]:
    """Each `lora_B` and `lora_bias`, or those among these paths, float32, by its path in the store."""
    named = run.arrays if paths is None else run.arrays.keys() & set(paths)
    return {path: run.read_once(path) for path in named if "/lora_B/" in path or "/lora_bias/" in path}
