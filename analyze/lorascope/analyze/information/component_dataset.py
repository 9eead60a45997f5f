"""Records of components as xarray: beside each value what it was made of, and why others are missing."""

from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
import xarray as xr

from lorascope.stores import Run

from ..measuring.sources import Source
from .bound import js_upper_bound
from .components import ComponentRecord
from .dataset import Unit, information_dataset
from .plan import Against, Plan

__all__ = ["choices", "component_dataset", "is_singular", "provenance"]


def component_dataset(
    run: Run, adapter: str | None, sources: Sequence[Source], plan: Plan, records: np.ndarray, unit: Unit
) -> xr.Dataset:
    """Of an object array (component, block) of `ComponentRecord`."""
    inner = ("block",) if plan.n_blocks > 1 else ()
    rows = records if inner else records[:, 0]
    dims = ("component", *inner)
    fields = np.array([record.fields for record in rows.ravel()]).reshape(*rows.shape, len(plan.names), -1)
    result = information_dataset(fields, plan.names, unit=unit, dims=dims)
    for name, (get, about) in COLUMNS.items():
        values = np.array([get(record) for record in rows.ravel()], object if name == "note" else None)
        result[name] = (dims, values.reshape(rows.shape), about)
    if "classifier" in plan.names:
        certified = np.maximum(fields[..., plan.names.index("classifier"), 0], 0.0)
        js_joint = np.where(np.isnan(certified), np.nan, js_upper_bound(np.nan_to_num(certified)))
        result["js_joint"] = (dims, js_joint, JS_JOINT)
    result = result.assign_coords(_component_table(run, adapter, sources, plan))
    return result.assign_attrs(provenance(run, adapter) | choices(plan))


COLUMNS: Mapping[str, tuple[Callable[[ComponentRecord], Any], dict[str, str]]] = {
    "js": (
        lambda record: record.js[0],
        {"long_name": "mean over tokens of JS(softmax(base), softmax(lora))", "units": "nat"},
    ),
    "js_delta_alone": (
        lambda record: record.js[1],
        {"long_name": "mean over tokens of JS(softmax(base), softmax(delta))", "units": "nat"},
    ),
    "n_tokens": (lambda record: record.n_tokens, {"long_name": "tokens that estimates are made of", "units": "1"}),
    "n_samples": (lambda record: record.n_samples, {"long_name": "samples of these tokens", "units": "1"}),
    "n_repeats": (lambda record: record.n_repeats, {"long_name": "tokens left out as repeats", "units": "1"}),
    "n_not_finite": (lambda record: record.n_not_finite, {"long_name": "tokens left out as not finite", "units": "1"}),
    "n_axes_x": (lambda record: record.n_axes[0], {"long_name": "axes of base", "units": "1"}),
    "n_axes_y": (lambda record: record.n_axes[1], {"long_name": "axes of what base is compared with", "units": "1"}),
    "share_x": (lambda record: record.shares[0], {"long_name": "variance of base that its axes keep", "units": "1"}),
    "share_y": (lambda record: record.shares[1], {"long_name": "the same of the other side", "units": "1"}),
    "note": (lambda record: record.note, {"long_name": "why values are missing"}),
}
"""Variable -> how it is taken from a record, and its attributes."""
JS_JOINT = {"long_name": "JS of joint and product that a classifier finds at least", "units": "nat"}


def _component_table(run: Run, adapter: str | None, sources: Sequence[Source], plan: Plan) -> dict[str, Any]:
    """Coordinates of `component`."""
    table = run.components.assign(run.adapter(adapter))
    at = [run.component_paths.index(source.component) for source in sources]
    columns = {name: table[name].values[at] for name in ("kind", "layer", "d_in", "d_out", "rank")}
    is_factor = table["delta_source"].values[at] == "factor"
    sizes = columns["d_in"], columns["d_out"], columns["rank"]
    shared = is_singular(*sizes, plan.against, is_factor=is_factor) & (run.stream != "pair")
    about = {"long_name": "whole states share directions: their mutual information is infinite"}
    return {
        "component": np.array([source.component for source in sources], object),
        **{name: ("component", values) for name, values in columns.items()},
        "singular": ("component", shared, about),
    }


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


def provenance(run: Run, adapter: str | None) -> dict[str, Any]:
    """Where states come from."""
    return {
        "stream": run.stream,
        "adapter": adapter or run.adapters[0],
        "model": str(run.attributes.get("provenance", {}).get("settings", {}).get("model", "")),
        "run": run.place.name,
        "run_fingerprint": str(run.attributes.get("fingerprint", "")),
        "lorascope": version("lorascope"),
    }


def choices(plan: Plan) -> dict[str, Any]:
    """How pairs were made."""
    return {
        "against": plan.against,
        "projection": plan.projection,
        "n_axes": plan.n_axes,
        "share": plan.share,
        "n_blocks": plan.n_blocks,
        "n_tokens_chosen": len(plan.tokens),
        "n_samples_chosen": len(np.unique(plan.samples)),
        "n_prefix_repeats": plan.n_prefix_repeats,
        "seed": plan.settings.seed,
    }
