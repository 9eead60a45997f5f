"""Scores without the adapter, taken over from another unit of the same base model instead of being made again."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from lorascope.analyze import open_result, save

from .grid import Unit, units_of
from .places import result_path
from .settings import StudySettings

__all__ = ["KEY", "base_columns", "base_scores", "joined_base"]

KEY = ("dataset", "split", "id", "prompt")
FREE = {"states", "states_share", "score_base"}
"""Settings of a capture that shape no score."""
MODEL = ("model", "dtype", "sharing")
"""What of a unit's training tells its base model."""


def base_columns(table: xr.Dataset) -> list[str]:
    """Names of what a table says of the model without the adapter."""
    return [str(name) for name in table.data_vars if str(name).startswith("base_")]


def base_scores(
    settings: StudySettings,
    unit: Unit,
    recipe: Mapping[str, Any],
    training: Mapping[str, Any],
    run: str,
    place: Path,
) -> bool:
    """Whether scores of this run without the adapter lie beside it; they are copied there if another unit has them.

    Once a run is begun nothing changes: it goes on as it began.
    """
    beside = place.with_name("base.nc")
    if beside.exists() or place.exists():
        return beside.exists()
    for other in units_of(settings):
        if (other.model, other.share, other.task) != (unit.model, unit.share, unit.task) or other == unit:
            continue
        path = result_path(settings, other)
        if not path.exists():
            continue
        with open_result(path) as found:
            theirs = json.loads(found.attrs["training"])
            if _weights(theirs) == _weights(training) and _scored_alike(json.loads(found.attrs["recipe"]), recipe, run):
                table = found[[*KEY, *base_columns(found)]].load()
                asked = np.isin(table["prompt"].values, [*recipe[run]["templates"], "text"])
                save(table.isel(sample=np.flatnonzero(asked)).drop_attrs(), beside)
                return True
    return False


def joined_base(table: xr.Dataset, base: xr.Dataset) -> xr.Dataset:
    """Scores with the adapter, and those without it of the same samples.

    Raises
    ------
    ValueError
        If `base` lacks a sample.
    """
    rows = {key: row for row, key in enumerate(_keys(base))}
    try:
        order = [rows[key] for key in _keys(table)]
    except KeyError as error:
        raise ValueError(f"there are no scores without the adapter of sample {error.args[0]}") from error
    return table.assign({name: ("sample", base[name].values[order]) for name in base_columns(base)})


def _weights(training: Mapping[str, Any]) -> Any:
    """Hash of the base model's weights: a hub's model may change under its name."""
    return training.get("model", {}).get("sha256")


def _scored_alike(theirs: Mapping[str, Any], ours: Mapping[str, Any], run: str) -> bool:
    if run not in theirs or any(theirs["train"].get(name) != ours["train"].get(name) for name in MODEL):
        return False
    shaped = [
        {**one[run], "config": {key: value for key, value in one[run]["config"].items() if key not in FREE}}
        for one in (theirs, ours)
    ]
    return bool(shaped[0] == shaped[1])


def _keys(table: xr.Dataset) -> list[tuple[str, ...]]:
    return list(zip(*(table[name].values.tolist() for name in KEY), strict=True))
