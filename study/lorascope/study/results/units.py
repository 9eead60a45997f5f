"""A study's results, read and checked where they enter: a file a unit, and what was estimated beside it."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

__all__ = ["UnitResult", "read_units"]

RESULTS = "results"
"""Folder of results in a study's folder."""
INFORMATION = ".information.nc"
MOST_BYTES = 2**30
"""Bytes that a file may have, and its arrays in memory: results are small, and what is larger is none."""
NAME = re.compile(r"[A-Za-z0-9._-]{1,200}")
AGAIN = "delete it, and `lorascope study run` makes it again"

UNIT: dict[str, type] = {"model": str, "share": int, "rank": int, "seed": int, "task": str, "name": str}
LEAST = {"share": 1, "rank": 1, "seed": 0}
TEXTS = ("id", "dataset", "split", "prompt", "bucket")
NUMBERS = (
    *("length", "answer", "correct", "correct_per_token", "ce", "miub"),
    *("in_test", "in_prompts", "item_length", "correct_per_character"),
)


@dataclass(frozen=True, eq=False, kw_only=True)
class UnitResult:
    """What one adapter of a study came to."""

    file: str
    """Name of the file."""
    name: str
    model: str
    share: int
    """Layers that share one set of base weights."""
    rank: int
    seed: int
    task: str
    train_items: int | None
    """Training items a data set; None for all."""
    samples: xr.Dataset
    """Numbers and labels over `sample`, in the order of the unit's runs; see `measure.measure_runs`."""
    recipe: Mapping[str, Any]
    runs: Mapping[str, Mapping[str, Any]]
    """Name -> fingerprint, counts and provenance."""
    training: Mapping[str, Any]
    """What the fine-tuning recorded."""
    notes: tuple[str, ...]
    """Sentences on what there wasn't enough of."""
    information: xr.Dataset | None
    """Estimates of mutual information by component, from `measure_information`; None where there are none."""

    @property
    def first_prompt(self) -> str:
        """The prompt that all test items are put to; `` where there are texts alone."""
        prompts = self.samples["prompt"].values[self.samples["answer"].values >= 0]
        return str(prompts[0]) if len(prompts) else ""

    @property
    def provenance(self) -> Mapping[str, Any]:
        """What the first run says of its model, libraries and device."""
        first: Mapping[str, Any] = next(iter(self.runs.values()), {})
        found = first.get("provenance")
        return found if isinstance(found, Mapping) else {}

    @property
    def sizes(self) -> dict[str, int | None]:
        """N, N_non_embedding and D; None for what the runs and the training don't say."""
        model = self.provenance.get("model") or {}
        names = {"N": "n_parameters", "N_non_embedding": "n_parameters_non_embedding"}
        return {key: _whole(model.get(name)) for key, name in names.items()} | {
            "D": _whole(self.training.get("n_samples"))
        }


def read_units(folder: str | Path) -> list[UnitResult]:
    """Results of a study's units, in the order of their settings.

    Parameters
    ----------
    folder
        A study's folder, or the folder `results` in it. Files that aren't whole yet begin with a dot and are passed
        over, as are estimates of units that aren't done.

    Raises
    ------
    FileNotFoundError
        If there is no such folder, or no results in it.
    ValueError
        If a file isn't a unit's results, is damaged, larger than 1 GiB, or says it is of another unit than its name.
    """
    place = Path(folder)
    place = place / RESULTS if (place / RESULTS).is_dir() else place
    if not place.is_dir():
        raise FileNotFoundError(f"`{place}` is no folder; name the folder that `lorascope study run` writes to")
    files = [file for file in sorted(place.glob("*.nc")) if not file.name.startswith(".")]
    files = [file for file in files if not file.name.endswith(INFORMATION)]
    if not files:
        raise FileNotFoundError(f"`{place}` holds no results of a unit; `lorascope study run` makes them")
    units = [_unit(file) for file in files]
    return sorted(units, key=lambda one: (one.model, one.task, -one.share, one.rank, one.train_items or 0, one.seed))


