"""A run as rows of a study: MIUB, scores and sizes by adapter, data set, split and prompt."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from lorascope.analyze.groups import group_by, to_dataframe
from lorascope.analyze.miub import miub
from lorascope.analyze.scores import sample_scores
from lorascope.stores import Run

__all__ = ["RunRows", "run_rows"]

KEYS = ("dataset", "split", "prompt")


class RunRows(NamedTuple):
    """What a run adds to a study."""

    rows: list[dict[str, Any]]
    """A row an adapter, data set, split and prompt; None for what the run doesn't know."""
    kind: dict[str, str]
    """What all runs of a study should share for their MIUB to be one quantity: name -> its value."""
    notes: tuple[str, ...]


def run_rows(
    run: Run,
    name: str,
    *,
    n_workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> RunRows:
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
        Called with (tasks done, tasks in all), for each adapter anew.

    Raises
    ------
    ValueError
        If components of an adapter have ranks that differ.
    StoreError
        As `miub`.
    """
    ranks = {adapter: _rank(run, adapter) for adapter in run.adapters}  # before the work, not after it
    rows: list[dict[str, Any]] = []
    notes: list[str] = []
    for adapter, rank in ranks.items():
        result = miub(run, adapter=adapter, n_workers=n_workers, progress=progress)
        notes += _notes(result, name)
        sizes = _sizes(run, adapter)
        for group in to_dataframe(group_by(result, KEYS), "group").to_dict("records"):
            labels = {key: str(group[key]) for key in KEYS}
            measured = {"MIUB": group["miub"], "MIUB_se": group["miub_se"], "n_samples": int(group["n_samples"])}
            about = {"run": name, "adapter": adapter, "model": str(result.attrs["model"])}
            rows.append(about | labels | sizes | {"R": rank} | _scores(run, labels) | measured)
    provenance = _provenance(run)
    kind = {
        "stream": run.stream,
        "tokens": str(provenance.get("population", "")),
        "js": str(result.attrs["js_source"]),
    }
    return RunRows(rows, kind, tuple(dict.fromkeys(notes)))


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


def _provenance(run: Run) -> dict[str, Any]:
    return dict(run.attributes.get("provenance") or {})


def _sizes(run: Run, adapter: str) -> dict[str, Any]:
    """Sizes that the run's provenance knows: of the model, of how it shares weights, and of the adapter's training."""
    provenance = _provenance(run)
    model = dict(provenance.get("model") or {})
    training = dict((provenance.get("training") or {}).get(adapter) or {})
    return {
        "N": model.get("n_parameters"),
        "N_non_embedding": model.get("n_parameters_non_embedding"),
        "share": model.get("share", 1),
        "D": training.get("n_samples"),
    }


def _scores(run: Run, labels: dict[str, str]) -> dict[str, Any]:
    """ACC as a share, CE in nats a token and PPL with the adapter, and of how many samples that were scored."""
    samples = run.samples
    same = np.logical_and.reduce([samples[key].values.astype(str) == value for key, value in labels.items()])
    found = {score.measure: score for score in sample_scores("", samples.isel(sample=np.flatnonzero(same)))}
    values = {name: found[name].adapted.value if name in found else None for name in ("ACC", "CE", "PPL")}
    values["ACC"] = values["ACC"] / 100 if values["ACC"] is not None else None
    return values | {"n_scored": max((score.n for score in found.values()), default=0)}


def _notes(result: xr.Dataset, name: str) -> list[str]:
    attrs, notes = result.attrs, []
    if attrs["n_samples_incomplete"]:
        notes.append(f"run {name!r}: {attrs['n_samples_incomplete']} samples aren't wholly captured and not in MIUB")
    if attrs["n_not_finite"]:
        notes.append(f"run {name!r}: {attrs['n_not_finite']} values aren't finite, and MIUB is empty where they enter")
    return notes
