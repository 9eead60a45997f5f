"""Reading and checking a study's results, one file per unit, and the progress of its units."""

import dataclasses
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from pydantic import BaseModel, Json, ValidationError

from lorascope.analyze.results.digests import is_changed
from lorascope.stores import StoreError, open_run

from ..grid import INFORMATION, Unit, adapter_path, grid_units, result_path, run_path, unit_folder
from ..settings import StudySettings, describe_mistake

RESULTS = "results"
"""Folder of results in a study's folder."""
MOST_BYTES = 2**30
"""Most bytes of a file and of its arrays in memory; results are smaller, so a larger file isn't one."""
TEXTS = ("id", "dataset", "split", "prompt", "bucket")
NUMBERS = (
    *("length", "answer", "correct", "correct_per_token", "ce", "miub"),
    *("in_test", "in_prompts", "item_length", "correct_per_character"),
)


class Record(BaseModel):
    """Attributes of a unit's file of results, most of them JSON texts, as checked on reading."""

    unit: Json[Unit]
    recipe: Json[dict[str, Any]]
    runs: Json[dict[str, dict[str, Any]]]
    training: Json[dict[str, Any]]
    notes: Json[tuple[str, ...]] = ()
    measured: datetime


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class UnitResult:
    """Results of one unit (adapter) of a study: numbers by sample, recipe, provenance, mutual information."""

    name: str
    """Name of its file, without the ending."""
    model: str
    share: int
    """Layers that share one set of base weights."""
    rank: int
    seed: int
    task: str
    train_items: int | None
    """Training items per data set; None for all."""
    samples: xr.Dataset
    """Numbers and labels over `sample`, in the order of the unit's runs; `measure_runs` lists them."""
    recipe: Mapping[str, Any]
    runs: Mapping[str, Mapping[str, Any]]
    """Name -> fingerprint, counts and provenance."""
    training: Mapping[str, Any]
    """Record of the fine-tuning."""
    notes: tuple[str, ...]
    """Sentences on items that were missing."""
    information: xr.Dataset | None
    """Estimates of mutual information by component, from `measure_information`; None if not estimated."""

    @property
    def first_prompt(self) -> str:
        """Name of the prompt under which all test items were asked; an empty text if there are only texts."""
        prompts = self.samples["prompt"].values[self.samples["answer"].values >= 0]
        return str(prompts[0]) if len(prompts) else ""

    @property
    def provenance(self) -> Mapping[str, Any]:
        """Record of the model, libraries and device of the unit's first run; empty if it isn't known."""
        provenance = next(iter(self.runs.values()), {}).get("provenance")
        return provenance if isinstance(provenance, Mapping) else {}

    @property
    def sizes(self) -> dict[str, int | None]:
        """Parameters of the model (N, N_non_embedding) and training samples (D); None for unknown ones."""
        model = self.provenance.get("model") or {}
        sizes = {"N": model.get("n_parameters"), "N_non_embedding": model.get("n_parameters_non_embedding")}
        sizes["D"] = self.training.get("n_samples")
        return {name: n if type(n) is int and n > 0 else None for name, n in sizes.items()}


def read_units(folder: str | Path) -> list[UnitResult]:
    """Return the results of all units (adapters) of a study, read and checked, in the order of their settings.

    Parameters
    ----------
    folder
        A study's folder, or the folder `results` in it. Unfinished files, whose names begin with a dot, are skipped,
        and so are estimates of unfinished units.

    Raises
    ------
    FileNotFoundError
        If there is no such folder, or no results in it.
    ValueError
        If a file isn't a unit's results, is damaged, larger than 1 GiB, or its content names another unit.
    """
    place = Path(folder)
    place = place / RESULTS if (place / RESULTS).is_dir() else place
    if not place.is_dir():
        raise FileNotFoundError(f"`{place}` is no folder; name the folder that `lorascope study run` writes to")
    files = [file for file in sorted(place.glob("*.nc")) if not file.name.startswith(".")]
    units = [_read_unit(file) for file in files if not file.name.endswith(INFORMATION)]
    if not units:
        raise FileNotFoundError(f"`{place}` holds no results of a unit; `lorascope study run` makes them")
    return sorted(
        units, key=lambda unit: (unit.model, unit.task, -unit.share, unit.rank, unit.train_items or 0, unit.seed)
    )


def read_record(file: Path, results: xr.Dataset | None = None) -> Record:
    """Return the attributes of a file with a unit's results, without its arrays; raise ValueError if damaged."""
    try:
        return Record.model_validate((_load_file(file, arrays=False) if results is None else results).attrs)
    except ValidationError as error:
        raise _damaged_file(file, describe_mistake(error)) from None


class UnitStatus(NamedTuple):
    """Progress of one unit (adapter) of a study."""

    unit: Unit
    state: str
    """`done`, `begun`, `not begun` or `damaged`."""
    detail: str
    """Time when it was done, or the parts that exist."""


def study_status(settings: StudySettings) -> list[UnitStatus]:
    """Return the progress of every unit of a study, in the order in which they run; reads files, without torch."""
    return [UnitStatus(unit, *_unit_state(settings, unit)) for unit in grid_units(settings)]


