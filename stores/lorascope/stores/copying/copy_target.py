"""The run that a copy is written to, new or the rest of one that was interrupted, and what it takes from its source."""

import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import StoreError
from ..format.digests import combine_digests, step_identity
from ..format.layout import array_specs
from ..format.spec import RunSpec
from ..format.stored_spec import stored_spec
from ..format.tables import TOKEN_TEXT
from ..places.place import open_place
from ..reading.read import open_run
from ..reading.run import Run
from ..reading.state import clear_torn, run_state
from ..writing.create import create_run, resume_run
from ..writing.write import RunWriter

DERIVED_ATTRIBUTES = frozenset(
    {
        *("format", "format_version", "stream", "states", "n_tokens", "n_rows", "adapters", "finished"),
        *("static_digest", "metadata_digest", "root_digest", "fingerprint"),
    }
)
"""Root attributes that follow from a specification, or from what became of the run."""


def open_copy(
    source: str | Path,
    out: str | Path,
    spec: RunSpec,
    *,
    tables: Mapping[str, Mapping[str, Any]],
    weights: Mapping[str, np.ndarray],
) -> RunWriter | Run:
    """Writer of the rows that a copy still lacks; the copy itself where it is finished already.

    A copy that was begun is resumed only if it was made from the same source and selection, as the last step of its
    provenance's `copied` says.

    Raises
    ------
    StoreError
        If something else is there, or it lies within the source.
    """
    ours, theirs = (open_place(path).path for path in (source, out))
    if isinstance(ours, Path) and isinstance(theirs, Path) and theirs.resolve().is_relative_to(ours.resolve()):
        raise StoreError(f"`{theirs}` lies within the run `{ours}` itself; name a folder outside of it")
    state = run_state(out)
    if state == "torn":
        clear_torn(out)
    if state in ("absent", "torn"):
        return create_run(out, spec, tables=tables, weights=weights, decode_back=True)
    existing = open_run(out)
    if last_copy_step(existing.attributes) != last_copy_step(spec.attributes):
        raise StoreError(f"`{existing.place.name}` holds another run; name a new folder, or delete this one first")
    if existing.finished:
        return existing
    writer = resume_run(out, decode_back=True)
    writer.sweep()
    return writer


def attributes_with_step(run: Run, how: str, rows: Iterable[int], **more: Any) -> dict[str, Any]:
    """Root attributes of a copy of these rows of a run: the run's own, with one more step in the chain of copies."""
    attributes = {name: value for name, value in run.attributes.items() if name not in DERIVED_ATTRIBUTES}
    step = {
        "how": how,
        "source": run.place.name,
        "fingerprint": run.attributes.get("fingerprint", ""),
        "static_digest": run.attributes["static_digest"],
        "rows_digest": combine_digests((f"{row:012d}", bytes(run.digest(row))) for row in rows).hex(),
        **more,
        "lorascope": version("lorascope"),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    provenance = dict(attributes.get("provenance") or {})
    return {**attributes, "provenance": {**provenance, "copied": [*provenance.get("copied", []), step]}}


def last_copy_step(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """The latest copying step without where and when it was; empty for a run that was captured."""
    provenance = attributes.get("provenance")
    steps = provenance.get("copied") if isinstance(provenance, dict) else None
    return step_identity(steps[-1]) if steps else {}


def copied_spec(run: Run) -> RunSpec:
    """The specification with which an equal run is set up, compressed by default or not at all; without attributes."""
    spec = stored_spec(run.attributes, run.arrays, run.read_static)
    fused = [tuple(map(tuple, json.loads(text or "[]"))) for text in run.components["fused"].values]
    return replace(
        spec,
        components=tuple(
            replace(component, fused=ranges) for component, ranges in zip(spec.components, fused, strict=True)
        ),
        state_rows=tuple(run.state_rows.tolist()) if spec.states == "sample" else (),
        kl=any(f"adapters/{name}/kl" in run.arrays for name in run.adapters),
        codec="default" if run.arrays["tokens/nll"].compressed else "raw",
        token_text=f"tokens/{TOKEN_TEXT.name}" in run.arrays,
    )


def read_tables(run: Run) -> dict[str, dict[str, np.ndarray]]:
    """`samples`, `choices` and `tokens` as `create_run` takes them: what is known before the first row."""
    once = {path for path, array in run.arrays.items() if not array.by_row}  # a run fills in some that it doesn't hold
    return {
        table: {str(name): column.values for name, column in dataset.items() if f"{table}/{name}" in once}
        for table, dataset in {"samples": run.samples, "choices": run.choices, "tokens": run.tokens}.items()
    }


def read_weights(run: Run, spec: RunSpec) -> dict[str, np.ndarray]:
    """Each `lora_B` and `lora_bias` of the specification, of this run or a part of it, and the unembedding, by path."""
    paths = (entry.path.split("/") for entry in array_specs(spec) if not entry.by_row)
    weights = ("/".join(p) for p in paths if p[0] == "unembedding" or p[2:3] in (["lora_B"], ["lora_bias"]))
    return {path: run.read_static(path) for path in weights}
