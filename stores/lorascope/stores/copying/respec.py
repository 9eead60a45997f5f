"""The specification, tables and weights of a run that exists, for whoever writes another one like it."""

import json
from dataclasses import replace

import numpy as np

from ..format.check import stored_spec
from ..format.layout import array_specs
from ..format.spec import RunSpec
from ..format.tables import TOKEN_TEXT
from ..reading.run import Run

__all__ = ["spec_of", "tables_of", "weights_of"]


def spec_of(run: Run) -> RunSpec:
    """The specification with which an equal run is set up; its attributes are left empty."""
    spec = stored_spec(run.attributes, run.arrays, run.read_once)
    fused = [tuple(map(tuple, json.loads(text or "[]"))) for text in run.components["fused"].values]
    return replace(
        spec,
        components=tuple(replace(one, fused=ranges) for one, ranges in zip(spec.components, fused, strict=True)),
        state_rows=tuple(run.state_rows.tolist()) if spec.states == "sample" else (),
        kl=any(f"adapters/{name}/kl" in run.arrays for name in run.adapters),
        codec="zstd" if run.arrays["tokens/nll"].compressed else "raw",
        token_text=f"tokens/{TOKEN_TEXT.name}" in run.arrays,
    )


def tables_of(run: Run) -> dict[str, dict[str, np.ndarray]]:
    """`samples`, `choices` and `tokens` as `create_run` takes them: what is known before the first row."""
    once = {path for path, array in run.arrays.items() if not array.by_row}  # a run fills in some that it doesn't hold
    return {
        table: {str(name): column.values for name, column in dataset.items() if f"{table}/{name}" in once}
        for table, dataset in {"samples": run.samples, "choices": run.choices, "tokens": run.tokens}.items()
    }


def weights_of(run: Run, spec: RunSpec) -> dict[str, np.ndarray]:
    """Each `lora_B` and `lora_bias` of the specification, of this run or a part of it, by its path in the store."""
    paths = (entry.path for entry in array_specs(spec) if not entry.by_row)
    return {path: run.read_once(path) for path in paths if path.split("/")[2:3] in (["lora_B"], ["lora_bias"])}