def _unit(file: Path) -> UnitResult:
    found = _load(file)
    unit, recipe, runs, training = (_json(found, key, file, Mapping) for key in ("unit", "recipe", "runs", "training"))
    for key, kind in UNIT.items():
        value = unit.get(key)
        if not isinstance(value, kind) or isinstance(value, bool) or (isinstance(value, int) and value < LEAST[key]):
            raise ValueError(f"`{file}`: `unit` has {key} {value!r}, which no study has; {AGAIN}")
    if not NAME.fullmatch(unit["name"]) or file.name != f"{unit['name']}.nc":
        raise ValueError(f"`{file}` says it is unit {unit['name']!r}; give it back its name, or {AGAIN}")
    runs = {str(name): run for name, run in runs.items() if isinstance(run, Mapping)}
    return UnitResult(
        file=file.name,
        **{key: unit[key] for key in UNIT},
        train_items=_whole(unit.get("train_items")),
        samples=_samples(found, file),
        recipe=recipe,
        runs=runs,
        training=training,
        notes=tuple(map(str, _json(found, "notes", file, list) if "notes" in found.attrs else ())),
        information=_information(file.with_name(f"{unit['name']}{INFORMATION}"), runs),
    )


def _load(file: Path) -> xr.Dataset:
    """All of a file, if that isn't too much."""
    if file.stat().st_size > MOST_BYTES:
        raise ValueError(f"`{file}` has {file.stat().st_size} bytes; results have {MOST_BYTES} at most")
    try:
        with xr.open_dataset(file, engine="netcdf4", cache=False, decode_times=False) as opened:
            if opened.nbytes > MOST_BYTES:
                raise ValueError(f"its arrays take {opened.nbytes} bytes; results take {MOST_BYTES} at most")
            return opened.load()
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise ValueError(f"`{file}` can't be read: {' '.join(str(error).split())}; {AGAIN}") from error


def _json(found: xr.Dataset, key: str, file: Path, kind: type) -> Any:
    _require(key in found.attrs, file, f"it has no attribute {key!r}")
    try:
        value = json.loads(str(found.attrs[key]))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"`{file}`: its attribute {key!r} isn't JSON: {error}; {AGAIN}") from error
    if not isinstance(value, kind):
        raise ValueError(f"`{file}`: its attribute {key!r} is a {type(value).__name__}; {AGAIN}")
    return value


def _samples(found: xr.Dataset, file: Path) -> xr.Dataset:
    for name in (*TEXTS, *NUMBERS):
        _require(name in found and found[name].dims == ("sample",), file, f"it has no {name!r} by sample")
        if name in NUMBERS and found[name].dtype.kind not in "fiu":
            raise ValueError(f"`{file}`: {name!r} holds {found[name].dtype}, where numbers belong; {AGAIN}")
    if not found.sizes["sample"]:
        raise ValueError(f"`{file}` holds no sample; {AGAIN}")
    if (units := found["miub"].attrs.get("units")) != "nat":
        raise ValueError(f"`{file}`: `miub` is in {units!r}, where nats belong; {AGAIN}")
    kept = {name: ("sample", found[name].values.astype(np.str_)) for name in TEXTS}
    for key, values in found.data_vars.items():
        if values.dims == ("sample",) and key not in TEXTS and values.dtype.kind in "fiu":
            kept[str(key)] = ("sample", values.values)
    return xr.Dataset(kept)


def _information(file: Path, runs: Mapping[str, Mapping[str, Any]]) -> xr.Dataset | None:
    if not file.is_file():
        return None
    found = _load(file)
    run = str(next(iter(runs.values()), {}).get("fingerprint"))
    if found.attrs.get("fingerprint", run) != run:
        raise ValueError(f"`{file}` is of another run than the results beside it; {AGAIN}")
    for name in ("value", "verdict"):
        if name not in found or found[name].dims != ("component", "estimator"):
            raise ValueError(f"`{file}` isn't what `measure_information` returns: no {name!r} by component; {AGAIN}")
    if "js" not in found or "panel" not in found["estimator"].values.tolist():
        raise ValueError(f"`{file}` has no estimate of the panel beside 'js'; {AGAIN}")
    if len(set(found["component"].values.tolist())) < found.sizes["component"]:
        raise ValueError(f"`{file}` has a component twice; {AGAIN}")
    if (units := found["value"].attrs.get("units")) != "nat":
        raise ValueError(f"`{file}`: mutual information is in {units!r}, not in nats; {AGAIN}")
    return found


def _require(is_there: bool, file: Path, lack: str) -> None:
    if not is_there:
        raise ValueError(f"`{file}` isn't a unit's results: {lack}; take it out")


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None
