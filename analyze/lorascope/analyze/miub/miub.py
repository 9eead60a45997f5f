"""MIUB of a run (eq. 9 of arXiv 2501.03152): js by token and component, its reductions, and all readings of eq. 9.

js is the Jensen-Shannon divergence (JS) of a layer's output without and with the adapter, as softmaxes. MIUB is js
averaged over tokens and samples and summed over components.
"""

from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any, get_args

import numpy as np
import xarray as xr

from lorascope.analyze.measuring.run import measure_run
from lorascope.analyze.measuring.sources import available_measures
from lorascope.analyze.measuring.unfinished import finish_result
from lorascope.analyze.results.options import Reduction, Unit, refuse_target
from lorascope.analyze.results.tree import result_tree, run_attributes
from lorascope.analyze.results.weights import is_weighted, standard_error
from lorascope.stores import Run, StoreError
from lorascope.stores.checking.verify import open_as_written
from lorascope.stores.names import Patterns, require_choice
from lorascope.stores.places.file_lock import file_lock
from lorascope.stores.places.files import explain_full_disk
from lorascope.stores.progress import Progress
from lorascope.stores.reading.read import RunLike

from .reduce import UNITS, SampleSums, reduce_tokens, token_blocks, token_sums, usable_samples

LEAST_JS = 1e-24
"""Least js in nats for relative differences: below it the kernel loses digits."""
MEDIAN_VALUES = 2**20
"""Largest number of differences, evenly chosen, for their median; the maximum is over all differences."""


def miub(
    run: RunLike,
    *,
    adapter: str | None = None,
    component: Patterns = None,
    reduction: Reduction = "mean",
    unit: Unit = "nat",
    scheduler: Any = None,
    n_workers: int | None = None,
    progress: Progress | None = None,
    out: str | Path | None = None,
) -> xr.DataTree:
    """Return MIUB of a run, the summed Jensen-Shannon divergence (JS), with the JS of every token and component.

    Parameters
    ----------
    run
        An open run or its path or url, finished or not; samples that aren't wholly committed are excluded. If it
        doesn't keep the states of all tokens, js is the one measured during capture.
    adapter
        Name of the adapter; not needed if there is only one.
    component
        Path of a component or a pattern, such as `*.q_proj`, or several; by default all that the adapter changes.
    reduction
        How a sample's captured tokens at a component are combined: their `mean` (ours), `sum`, the `last` one, or the
        mean over the `answer`, in a chat the scored tokens of the assistant. Mean and sum weight sampled tokens by the
        inverse of their probability.
    unit
        `nat`, `bit`, or `sqrt`: the root of each token's JS in nats. `js` itself always is in nats.
    scheduler, n_workers
        Where tasks run: the address of a running `dask.distributed` scheduler, a client, or the name of one of Dask's
        local schedulers. By default the active client or, without one, as many threads as there are processors. Results
        don't depend on it.
    progress
        Called with (tasks done, tasks in all).
    out
        Save the result here: a folder ending in .zarr, or a NetCDF file ending in .nc. `js` is then written component
        by component and never held in memory as a whole. If the call is stopped, the same call continues it.

    Returns
    -------
    xr.DataTree
        At the root, by component: `js`, a mean over samples, and its `share` of `miub`, the sum over components.
        `js_se` and `miub_se` are standard errors, which assume only that samples are independent; NaN for one sample.

        In the node `tokens`: `js` (token, component), float32 and always in nats, and `miub` (token,), its sum over
        components. In the node `samples`: `js` (sample, component), the tokens reduced, and `miub` (sample,), its sum.

        Labels are coordinates: of components `kind`, `layer` and `rank`, of tokens `sample` (an id), `role`,
        `position` and `text`, of samples `sample`, `dataset`, `split`, `prompt`, `length`, and whether one was `used`.
        Labels of components and tokens, except the text, have an index: `result["tokens/js"].sel(sample="q03")`.

        A token whose base or delta isn't finite makes every mean and sum with it NaN. Attributes, all at the root,
        contain reduction, counts, the first value that isn't finite, provenance, whether js comes from `states` or
        from `capture`, and how far js measured at capture is from js computed from states.

    Raises
    ------
    StoreError
        If no sample is wholly committed, or a chunk is broken.
    ValueError
        If `reduction` or `unit` isn't one of these, a component isn't known, or `out` has another suffix.
    FileExistsError
        If `out` exists.

    Notes
    -----
    M = (1/N) sum_samples sum_m JS(softmax(h_LLM^m), softmax(h_LoRA^m)). The paper doesn't say how the tokens of a
    sample are reduced. It calls M an upper bound of a mutual information; that theorem doesn't hold. M is the size of
    the adapter's change, seen through a softmax: 0 if the adapter does nothing, at most ln 2 per component.

    References
    ----------
    Zhang et al., arXiv 2501.03152, eq. 9.
    """
    run = open_as_written(run)
    require_choice("reduction", reduction, get_args(Reduction))
    require_choice("unit", unit, UNITS)
    if run.states == "all":  # then samples can be checked before the work
        known = xr.Dataset(coords=run.token_labels).assign_coords(counted=run.committed.variable)
        require_samples(known, run, reduction)
    options: dict[str, Any] = {"adapter": adapter, "component": component, "scheduler": scheduler}
    options |= {"n_workers": n_workers, "progress": progress}
    if out is None:
        return reduce_js(measure_run(run, ("js",), None, **options), run, adapter, reduction=reduction, unit=unit)
    target = refuse_target(Path(out))
    with file_lock(target), explain_full_disk(target, "components that are done stay for the next attempt"):
        measured = measure_run(run, ("js",), target, **options)
        return finish_result(reduce_js(measured, run, adapter, reduction=reduction, unit=unit), target)


