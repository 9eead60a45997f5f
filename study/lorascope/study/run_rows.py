"""A run as rows of a study: MIUB, scores and sizes by adapter, data set, split and prompt."""

from typing import Any, NamedTuple

import numpy as np

from lorascope.analyze.miub import miub
from lorascope.stores import Run
from lorascope.stores.progress import Progress

from .results.cells import cell_values, parts

__all__ = ["RunRows", "run_rows"]


class RunRows(NamedTuple):
    """What a run adds to a study."""

    rows: list[dict[str, Any]]
    """A row an adapter, data set, split and prompt; what the run doesn't know is None, or not there."""
    kind: dict[str, str]
    """What all runs of a study should share for their MIUB to be one quantity: name -> its value."""
    notes: tuple[str, ...]


def run_rows(run: Run, name: str, *, n_workers: int | None = None, progress: Progress | None = None) -> RunRows:
    """Rows of a study from a run, whose MIUB in nats is computed on the way.

    Parameters
    ----------
    run
        An open run; samples that aren't wholly committed don't enter MIUB, and are counted.
    name
        What the column `run` says.
    n_workers
        Threads; by default one a processor.
    progress
        Called for each adapter anew.

    Raises
    ------
    ValueError
        If components of an adapter have ranks that differ.
    StoreError
        As `miub`.
    """
    provenance = dict(run.attributes.get("provenance") or {})
    model, training = (dict(provenance.get(key) or {}) for key in ("model", "training"))
    kind = {"stream": run.stream, "tokens": str(provenance.get("population", ""))}
    rows: list[dict[str, Any]] = []
    notes: dict[str, None] = {}
    ranks = {adapter: _rank(run, adapter) for adapter in run.adapters}  # before the work, not after it
    for adapter, rank in ranks.items():
        result = miub(run, adapter=adapter, n_workers=n_workers, progress=progress)
        kind["js"], attrs = str(result.attrs["js_source"]), result.attrs
        if n := attrs["n_samples_incomplete"]:
            notes[f"run {name!r}: {n} samples aren't wholly captured and not in MIUB"] = None
        if n := attrs["n_not_finite"]:
            notes[f"run {name!r}: {n} values aren't finite, and MIUB is empty where they enter"] = None
        about = {
            "run": name, "adapter": adapter, "model": str(attrs["model"]), "N": model.get("n_parameters"),
            "N_non_embedding": model.get("n_parameters_non_embedding"), "share": model.get("share", 1), "R": rank,
            "D": dict(training.get(adapter) or {}).get("n_samples"),
        }  # fmt: skip
        samples = run.samples.assign(
            miub=("sample", result["miub_sample"].values), used=("sample", result["used"].values)
        )
        for labels, part in parts(samples, np.ones(samples.sizes["sample"], bool)):
            if part["used"].any():
                rows.append(about | labels | cell_values(part, part["miub"].values[part["used"].values]))
    return RunRows(rows, kind, tuple(notes))


def _rank(run: Run, adapter: str) -> int:
    """The one rank of an adapter, of the components that it changes."""
    ranks = np.unique(run.adapter(adapter)["rank"].values)
    ranks = ranks[ranks > 0]
    if len(ranks) != 1:
        found = ", ".join(map(str, ranks)) or "none"
        raise ValueError(
            f"adapter {adapter!r} of `{run.place.name}` has components of ranks {found}; a study has one rank R a run: "
            "leave this run out, or write a table of your own"
        )
    return int(ranks[0])
