"""Estimates as xarray: named, with their unit, and what every column means."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import xarray as xr

from .estimators import ESTIMATORS, PANEL
from .evidence import FIELDS
from .pairs import Settings
from .verdict_rules import VERDICTS

__all__ = ["UNITS", "Unit", "information_dataset"]

Unit = Literal["nat", "bit"]
UNITS: dict[str, float] = {"nat": 1.0, "bit": 1 / np.log(2)}
"""How many of each a nat is."""

MEANINGS = {
    "value": "mutual information, less its bias where that is known",
    "bias": "what was taken off as bias",
    "se": "standard error, from the scatter of disjoint parts of the samples",
    "low": "lower end of the 95 % interval of the noise; bias isn't in it",
    "high": "upper end of the 95 % interval of the noise; bias isn't in it",
    "null_mean": "mean over shuffles of samples",
    "null_sd": "standard deviation over shuffles of samples",
    "p": "(1 + shuffles that reach the value) / (1 + shuffles)",
    "half": "mean over two halves of the samples",
    "quarter": "mean over four quarters of the samples",
    "eighth": "mean over eight eighths of the samples",
    "ceiling": "the most that this estimator can give for so many pairs; NaN where nothing holds it down",
    "verdict": "how far the value can be believed",
}


def information_dataset(
    estimates: np.ndarray,
    names: Sequence[str],
    settings: Settings,
    *,
    unit: Unit,
    n_shuffles: int,
    dims: Sequence[str] = (),
) -> xr.Dataset:
    """A variable for each field over (*dims, estimator), of estimates float64 (..., estimator, field) in nats."""
    variables: dict[str, Any] = {}
    for place, field in enumerate(FIELDS):
        values = estimates[..., place]
        if field == "verdict":
            words = np.array([*VERDICTS, ""], object)
            places = np.where(np.isnan(values), len(VERDICTS), np.nan_to_num(values)).astype(int)
            variables[field] = ((*dims, "estimator"), words[places], {"long_name": MEANINGS[field]})
        else:
            units, scale = ("1", 1.0) if field == "p" else (unit, UNITS[unit])
            attributes = {"long_name": MEANINGS[field], "units": units}
            variables[field] = ((*dims, "estimator"), values * scale, attributes)
    about = [f"largest of {', '.join(PANEL)}" if name == "panel" else ESTIMATORS[name].long_name for name in names]
    return xr.Dataset(
        variables,
        coords={"estimator": np.array(names, object), "long_name": ("estimator", np.array(about, object))},
        attrs={
            "units": unit,
            **settings._asdict(),
            "n_shuffles": n_shuffles,
            "p_floor": 1 / (n_shuffles + 1),
            "null": "y of other samples, whole samples moved together",
            "interval": "95 %, from the scatter of disjoint parts; noise alone, no bias",
        },
    )
