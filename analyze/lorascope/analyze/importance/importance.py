"""Importance: how far predictions would move without a part of an adapter, to second order, from stored gradients."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Float32, Float64, Int64

from lorascope.analyze.results.tree import run_attributes
from lorascope.analyze.results.weights import standard_error
from lorascope.stores import Run
from lorascope.stores.checking.verify import open_as_written
from lorascope.stores.reading.read import RunLike


def importance(run: RunLike, *, adapter: str | None = None) -> xr.DataTree:
    """Return the Fisher importance of an adapter's components, layers, kinds of modules and singular directions.

    Importance of a part is, to second order, KL(adapted || adapted without that part) of the next token's distribution:
    what ablation measures by one pass per part, here for all parts from a few backward passes.

    Parameters
    ----------
    run
        An open run or its path or url, captured with `--importance`.
    adapter
        Name of the adapter; not needed if there is only one.

    Returns
    -------
    xr.DataTree
        Nodes `components` (with `kind` and `layer`), `layers` and `kinds`, each by its own dimension, and `directions`,
        by `direction`, with its `component`, `number` (by descending singular value of s B A; -1 for a bias of lora_B)
        and `singular_value`. Each has `value` in nats a token: the mean over a sample's tokens, then over samples, as
        of ablation; `se`, its standard error over samples; and `share` of the node's sum, NaN if that is zero.
        Attributes: provenance, `n_samples`, `n_draws` of labels per sample, and `n_tokens` of all samples.

    Raises
    ------
    StoreError
        If the run has no importance, or a chunk is broken.

    Notes
    -----
    At each token a label is drawn from the adapted model's own distribution; g is the gradient of the labels' summed
    log-probability by a scale (1) on the part's delta. Labels are independent and scores have mean zero, so that g²
    is unbiased for the summed Fisher information, and g² / 2 for the second-order term of the summed KL. A layer's
    g is the sum of its components': they are scaled together, and their importances don't add up to its own.
    `se` is that of samples' means over draws, so it contains the error of the draws; NaN for one sample.

    The quadratic form is that of small changes. Parts of the demo's adapter of up to 0.02 nat were a tenth above
    ablation, the whole one of 0.97 nat three tenths below: from a few tenths of a nat on, measure with `--ablate`.

    References
    ----------
    Kullback & Leibler (1951), Annals of Mathematical Statistics 22, 79, section 6 (KL and Fisher's information).
    Kunstner et al. (2019), arXiv 1905.12558 (labels must be drawn from the model, not taken from the data).
    """
    run = open_as_written(run)
    stored = run.importance(adapter)
    components = run.components.isel(component=stored["component"].values)
    path, kind = (components[name].values.astype(str) for name in ("path", "kind"))
    layer, number = components["layer"].values, np.arange(stored.sizes["direction"])
    parts = {  # dimension -> what directions are grouped by, and coordinates, all by direction
        "component": (stored["component"].values, {"component": path, "kind": kind, "layer": layer}),
        "layer": (layer, {"layer": layer}),
        "kind": (kind, {"kind": kind}),
        "direction": (number, {"direction": number, "component": path, "number": stored["direction"].values}),
    }
    nodes = {}
    for dim, (labels, columns) in parts.items():
        _, first, groups = np.unique(labels, return_index=True, return_inverse=True)
        coordinates = {name: (dim, values[first]) for name, values in columns.items()}
        nodes[f"{dim}s"] = _summary(importance_by_sample(stored, groups), dim).assign_coords(coordinates)
    nodes["directions"]["singular_value"] = ("direction", stored["singular_value"].values)
    _, first = np.unique(stored["sample"].values, return_index=True)
    counts = {"n_samples": len(first), "n_draws": stored.sizes["pass"] // len(first)}
    tree = xr.DataTree.from_dict(nodes)
    tree.attrs = run_attributes(run, adapter) | counts | {"n_tokens": int(stored["n_tokens"].values[first].sum())}
    return tree


def importance_by_sample(stored: xr.Dataset, groups: Int64[np.ndarray, " direction"]) -> Float64[np.ndarray, "s g"]:
    """Return importance (sample, group) in nats a token, the mean over draws, of groups 0, 1, ... of directions.

    `stored` is what `Run.importance` returns; samples are in the order of their indices.
    """
    order = np.argsort(groups, kind="stable")
    starts = np.searchsorted(groups[order], np.arange(groups.max() + 1))
    gradient: Float32[np.ndarray, "pass direction"] = stored["gradient"].values
    sums = np.add.reduceat(gradient[:, order], starts, axis=1, dtype=np.float64)
    by_pass = np.square(sums) / (2 * stored["n_tokens"].values[:, None])
    _, samples, counts = np.unique(stored["sample"].values, return_inverse=True, return_counts=True)
    by_sample = np.zeros((len(counts), by_pass.shape[1]))
    np.add.at(by_sample, samples, by_pass)
    return by_sample / counts[:, None]


def importance_by_component(
    run: Run, adapter: str | None, paths: Sequence[str]
) -> Float64[np.ndarray, "sample component"] | None:
    """Return importance in nats a token by sample that has it and component, NaN if unknown; None without any."""
    if f"adapters/{adapter or run.adapters[0]}/importance/gradient" not in run.arrays:
        return None
    stored = run.importance(adapter)
    present, groups = np.unique(stored["component"].values, return_inverse=True)
    by_sample = importance_by_sample(stored, groups)
    values = np.full((len(by_sample), len(run)), np.nan)
    values[:, present] = by_sample
    return values[:, [run.component_paths.index(path) for path in paths]]


def _summary(by_sample: Float64[np.ndarray, "sample part"], dim: str) -> xr.Dataset:
    """Return `value`, `se` and `share` by part along `dim`, from values by sample."""
    value = by_sample.mean(axis=0)
    total = value.sum()
    share = value / total if total > 0 else np.full_like(value, np.nan)
    numbers: Mapping[str, Any] = {
        "value": (value, "Fisher importance: mean over a sample's tokens, then over samples", "nat/token"),
        "se": (standard_error(by_sample), "standard error of value over samples", "nat/token"),
        "share": (share, "value / sum of the values", "1"),
    }
    return xr.Dataset({key: (dim, v, {"long_name": text, "units": units}) for key, (v, text, units) in numbers.items()})
