"""Estimates as xarray: named, with their unit and what every column means, and by component what they were made of."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from lorascope.analyze.results.tree import run_attributes
from lorascope.stores import Run
from lorascope.stores.reading.source import Source

from .bound import js_upper_bound
from .components import ComponentRecord
from .estimators import ESTIMATORS, PANEL
from .evidence import MEANINGS, VERDICTS
from .pairs import Settings
from .plan import Against, Plan, Unit

UNITS: dict[str, float] = {"nat": 1.0, "bit": 1 / np.log(2)}
"""Number of each unit in a nat."""

COLUMNS = {
    "js": ("mean over tokens of JS(softmax(base), softmax(lora))", "nat"),
    "js_delta_alone": ("mean over tokens of JS(softmax(base), softmax(delta))", "nat"),
    "n_tokens": ("tokens that estimates are made of", "1"),
    "n_samples": ("samples of these tokens", "1"),
    "n_repeats": ("tokens left out as repeats", "1"),
    "n_not_finite": ("tokens left out as not finite", "1"),
    "n_axes_x": ("axes of base", "1"),
    "n_axes_y": ("axes of what base is compared with", "1"),
    "share_x": ("variance of base that its axes keep", "1"),
    "share_y": ("variance of the other side that its axes keep", "1"),
}
"""Field of a record -> what it is, and its unit."""


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
    for place, (field, meaning) in enumerate(MEANINGS.items()):
        values = estimates[..., place]
        if field == "verdict":
            words = np.array([*VERDICTS, ""], object)
            places = np.where(np.isnan(values), len(VERDICTS), np.nan_to_num(values)).astype(int)
            variables[field] = ((*dims, "estimator"), words[places], {"long_name": meaning})
        else:
            units, scale = ("1", 1.0) if field == "p" else (unit, UNITS[unit])
            variables[field] = ((*dims, "estimator"), values * scale, {"long_name": meaning, "units": units})
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
            "interval": "95 %: noise, from the scatter of disjoint parts, and the bias that these show",
        },
    )


def component_dataset(
    run: Run, adapter: str | None, sources: Sequence[Source], plan: Plan, records: Sequence[ComponentRecord], unit: Unit
) -> xr.Dataset:
    """Dataset of `measure_information`, made of a record for each component."""
    fields = np.array([record.fields for record in records])
    result = information_dataset(
        fields, plan.names, plan.settings, unit=unit, n_shuffles=plan.n_shuffles, dims=["component"]
    )
    for name, (long_name, units) in COLUMNS.items():
        values = np.array([record.columns[name] for record in records])
        result[name] = ("component", values, {"long_name": long_name, "units": units})
    notes = np.array([record.note for record in records], object)
    result["note"] = ("component", notes, {"long_name": "why values are missing"})
    if "classifier" in plan.names:
        certified = np.maximum(fields[:, plan.names.index("classifier"), 0], 0.0)
        js_joint = np.where(np.isnan(certified), np.nan, js_upper_bound(np.nan_to_num(certified)))
        about = {"long_name": "JS of joint and product that a classifier finds at least", "units": "nat"}
        result["js_joint"] = ("component", js_joint, about)
    table = run.components.assign(run.adapter(adapter))
    at = [run.component_paths.index(source.component) for source in sources]
    columns = {name: table[name].values[at] for name in ("kind", "layer", "d_in", "d_out", "rank")}
    is_factor = table["delta_source"].values[at] == "factor"
    sizes = columns["d_in"], columns["d_out"], columns["rank"]
    shared = is_singular(*sizes, plan.against, is_factor=is_factor) & (run.stream != "pair")
    about = {"long_name": "whole states share directions: their mutual information is infinite"}
    coordinates = {
        "component": np.array([source.component for source in sources], object),
        **{name: ("component", values) for name, values in columns.items()},
        "singular": ("component", shared, about),
    }
    return result.assign_coords(coordinates).assign_attrs(provenance(run, adapter, plan))


def is_singular(
    d_in: np.ndarray, d_out: np.ndarray, rank: np.ndarray, against: Against, *, is_factor: np.ndarray
) -> np.ndarray:
    """Bool (component,): whether both sides together see fewer directions of x than each alone, added.

    Where delta is no factor's, as with DoRA, which scales the weight too, its rank is the width. False says that sizes
    don't show it, and never that mutual information is finite.
    """
    full = np.minimum(d_in, d_out)
    together = np.minimum(d_in, d_out + np.minimum(rank, full))
    change = np.where(is_factor, np.minimum(rank, full), full)
    return np.asarray(together < full + (full if against == "lora" else change))


def provenance(run: Run, adapter: str | None, plan: Plan) -> dict[str, Any]:
    """Attributes that say where states come from, and how pairs were made of them."""
    return {
        **run_attributes(run, adapter),
        "against": plan.against,
        "n_axes": plan.n_axes,
        "share": plan.share,
        "n_tokens_chosen": len(plan.tokens),
        "n_samples_chosen": len(np.unique(plan.samples)),
        "n_prefix_repeats": plan.n_prefix_repeats,
        "seed": plan.settings.seed,
    }
