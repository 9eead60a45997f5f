"""MIUB of a run together with what qualifies it, from one trip over the store."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from lorascope.analyze.measuring.measures import MEASURES
from lorascope.analyze.measuring.run import measure_run
from lorascope.analyze.measuring.sources import available
from lorascope.analyze.results.weights import weighted_quantiles
from lorascope.stores import Run
from lorascope.stores.progress import Progress
from lorascope.stores.reading.read import RunLike, as_run

from .miub import reduce_js
from .reduce import reduce_tokens

QUALIFIERS = ("js_permuted", "effective_width", "delta_ratio")
"""Measures that say how a component's js is to be read; the permuted one needs the states of all tokens."""


def qualify(
    run: RunLike,
    *,
    adapter: str | None = None,
    components: Sequence[str] | None = None,
    measured: xr.Dataset | None = None,
    n_workers: int | None = None,
    progress: Progress | None = None,
) -> xr.DataTree:
    """MIUB of a run in nats with its null and other context by component, by sample, component and token.

    Parameters
    ----------
    run
        An open run or its path or url, finished or not; samples that aren't wholly committed are left out.
    adapter
        Name of the adapter; may be left out where there is one.
    components
        Paths of components or patterns, such as `*.q_proj`; by default all that the adapter touches.
    measured
        What `measure_run` returned of js and all of `QUALIFIERS` that the run has, so that nothing is computed again.
    n_workers
        Threads; by default one a processor.
    progress
        Called with (tasks done, tasks in all).

    Returns
    -------
    xr.DataTree
        What `miub` with its default reduction returns. At the root, by component, there are also `js_permuted`,
        reduced like js; `effective_width` and `delta_ratio`, medians over tokens; and the coordinates d_out and
        `delta_source`.

    Raises
    ------
    StoreError
        If no sample is wholly committed, or a chunk is broken.

    Notes
    -----
    If a run doesn't have the states of all tokens, js, effective_width and delta_ratio are those measured during
    capture, and js_permuted is missing. Means and medians over tokens are weighted.
    """
    run = as_run(run)
    if measured is None:
        names = available(run, ("js", *QUALIFIERS))
        options: dict[str, Any] = {"adapter": adapter, "components": components, "n_workers": n_workers}
        measured = measure_run(run, names, progress=progress, **options)
    result = reduce_js(measured, run, adapter)
    used = result.children["samples"].dataset["used"].values
    result.update({name: values.variable for name, values in _qualifiers(measured, run, used).items()})
    return result


def _qualifiers(measured: xr.Dataset, run: Run, used: np.ndarray) -> dict[str, xr.DataArray]:
    qualifiers = {}
    if "js_permuted" in measured:
        permuted = reduce_tokens(measured, "js_permuted", run)[used].mean(axis=0)
        qualifiers["js_permuted"] = _named(permuted, "js_permuted", "reduced like js")
    counted = measured["counted"].values
    weights = measured["weight"].values[counted]
    for name in [name for name in ("effective_width", "delta_ratio") if name in measured]:
        medians = [_median(column, weights) for column in measured[name].values[counted].T]
        qualifiers[name] = _named(np.array(medians), name, "median over tokens")
    return qualifiers


def _median(values: np.ndarray, weights: np.ndarray) -> float:
    """Weighted median; NaN where there is no value, or one of them is NaN."""
    return np.nan if np.isnan(values).any() or not len(values) else float(weighted_quantiles(values, weights, [0.5])[0])


def _named(values: np.ndarray, name: str, reduction: str) -> xr.DataArray:
    attributes = dict(MEASURES[name].outputs[name])
    attributes["long_name"] += f"; {reduction}"
    return xr.DataArray(values.astype(np.float64), dims="component", attrs=attributes)