def reduce_js(
    measured: xr.Dataset, run: Run, adapter: str | None = None, *, reduction: Reduction = "mean", unit: Unit = "nat"
) -> xr.DataTree:
    """Return MIUB and its parts as a tree, from a dataset of js (token, component) that was measured before."""
    used = require_samples(measured, run, reduction)
    by_sample, by_token, diagnostics = _scan_js(measured, run, adapter, reduction, unit)
    by_sample[~used] = np.nan
    units, about = UNITS[unit].symbol, "js, summed over components"
    tokens = measured[["js"]].assign(miub=("token", by_token, {"long_name": about, "units": units}))
    js = (("sample", "component"), by_sample, {"long_name": f"{reduction} of js over tokens", "units": units})
    totals = ("sample", by_sample.sum(axis=1), {"long_name": about, "units": units})
    labels = {name: ("sample", run.samples[name].values) for name in ("dataset", "split", "prompt", "length")}
    coords = {"sample": run.samples["id"].values, "used": ("sample", used), **labels}
    result = result_tree(tokens, xr.Dataset({"js": js, "miub": totals}, coords=coords))
    weighted = "weighted " if is_weighted(run) and reduction != "last" else ""
    result.attrs = dict(
        **miub_attributes(run, adapter, measured),
        unit=unit,
        units=units,
        over_tokens=reduction,
        reduction=f"tokens: {weighted}{reduction}; components: sum; samples: mean",
        n_samples=int(used.sum()),
        n_samples_incomplete=int((~used).sum()),
        **diagnostics,
    )
    return result


