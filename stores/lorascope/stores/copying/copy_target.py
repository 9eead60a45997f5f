"""The run that a copy is written to, new or interrupted, and what it takes from its source."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import StoreError
from ..format.digests import copying_steps, step_identity
from ..format.layout import array_specs
from ..format.spec import FORMAT_VERSION, RunSpec
from ..format.stored_spec import stored_spec
from ..format.tables import TOKEN_TEXT
from ..places.place import open_place
from ..reading.read import open_run
from ..reading.run import Run
from ..reading.state import clear_torn, run_state
from ..writing.create import create_run, resume_run
from ..writing.write import RunWriter, delete_commits

DERIVED_ATTRIBUTES = frozenset(
    {
        *("format", "format_version", "stream", "states", "n_tokens", "n_rows", "adapters", "finished"),
        *("static_digest", "metadata_digest", "rows_digest", "root_digest", "fingerprint", "optional_groups"),
    }
)
"""Root attributes that aren't copied, since they follow from the specification or the copy's own state."""


def open_copy(
    source: str | Path,
    out: str | Path,
    spec: RunSpec,
    *,
    tables: Mapping[str, Mapping[str, Any]],
    weights: Mapping[str, np.ndarray],
) -> RunWriter | Run:
    """Create the run of a copy, or continue an interrupted one, and return its writer; a finished copy as a Run.

    An interrupted copy is resumed only if the last step in its provenance's `copied` has the same source and selection.

    Raises
    ------
    StoreError
        If something else is at `out`, or `out` is within the source.
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
        delete_commits(existing.place)
        return existing
    writer = resume_run(out, decode_back=True)
    writer.delete_unfinished_files()
    return writer


def last_copy_step(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the record of a run's latest copying, without source and time; empty for a captured run."""
    steps = copying_steps(attributes.get("provenance"))
    return step_identity(steps[-1]) if steps else {}


def copied_spec(run: Run) -> RunSpec:
    """Return the specification of a run equal to this one, without attributes; compression is `default` or `raw`."""
    spec = stored_spec(run.attributes, run.arrays, run.read_static)
    fused = [tuple(map(tuple, json.loads(text or "[]"))) for text in run.components["fused"].values]
    return replace(
        spec,
        format_version=FORMAT_VERSION,
        components=tuple(
            replace(component, fused=ranges) for component, ranges in zip(spec.components, fused, strict=True)
        ),
        state_rows=tuple(run.state_rows.tolist()) if spec.states == "sample" else (),
        kl=any(f"adapters/{name}/kl" in run.arrays for name in run.adapters),
        codec="default" if run.arrays["tokens/nll"].blosc else "raw",
        token_text=f"tokens/{TOKEN_TEXT.name}" in run.arrays,
    )


def read_tables(run: Run) -> dict[str, dict[str, np.ndarray]]:
    """Return {table: {column: values}} of a run's samples, choices and tokens, as `create_run` takes them.

    Columns that are written row by row are skipped.
    """
    # Some columns of an open run aren't stored.
    once = {path for path, array in run.arrays.items() if not array.by_row}
    return {
        table: {str(name): column.values for name, column in dataset.items() if f"{table}/{name}" in once}
        for table, dataset in {"samples": run.samples, "choices": run.choices, "tokens": run.tokens}.items()
    }


def read_weights(run: Run, spec: RunSpec) -> dict[str, np.ndarray]:
    """Return {path: values} of a run's weights, replies and vocabulary, as far as `spec` has them."""
    paths = (entry.path.split("/") for entry in array_specs(spec) if not entry.by_row)
    folders = (["lora_B"], ["lora_bias"], ["replies"])
    weights = ("/".join(p) for p in paths if p[0] == "vocabulary" or (len(p) == 4 and p[2:3] in folders))
    return {path: run.read_static(path) for path in weights}
