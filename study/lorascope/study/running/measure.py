"""What a unit's runs come to: a small dataset of numbers by sample, for which its states aren't needed any more."""

import dataclasses
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from lorascope.analyze import miub, open_result
from lorascope.stores import Run, verify
from lorascope.stores.progress import Progress

from ..grid import Unit
from .base_scores import with_base
from .data import TaskData

__all__ = ["measure_runs", "require_sound"]

SCORES = ("prediction", "prediction_per_token", "correct", "correct_per_token", "ce")
WRITTEN = ("written", "written_prediction", "written_correct")
COLUMNS = (
    *("id", "dataset", "split", "prompt", "length", "answer"),
    *(f"{prefix}{name}" for names in (SCORES, WRITTEN) for prefix in ("", "base_") for name in names),
)
"""Columns of a run's samples that results keep, where the run has them."""
LOCAL = {"settings", "adapters", "data_sources"}
"""Parts of a run's provenance that say where things lay, or that are in the recipe."""


def require_sound(run: Run) -> None:
    """Raise a ValueError unless every chunk of a run is what was written, and can be decoded."""
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
    """Results of a unit by sample, from all of its runs; scores without the adapter may lie beside a run.

    Returns
    -------
    xr.Dataset
        Over `sample`: id, data set, split and prompt; `bucket` and `item_length`, "" and -1 outside of buckets;
        `in_test` and `in_prompts`, whether it is one of the test items, and of those that every prompt is put to;
        `miub` in nats, the sum over components of the mean over tokens of JS; scores as in a run's table `samples`, and
        `correct_per_character` (log-likelihood by characters of the choice). Over (`cell`, `component`): `js` in nats,
        the mean over the samples of a data set and prompt. Attributes, as JSON: `unit`, `recipe`, `runs` (provenance
        and measurements of each), `training`.
    """
    parts, cells = [], []
    for run in runs.values():
        result = miub(run, scheduler=scheduler, progress=progress)
        parts.append(_samples(run, result, data))
        labels = list(zip(result["dataset"].values.tolist(), result["prompt"].values.tolist(), strict=True))
        js = result["js_sample"].values
        cells += [(*own, js[[other == own for other in labels]].mean(axis=0)) for own in dict.fromkeys(labels)]
    samples = parts[0] if len(parts) == 1 else xr.concat(parts, "sample")
    js = np.array([values for _, _, values in cells], dtype=np.float64)
    about = {"units": "nat", "long_name": "mean over samples of the mean over tokens of JS"}
    components = next(iter(runs.values())).components
    result = samples.assign(
        js=(("cell", "component"), js, about),
        cell_dataset=("cell", np.array([name for name, _, _ in cells], dtype=np.str_)),
        cell_prompt=("cell", np.array([prompt for _, prompt, _ in cells], dtype=np.str_)),
        **{f"component_{name}": ("component", components[name].values) for name in ("path", "kind", "layer")},
    )
    return result.assign_attrs(
        unit=json.dumps(dataclasses.asdict(unit)),
        recipe=json.dumps(recipe, sort_keys=True),
        runs=json.dumps({name: _about(run, unit) for name, run in runs.items()}),
        training=json.dumps(_named(training, unit)),
        notes=json.dumps(data.notes),
        measured=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _samples(run: Run, result: xr.Dataset, data: TaskData) -> xr.Dataset:
    table = run.samples
    keys = list(zip(*(table[name].values.tolist() for name in ("dataset", "split", "id")), strict=True))
    tested = np.array([key in data.tested for key in keys], dtype=np.int8)
    columns = {name: ("sample", table[name].values) for name in COLUMNS if name in table}
    columns |= {
        "correct_per_character": ("sample", _correct_per_character(run, "")),
        "bucket": ("sample", np.array([data.buckets.get(key, "") for key in keys], dtype=np.str_)),
        "item_length": ("sample", np.array([data.lengths.get(key, -1) for key in keys], dtype=np.int32)),
        "in_test": ("sample", tested | (table["answer"].values < 0)),
        "in_prompts": ("sample", np.array([key in data.prompted for key in keys], dtype=np.int8)),
    }
    miub_sample = ("sample", result["miub_sample"].values, {"units": "nat", "long_name": "MIUB of the sample"})
    table = xr.Dataset(columns).assign(miub=miub_sample)
    beside = Path(run.path).with_name("base.nc")
    if beside.exists():
        with open_result(beside) as base:
            return with_base(table, base)
    if "base_ce" in table:
        return table.assign(base_correct_per_character=("sample", _correct_per_character(run, "base_")))
    return table


def _correct_per_character(run: Run, prefix: str) -> np.ndarray:
    """1 where the choice with the highest log-likelihood a character is right, 0 where not, -1 for text; int8."""
    hits = np.full(run.samples.sizes["sample"], -1, dtype=np.int8)
    name = f"{prefix}loglik"
    if name not in run.choices or not run.choices.sizes["choice"]:
        return hits
    owner = run.choices["sample"].values
    per_character = run.choices[name].values / np.array([len(text) for text in run.choices["text"].values])
    for sample, answer in enumerate(run.samples["answer"].values):
        values = per_character[owner == sample]
        if answer >= 0 and np.isfinite(values).all():
            hits[sample] = int(values.argmax() == answer)
    return hits


def _about(run: Run, unit: Unit) -> dict[str, Any]:
    """What a run says of itself, without where things lay on this machine."""
    provenance = {key: value for key, value in run.attributes.get("provenance", {}).items() if key not in LOCAL}
    return {
        "fingerprint": run.attributes.get("fingerprint"),
        "states": run.states,
        "n_tokens": run.n_tokens,
        "provenance": _named(provenance, unit),
        "measured": run.attributes.get("measured"),
    }


def _named(record: Mapping[str, Any], unit: Unit) -> dict[str, Any]:
    """The record with the model as the study's file names it."""
    return {**record, "model": {**record.get("model", {}), "name": unit.model}}
