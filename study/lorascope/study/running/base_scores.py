"""Scores without the adapter, taken over from another unit of the same base model instead of being made again."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from lorascope.analyze import open_result, save

from ..grid import Unit, units_of
from ..places import result_path
from ..settings import StudySettings

__all__ = ["base_columns", "base_scores", "with_base"]

KEY = ("dataset", "split", "id", "prompt")
NO_SCORE = {"states", "states_share", "score_base"}
"""Settings of a capture that shape no score."""


def base_columns(table: xr.Dataset) -> list[str]:
    """Names of what a table says of the model without the adapter."""
    return [str(name) for name in table.data_vars if str(name).startswith("base_")]


def base_scores(
    settings: StudySettings, unit: Unit, recipe: Mapping[str, Any], training: Mapping[str, Any], run: str, beside: Path
) -> bool:
    """Whether scores of this run without the adapter lie in the file beside it.

    They are copied there if another unit has them, unless the run is begun: it goes on as it began.
    """
    if beside.exists() or beside.with_name("run.zarr").exists():
        return beside.exists()
    for other in units_of(settings):
        path = result_path(settings, other)
        is_like = (other.model, other.share, other.task) == (unit.model, unit.share, unit.task)
        if not is_like or other == unit or not path.exists():
            continue
        with open_result(path) as found:
            theirs, their_training = (json.loads(found.attrs[name]) for name in ("recipe", "training"))
            if run in theirs and _shaping(theirs, their_training, run) == _shaping(recipe, training, run):
                table = found[[*KEY, *base_columns(found)]].load()
                asked = np.isin(table["prompt"].values, [*recipe[run]["templates"], "text"])
                save(table.isel(sample=np.flatnonzero(asked)).drop_attrs(), beside)
                return True
    return False


def with_base(table: xr.Dataset, base: xr.Dataset) -> xr.Dataset:
    """Scores with the adapter, and those without it of the same samples.

    Raises
    ------
    ValueError
        If `base` lacks a sample.
    """
    rows = {key: row for row, key in enumerate(_keys(base))}
    if lacking := [key for key in _keys(table) if key not in rows]:
        raise ValueError(f"there are no scores without the adapter of sample {lacking[0]}")
    order = [rows[key] for key in _keys(table)]
    return table.assign({name: ("sample", base[name].values[order]) for name in base_columns(base)})


def _shaping(recipe: Mapping[str, Any], training: Mapping[str, Any], run: str) -> list[Any]:
    """All that shapes the scores of a base model: a hub's model may change under its name, so its weights too."""
    config = {key: value for key, value in recipe[run]["config"].items() if key not in NO_SCORE}
    model = [recipe["train"].get(name) for name in ("model", "dtype", "sharing")]
    return [{**recipe[run], "config": config}, model, training.get("model", {}).get("sha256")]


def _keys(table: xr.Dataset) -> list[tuple[str, ...]]:
    return list(zip(*(table[name].values.tolist() for name in KEY), strict=True))
