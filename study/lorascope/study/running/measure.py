"""Results of a unit (adapter): a small dataset of numbers by sample, after which captured states aren't needed.

MIUB is the Jensen-Shannon divergence (js) of base and adapted outputs, summed over layers.
"""

import dataclasses
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import numpy as np
import xarray as xr

from lorascope.analyze import miub
from lorascope.analyze.results.scores import correct_per_character
from lorascope.stores import Run, verify
from lorascope.stores.progress import Progress

from ..grid import Unit
from .data import TaskData

SCORES = ("prediction", "prediction_per_token", "correct", "correct_per_token", "ce")
WRITTEN = ("written", "written_prediction", "written_correct")
COLUMNS = (
    *("id", "dataset", "split", "prompt", "length", "answer"),
    *(f"{prefix}{name}" for names in (SCORES, WRITTEN) for prefix in ("", "base_") for name in names),
)
"""Columns of a run's samples that are copied into results, if the run has them."""
LOCAL = {"settings", "adapters", "data_sources"}
"""Parts of a run's provenance that results omit: they are paths, or in the recipe."""


def require_sound(run: Run) -> None:
    """Raise ValueError unless every chunk of a captured run has its checksum and can be decoded."""
    verdict = verify(run.path, level="decode")
    if not verdict.ok:
        first, *others = verdict.problems
        more = f", and {len(others)} more" if others else ""
        raise ValueError(
            f"run `{run.path}` is damaged: {first.place}: {first.message}{more}; delete it, and the study captures it "
            "again"
        )


def measure_runs(
    unit: Unit,
    recipe: Mapping[str, Any],
    data: TaskData,
    runs: Mapping[str, Run],
    training: Mapping[str, Any],
    *,
    scheduler: str | None = None,
    progress: Progress | None = None,
) -> xr.Dataset:
    """Return a unit's results by sample as a Dataset, computed from its captured runs: MIUB, scores, labels.

    Returns
    -------
    xr.Dataset
        Over `sample`: id, data set, split and prompt; `bucket` and `item_length`, "" and -1 outside of buckets;
        `in_test` and `in_prompts`, whether it is a test item, and one that is asked under every prompt;
        `miub` in nats, the sum over components of the mean over tokens of JS; scores as in a run's table `samples`, and
        `correct_per_character` (log-likelihood by characters of the choice). Over (`cell`, `component`): `js` in nats,
        the mean over the samples of a data set and prompt. Attributes, as JSON: `unit`, `recipe`, `runs` (provenance
        and measurements of each), `training`.
    """
    parts, cells = [], []
    for run in runs.values():
        result = miub(run, scheduler=scheduler, progress=progress)
        parts.append(_sample_columns(run, result, data))
        by_sample = result.children["samples"].dataset
        labels = list(zip(by_sample["dataset"].values.tolist(), by_sample["prompt"].values.tolist(), strict=True))
        js = by_sample["js"].values
        cells += [(*own, js[[other == own for other in labels]].mean(axis=0)) for own in dict.fromkeys(labels)]
    samples = parts[0] if len(parts) == 1 else xr.concat(parts, "sample")
    js = np.array([values for _, _, values in cells], dtype=np.float64)
    about = {"units": "nat", "long_name": "mean over samples of the mean over tokens of JS"}
    components = next(iter(runs.values())).components
    columns = {
        "js": (("cell", "component"), js, about),
        "cell_dataset": ("cell", np.array([name for name, _, _ in cells], dtype=np.str_)),
        "cell_prompt": ("cell", np.array([prompt for _, prompt, _ in cells], dtype=np.str_)),
        **{f"component_{name}": ("component", components[name].values) for name in ("path", "kind", "layer")},
    }
    return samples.assign(columns).assign_attrs(
        unit=json.dumps(dataclasses.asdict(unit)),
        recipe=json.dumps(recipe, sort_keys=True),
        runs=json.dumps({name: _run_record(run, unit) for name, run in runs.items()}),
        training=json.dumps(_with_model_name(training, unit)),
        notes=json.dumps(data.notes),
        measured=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _sample_columns(run: Run, result: xr.DataTree, data: TaskData) -> xr.Dataset:
    """Return a Dataset over `sample` with the labels, scores and MIUB of one run."""
    table = run.samples
    keys = list(zip(*(table[name].values.tolist() for name in ("dataset", "split", "id")), strict=True))
    tested = np.array([key in data.tested for key in keys], dtype=np.int8)
    columns = {name: ("sample", table[name].values) for name in COLUMNS if name in table}
    none = np.full(table.sizes["sample"], -1, dtype=np.int8)
    for prefix in ("", "base_"):
        hits = correct_per_character(run, f"{prefix}loglik") if f"{prefix}loglik" in run.choices else none
        columns[f"{prefix}correct_per_character"] = ("sample", hits)
    buckets, lengths = zip(*(data.lengths.get(key, ("", -1)) for key in keys), strict=True)
    columns |= {
        "bucket": ("sample", np.array(buckets, dtype=np.str_)),
        "item_length": ("sample", np.array(lengths, dtype=np.int32)),
        "in_test": ("sample", tested | (table["answer"].values < 0)),
        "in_prompts": ("sample", np.array([key in data.prompted for key in keys], dtype=np.int8)),
    }
    miub_sample = ("sample", result["samples/miub"].values, {"units": "nat", "long_name": "MIUB of the sample"})
    return xr.Dataset(columns).assign(miub=miub_sample)


def _run_record(run: Run, unit: Unit) -> dict[str, Any]:
    """Return what a unit's results say about a run: fingerprint, counts, provenance; no paths of this machine."""
    provenance = {key: value for key, value in run.attributes.get("provenance", {}).items() if key not in LOCAL}
    return {
        "fingerprint": run.attributes.get("fingerprint"),
        "states": run.states,
        "n_tokens": run.n_tokens,
        "provenance": _with_model_name(provenance, unit),
        "measured": run.attributes.get("measured"),
    }


def _with_model_name(record: Mapping[str, Any], unit: Unit) -> dict[str, Any]:
    """Return a copy of `record` in which the model has its name from the study's file, not a path."""
    return {**record, "model": {**record.get("model", {}), "name": unit.model}}
