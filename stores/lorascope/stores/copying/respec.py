"""The specification, tables and weights of a run that exists, for whoever writes another one like it."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from zarr.core.metadata import ArrayV3Metadata

from ..format.layout import Adapter, Component, RunSpec
from ..format.pipelines import is_raw
from ..format.tables import TABLES, TOKEN_TEXT
from ..reading.read import Run

__all__ = ["attributes_of", "spec_of", "tables_of", "weights_of"]

FORMAT_ATTRIBUTES = frozenset(
    {"format", "format_version", "stream", "states", "n_tokens", "n_rows", "adapters", "finished", "static_digest"}
)
"""Root attributes that follow from a specification, or from what became of the run."""


def spec_of(run: Run, arrays: Mapping[str, ArrayV3Metadata]) -> RunSpec:
    """The specification with which an equal run is set up; its attributes are left empty."""
    kl = any(f"adapters/{name}/kl" in arrays for name in run.adapters)
    return RunSpec(
        stream=run.stream,  # type: ignore[arg-type]  # was checked when the run was opened
        states=run.attributes["states"],
        state_rows=tuple(run.state_rows.tolist()) if run.attributes["states"] == "sample" else (),
        kl=kl,
        codec="raw" if is_raw(arrays["tokens/nll"]) else "zstd",
        token_text=f"tokens/{TOKEN_TEXT.name}" in arrays,
        n_tokens=run.n_tokens,
        n_samples=run.samples.sizes["sample"],
        n_choices=run.choices.sizes["choice"],
        components=_components(run),
        adapters=tuple(_adapter(run, name, arrays) for name in run.adapters),
    )


def _components(run: Run) -> tuple[Component, ...]:
    columns = {name: run.components[name].values.tolist() for name in (c.name for c in TABLES["components"])}
    entries = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    return tuple(
        Component(**{**entry, "fused": tuple(map(tuple, json.loads(entry["fused"] or "[]")))}) for entry in entries
    )


def _adapter(run: Run, name: str, arrays: Mapping[str, ArrayV3Metadata]) -> Adapter:
    table = run.adapter(name)
    sources = table["delta_source"].values.tolist() if "delta_source" in table else []
    biased = tuple(f"adapters/{name}/lora_bias/{path}" in arrays for path in run.component_paths)
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


def tables_of(run: Run, arrays: Mapping[str, ArrayV3Metadata]) -> dict[str, dict[str, np.ndarray]]:
    """`samples`, `choices` and `tokens` as `create_run` takes them: what is known before the first row."""
    tables = {"samples": run.samples, "choices": run.choices, "tokens": run.tokens}
    # A run fills some columns in that it doesn't hold.
    once = {path for path, metadata in arrays.items() if metadata.attributes.get("written") == "once"}
    return {
        table: {str(name): column.values for name, column in dataset.items() if f"{table}/{name}" in once}
        for table, dataset in tables.items()
    }


def weights_of(run: Run, paths: Iterable[str]) -> dict[str, np.ndarray]:
    """Each `lora_B` and `lora_bias` among these arrays, float32, by its path."""
    return {path: run.read_once(path) for path in paths if "/lora_B/" in path or "/lora_bias/" in path}