def _scan_js(
    measured: xr.Dataset, run: Run, adapter: str | None, reduction: Reduction, unit: Unit
) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """Return js by (sample, component), its sum by token, and a dict of diagnostics, in one pass over js.

    Diagnostics are counts of values that aren't finite, and differences from js measured at capture.
    """
    sums, by_token = SampleSums(measured, run, reduction, unit=unit), np.empty(measured.sizes["token"])
    names, counted, captured = measured["component"].values, measured["counted"].values[:, None], None
    if run.states == "all":
        captured = run.js(adapter)[:, [run.component_paths.index(path) for path in names]]
    step = -(-measured["js"].size // MEDIAN_VALUES)
    n_not_finite, first, n, largest, some = 0, {}, 0, 0.0, []
    for tokens, block in token_blocks(measured["js"].variable):
        sums.add(tokens, block)
        by_token[tokens] = token_sums(block, unit)
        holes = np.argwhere(np.isnan(block) & counted[tokens])  # base or delta isn't finite
        if len(holes) and not n_not_finite:
            token, component = holes[0].tolist()
            first = {"not_finite_token": tokens.start + token, "not_finite_component": str(names[component])}
        n_not_finite += len(holes)
        if captured is not None:
            relative = _relative_differences(block, captured[tokens].values.astype(np.float64))
            n, largest = n + len(relative), max(largest, float(relative.max(initial=0.0)))
            some.append(relative[::step])
    median = float(np.median(np.concatenate(some))) if n else np.nan
    fidelity = {"fidelity_max": largest if n else np.nan, "fidelity_median": median, "fidelity_n": n}
    return sums.values(), by_token, {"n_not_finite": n_not_finite, **first, **fidelity}


def _relative_differences(block: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Return relative differences of js from js measured at capture, flat float32, of values finite in both."""
    shared = np.isfinite(reference) & np.isfinite(block)
    difference = np.abs(block[shared] - reference[shared])
    return np.asarray(difference / np.maximum(reference[shared], LEAST_JS), np.float32)


def require_samples(measured: xr.Dataset, run: Run, reduction: Reduction) -> np.ndarray:
    """Return which samples can be reduced, all tokens captured, bool (sample,); raise StoreError if no sample can."""
    used = usable_samples(measured, run, reduction)
    if used.any():
        return used
    if reduction == "answer" and usable_samples(measured, run, "mean").any():
        raise StoreError(f"no whole sample of {run.place.name!r} has tokens of an answer; take another reduction")
    raise StoreError(f"no sample of {run.place.name!r} is wholly committed yet; capture more of it")


def miub_attributes(run: Run, adapter: str | None, measured: xr.Dataset) -> dict[str, Any]:
    """Return attributes of a result, as a dict: where js comes from, and its numbers of tokens and components."""
    return {
        "measure": "softmax Jensen-Shannon divergence, arXiv 2501.03152 eq. 9",
        "n_tokens": int(measured["counted"].sum()),
        "n_components": measured.sizes["component"],
        "js_source": "states" if run.states == "all" else "capture",
        **run_attributes(run, adapter),
    }


PRINTED_MIUB: Mapping[str, tuple[float, float, int]] = {"Phi3": (1511.6, 1913.3, 128), "LLaMA3": (3217.7, 3837.0, 224)}
"""Model -> least and largest MIUB of the paper's table 1, and its number of linear layers in attention and FFN.

Phi-3 fuses q, k, v and gate, up. The paper doesn't say which layers LoRA wraps."""
READING_STATES: Mapping[str, str] = {"lora": "js", "delta alone": "js_delta_alone"}
"""States that may be compared with base -> the measure that compares them."""
READING_REDUCTIONS: tuple[Reduction, ...] = ("mean", "sum", "last")
"""Reductions over tokens that the paper may have used."""


def miub_readings(
    run: RunLike,
    *,
    adapter: str | None = None,
    component: Patterns = None,
    scheduler: Any = None,
    n_workers: int | None = None,
    progress: Progress | None = None,
) -> xr.Dataset:
    """Return MIUB (the paper's eq. 9) for each choice that the paper leaves open: states, reduction and unit.

    Parameters
    ----------
    run, adapter, component, scheduler, n_workers, progress
        As for `miub`.

    Returns
    -------
    xr.Dataset
        Over `states` (base against lora, or delta alone), `tokens` (their mean, sum, or the last one) and `unit` (nat,
        bit, sqrt: the root of each token's JS): `miub`, `miub_se`, and `per_component`, miub over the number of
        components; `times_low` and `times_high`: the least and the largest MIUB per component of the paper's table 1,
        divided by `per_component`. Values of delta alone are NaN if a run doesn't keep the states of all tokens.

    Raises
    ------
    StoreError
        As `miub`.

    Notes
    -----
    The paper doesn't say how tokens are reduced, whether base is part of h_LoRA, or which unit it uses. Its
    values per component exceed ln 2 = 0.693 nats, the most that a mean over tokens can reach, 17 to 25 times. This says
    how each reading compares in size with them; size alone doesn't show which of them the paper used.
    """
    run = open_as_written(run)
    names = available_measures(run, tuple(READING_STATES.values()))
    options: dict[str, Any] = {"scheduler": scheduler, "n_workers": n_workers, "progress": progress}
    measured = measure_run(run, names, adapter=adapter, component=component, **options)
    cells = np.full((2, len(READING_STATES), len(READING_REDUCTIONS), len(UNITS)), np.nan)
    for (i, name), (j, tokens), (k, unit) in product(
        enumerate(READING_STATES.values()), enumerate(READING_REDUCTIONS), enumerate(UNITS)
    ):
        if name in names:
            used = require_samples(measured, run, tokens)
            values = reduce_tokens(measured, name, run, tokens, unit=unit)[used].sum(axis=1)
            cells[:, i, j, k] = values.mean(), standard_error(values)
    per_component = cells[0] / measured.sizes["component"]
    low, high = (end(value / m for *values, m in PRINTED_MIUB.values() for value in values) for end in (min, max))
    values_by_name = {"miub": cells[0], "miub_se": cells[1], "per_component": per_component}
    with np.errstate(divide="ignore"):
        values_by_name |= {"times_low": low / per_component, "times_high": high / per_component}
    dims = ("states", "tokens", "unit")
    return xr.Dataset(
        {name: (dims, values) for name, values in values_by_name.items()},
        coords={"states": list(READING_STATES), "tokens": list(READING_REDUCTIONS), "unit": list(UNITS)},
        attrs={**miub_attributes(run, adapter, measured), "printed_low": low, "printed_high": high}
        | {"n_samples": int(require_samples(measured, run, "mean").sum())},
    )