def _unit_state(settings: StudySettings, unit: Unit) -> tuple[str, str]:
    """Return (state, detail) of a unit (adapter): `done`, `begun`, `not begun` or `damaged`, and a text on it."""
    if (path := result_path(settings, unit)).exists():
        try:
            record = read_record(path)
        except ValueError as error:
            return "damaged", str(error)
        other = "" if record.unit.name == unit.name else f", but of unit {record.unit.name!r}"
        return "done", f"{record.measured:%Y-%m-%d %H:%M} UTC{other}"
    if not unit_folder(settings, unit).exists():
        return "not begun", ""
    parts = ["trained" if adapter_path(settings, unit).exists() else "training"]
    for name in ("main", "prompts"):
        if (place := run_path(settings, unit, name)).exists():
            try:
                run = open_run(place)
                parts.append(f"{name}: {int(run.committed_rows.sum())} of {run.n_rows} rows captured")
            except StoreError:
                parts.append(f"{name}: being set up")
    return "begun", ", ".join(parts)


def _read_unit(file: Path) -> UnitResult:
    """Return the checked results of one unit (adapter), with estimates of mutual information if stored."""
    results = _load_file(file)
    record = read_record(file, results)
    _refuse_unless(file.name == f"{record.unit.name}.nc", file, f"it is of unit {record.unit.name!r} by its own words")
    estimates = file.with_name(f"{record.unit.name}{INFORMATION}")
    return UnitResult(
        **dataclasses.asdict(record.unit),
        **record.model_dump(include={"recipe", "runs", "training", "notes"}),
        samples=_read_samples(results, file),
        information=_read_information(estimates, record.runs) if estimates.is_file() else None,
    )


def _load_file(file: Path, *, arrays: bool = True) -> xr.Dataset:
    """Return a NetCDF file as a Dataset, loaded if `arrays`; raise ValueError if it is too large or damaged."""
    n_bytes = file.stat().st_size
    _refuse_unless(n_bytes <= MOST_BYTES, file, f"it has {n_bytes} bytes, where results have {MOST_BYTES} at most")
    try:
        if is_changed(file):
            raise ValueError("its bytes aren't what was written: their digest differs")
        with xr.open_dataset(file, engine="netcdf4", cache=False, decode_times=False) as opened:
            if opened.nbytes > MOST_BYTES:
                raise ValueError(f"its arrays take {opened.nbytes} bytes; results take {MOST_BYTES} at most")
            return opened.load() if arrays else opened
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise _damaged_file(file, " ".join(str(error).split())) from error


def _read_samples(results: xr.Dataset, file: Path) -> xr.Dataset:
    """Return the texts and numbers by sample in `results`; raise ValueError if one is missing or not in nats."""
    numbers = [str(name) for name, values in results.data_vars.items() if values.dtype.kind in "fiu"]
    columns = {
        name: ("sample", results[name].values.astype(np.str_) if name in TEXTS else results[name].values)
        for name in (*TEXTS, *numbers)
        if name in results and results[name].dims == ("sample",)
    }
    for name in (*TEXTS, *NUMBERS):
        _refuse_unless(name in columns, file, f"it has no {'texts' if name in TEXTS else 'numbers'} {name!r} by sample")
    _refuse_unless(results.sizes["sample"] > 0, file, "it holds no sample")
    _refuse_unless((units := results["miub"].attrs.get("units")) == "nat", file, f"`miub` is in {units!r}, not in nats")
    return xr.Dataset(columns)


def _read_information(file: Path, runs: Mapping[str, Mapping[str, Any]]) -> xr.Dataset:
    """Return a unit's estimates of mutual information; raise ValueError if malformed or of other runs."""
    estimates = _load_file(file)
    run = str(next(iter(runs.values()), {}).get("fingerprint"))
    _refuse_unless(estimates.attrs.get("fingerprint", run) == run, file, "it is of another run than the unit's results")
    for name in ("value", "verdict"):
        is_there = name in estimates and estimates[name].dims == ("component", "estimator")
        _refuse_unless(is_there, file, f"it isn't what `measure_information` returns: it has no {name!r} by component")
    is_panel = "js" in estimates and "panel" in estimates["estimator"].values.tolist()
    _refuse_unless(is_panel, file, "it has no 'js' or no estimate of the panel")
    _refuse_unless("component" in estimates.indexes, file, "it doesn't name its components")
    _refuse_unless(estimates.indexes["component"].is_unique, file, "it has a component twice")
    _refuse_unless(
        (units := estimates["value"].attrs.get("units")) == "nat", file, f"its values are in {units!r}, not in nats"
    )
    return estimates


def _refuse_unless(is_sound: bool, file: Path, why: str) -> None:
    """Raise the ValueError that `file` is damaged, with the reason `why`, unless `is_sound`."""
    if not is_sound:
        raise _damaged_file(file, why)


def _damaged_file(file: Path, why: str) -> ValueError:
    """Return the ValueError that `file` isn't a unit's results or is damaged, with the reason `why`."""
    return ValueError(
        f"`{file}` isn't a unit's results, or is damaged: {why}; take it out, or delete it, and `lorascope study run` "
        "makes it again"
    )
