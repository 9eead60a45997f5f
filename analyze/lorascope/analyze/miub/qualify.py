"""MIUB of a run with measures that help to interpret it, from one pass over the store.

MIUB is js, the Jensen-Shannon divergence of a layer's output without and with the adapter, averaged over tokens and
samples and summed over components.
"""

from typing import Any

import numpy as np
import xarray as xr

from lorascope.analyze.measuring.measures import MEASURES
from lorascope.analyze.measuring.run import measure_run
from lorascope.analyze.measuring.sources import available_measures
from lorascope.analyze.results.weights import weighted_quantiles
from lorascope.stores import Run
from lorascope.stores.checking.verify import open_as_written
from lorascope.stores.names import Patterns
from lorascope.stores.progress import Progress
from lorascope.stores.reading.read import RunLike

from .miub import reduce_js
from .reduce import reduce_tokens

QUALIFIERS = ("js_permuted", "effective_width", "delta_ratio")
"""Measures that help to interpret js of a component; the permuted one needs the states of all tokens."""


def qualify(
    run: RunLike,
    *,
    adapter: str | None = None,
    component: Patterns = None,
    n_workers: int | None = None,
    progress: Progress | None = None,
) -> xr.DataTree:
    """Return MIUB of a run as `miub` does, with a null of js, effective width and delta ratio by component.

    Parameters
    ----------
    run, adapter, component, n_workers, progress
        As for `miub`.

    Returns
    -------
    xr.DataTree
        The tree that `miub` with its default reduction returns. At its root, by component, are also `js_permuted`,
        reduced like js; `effective_width` and `delta_ratio`, medians over tokens; and the coordinates d_out and
        `delta_source`.

    Raises
    ------
    StoreError
        If no sample is wholly committed, or a chunk is broken.

    Notes
    -----
    If a run doesn't have the states of all tokens, js, effective_width and delta_ratio are the values measured during
    capture, and js_permuted is missing. Means and medians over tokens are weighted.
    """
    run = open_as_written(run)
    options: dict[str, Any] = {"adapter": adapter, "component": component, "n_workers": n_workers}
    measured = measure_run(run, available_measures(run, ("js", *QUALIFIERS)), progress=progress, **options)
    result = reduce_js(measured, run, adapter)
    used = result.children["samples"].dataset["used"].values
    result.update({name: values.variable for name, values in _qualifiers(measured, run, used).items()})
    return result


def _qualifiers(measured: xr.Dataset, run: Run, used: np.ndarray) -> dict[str, xr.DataArray]:
    """Return name -> values (component,) of the measures that help to interpret js, over tokens and samples."""
    qualifiers = {}
    if "js_permuted" in measured:
        permuted = reduce_tokens(measured, "js_permuted", run)[used].mean(axis=0)
        qualifiers["js_permuted"] = _qualifier_array(permuted, "js_permuted", "reduced like js")
    counted = measured["counted"].values
    weights = measured["weight"].values[counted]
    for name in [name for name in ("effective_width", "delta_ratio") if name in measured]:
        medians = [_weighted_median(column, weights) for column in measured[name].values[counted].T]
        qualifiers[name] = _qualifier_array(np.array(medians), name, "median over tokens")
    return qualifiers


def _weighted_median(values: np.ndarray, weights: np.ndarray) -> float:
    """Return the weighted median as a float; NaN if there are no values or one of them is NaN."""
    return np.nan if np.isnan(values).any() or not len(values) else float(weighted_quantiles(values, weights, [0.5])[0])


def _qualifier_array(values: np.ndarray, name: str, reduction: str) -> xr.DataArray:
    """Return values as an array (component,) with attributes of the measure `name`, `reduction` in `long_name`."""
    attributes = dict(MEASURES[name].outputs[name])
    attributes["long_name"] += f"; {reduction}"
    return xr.DataArray(values.astype(np.float64), dims="component", attrs=attributes)
