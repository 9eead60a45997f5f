"""The run that a copy is written to: new, or the rest of one that was interrupted."""

import time
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import StoreError
from ..format.digest import combine
from ..format.spec import RunSpec
from ..places.place import open_place
from ..reading.read import open_run
from ..reading.run import Run
from ..reading.state import clear_torn, run_state
from ..writing.create import create_run, resume_run
from ..writing.write import RunWriter

__all__ = ["add_step", "copy_target", "last_step"]

FORMAT_ATTRIBUTES = frozenset(
    {"format", "format_version", "stream", "states", "n_tokens", "n_rows", "adapters", "finished", "static_digest"}
)
"""Root attributes that follow from a specification, or from what became of the run."""
ELSEWHERE = frozenset({"source", "lorascope", "time"})
"""Entries of a step that only say where and when it was."""


def copy_target(
    source: str | Path,
    out: str | Path,
    spec: RunSpec,
    *,
    tables: Mapping[str, Mapping[str, Any]],
    weights: Mapping[str, np.ndarray],
) -> RunWriter | Run:
    """Writer of the rows that a copy still lacks; the copy itself where it is finished already.

    What is there is taken up only if it is a copy of the same, by the last step of its provenance's `copied`.

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
        return create_run(out, spec, tables=tables, weights=weights)
    there = open_run(out)
    if last_step(there.attributes) != last_step(spec.attributes):
        raise StoreError(f"`{there.place.name}` holds another run; name a new folder, or delete this one first")
    if there.finished:
        return there
    writer = resume_run(out)
    writer.sweep()
    return writer


def add_step(run: Run, how: str, rows: Iterable[int], **more: Any) -> dict[str, Any]:
    """Root attributes of a copy of these rows of a run: the run's own, with one more step in the chain of copies."""
    attributes = {name: value for name, value in run.attributes.items() if name not in FORMAT_ATTRIBUTES}
    step = {
        "how": how,
        "source": run.place.name,
        "fingerprint": attributes.get("fingerprint", ""),
        "static_digest": run.attributes["static_digest"],
        "rows_digest": combine((f"{row:012d}", bytes(run.digest(row))) for row in rows).hex(),
        **more,
        "lorascope": version("lorascope"),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    provenance = dict(attributes.get("provenance") or {})
    return {**attributes, "provenance": {**provenance, "copied": [*provenance.get("copied", []), step]}}


def last_step(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """The latest copying step without where and when it was; empty for a run that was captured."""
    provenance = attributes.get("provenance")
    steps = provenance.get("copied") if isinstance(provenance, dict) else None
    return {key: value for key, value in steps[-1].items() if key not in ELSEWHERE} if steps else {}
