"""MIUB of a run together with what qualifies it, from one trip over the store."""

from collections.abc import Callable
from typing import Any

import numpy as np
import xarray as xr

from lorascope.stores import Run, StoreError

from .measure import MEASURES
from .miub import measure_run, reduce_js

__all__ = ["QUALIFIERS", "position_profile", "qualify"]

QUALIFIERS = ("js_permuted", "effective_width", "delta_ratio")
"""Measures that say how a component's js is to be read; they need states."""
LEVELS = (0.1, 0.25, 0.5, 0.75, 0.9)


def qualify(
    run: Run,
    *,
    adapter: str | None = None,
    n_workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> xr.Dataset:
    """MIUB of a run in nats, by sample, component and token, and what qualifies it by component.

    Parameters
    ----------
    run
        An open run, finished or not; samples that aren't wholly committed are left out.
    adapter
        Name of the adapter; may be left out where there is one.
    n_workers
        Threads; by default one a processor.
    progress
        Called with (tasks done, tasks in all).

    Returns
    -------
    xr.Dataset
        `js_sample`, `miub_sample`, `miub`, `miub_se` and attributes as `miub` with its default reduction gives them.
        By component: `js_component`, the mean of js_sample over samples, `js_component_se`, its standard error, and
        `share` of MIUB, NaN where MIUB is 0; `js_permuted`, reduced like js_component; `effective_width` and
        `delta_ratio`, medians over tokens. By token: `js_token`, js summed over components. Coordinates say a
        component's kind, layer and d_out, a token's sample, position and role, and which samples were `used`.

    Raises
    ------
    StoreError
        If no sample is wholly committed, a chunk is broken, or a run without states has no js either.

    Notes
    -----
    A run without states has js from capture only: what is in `QUALIFIERS` is missing then, and a sample is the mean of
    those of its tokens that were measured.
    """
    if run.has_states:
        measured = measure_run(run, ("js", *QUALIFIERS), adapter=adapter, n_workers=n_workers, progress=progress)
        used = _whole_samples(run)
        result = reduce_js(measured, run, adapter=adapter, reduction="mean")
        result = result.assign(_qualifiers(measured, run, used))
    else:
        result, used = _reduce_captured(run, adapter)
    total = result["js"].astype(np.float64).sum("component", skipna=False)
    result["js_token"] = total.assign_attrs(long_name="js summed over components", units="nat")
    widths = dict(zip(run.component_paths, run.components["d_out"].values.tolist(), strict=True))
    result = result.assign_coords(
        role=("token", run.tokens["role"].values),
        d_out=("component", [widths[path] for path in result["component"].values]),
        used=("sample", used),
    )
    return result.assign(_components(result)).drop_vars("js")


def position_profile(values: xr.DataArray, position: np.ndarray) -> xr.Dataset:
    """Quantiles of a token-level quantity by position, in its unit, and how many tokens each rests on.

    Parameters
    ----------
    values
        (token,); tokens where it is NaN are left out.
    position
        (token,), whole numbers, in the sequence or from any other origin.

    Returns
    -------
    xr.Dataset
        `quantiles` (quantile, position) at 0.1, 0.25, 0.5, 0.75 and 0.9, and `n` (position,).
    """
    known = np.isfinite(values.values)
    order = np.argsort(position[known], kind="stable")
    found, starts, counts = np.unique(position[known][order], return_index=True, return_counts=True)
    groups = np.split(values.values[known][order], starts[1:])
    quantiles = np.full((len(LEVELS), len(found)), np.nan)
    for place in range(len(found)):
        quantiles[:, place] = np.quantile(groups[place], LEVELS)
    return xr.Dataset(
        {"quantiles": (("quantile", "position"), quantiles), "n": ("position", counts)},
        coords={"position": found, "quantile": list(LEVELS)},
        attrs=dict(values.attrs),
    )


def _qualifiers(measured: xr.Dataset, run: Run, used: np.ndarray) -> dict[str, xr.DataArray]:
    committed = run.committed.values
    permuted = _sample_means(measured["js_permuted"].values, run, committed)[used].mean(axis=0)
    found = {"js_permuted": _named(permuted, "js_permuted", "reduced like js_component")}
    for name in ("effective_width", "delta_ratio"):
        found[name] = _named(np.median(measured[name].values[committed], axis=0), name, "median over tokens")
    return found


def _named(values: np.ndarray, name: str, reduction: str) -> xr.DataArray:
    attributes = MEASURES[name][1]
    return xr.DataArray(
        values.astype(np.float64),
        dims="component",
        attrs={**attributes, "long_name": f"{attributes['long_name']}; {reduction}"},
    )


def _components(result: xr.Dataset) -> dict[str, Any]:
    samples = result["js_sample"].values[result["used"].values]
    means = samples.mean(axis=0)
    total = means.sum()
    share = means / total if total > 0 else np.full_like(means, np.nan)
    errors = _standard_errors(samples)
    return {
        "js_component": ("component", means, {"long_name": "js_sample, mean over samples", "units": "nat"}),
        "js_component_se": ("component", errors, {"long_name": "standard error of js_component", "units": "nat"}),
        "share": ("component", share, {"long_name": "js_component / miub", "units": "1"}),
    }


def _standard_errors(samples: np.ndarray) -> np.ndarray:
    """Of the mean over the first axis, NaN for one sample."""
    if len(samples) < 2:
        return np.full(samples.shape[1:], np.nan)
    return np.asarray(samples.std(axis=0, ddof=1) / np.sqrt(len(samples)))


def _whole_samples(run: Run) -> np.ndarray:
    """Bool (sample,): all of the sample's tokens are committed."""
    return np.logical_and.reduceat(run.committed.values, run.samples["token_start"].values)


def _sample_means(values: np.ndarray, run: Run, counted: np.ndarray) -> np.ndarray:
    """float64 (sample, component): mean over the counted tokens, NaN where a sample has none."""
    starts = run.samples["token_start"].values
    sums = np.add.reduceat(np.where(counted[:, None], values, 0).astype(np.float64), starts, axis=0)
    counts = np.add.reduceat(counted.astype(np.int64), starts)[:, None]
    return np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)


def _reduce_captured(run: Run, adapter: str | None) -> tuple[xr.Dataset, np.ndarray]:
    """The same as `reduce_js` from js that capture measured, and which samples entered."""
    rows = np.flatnonzero(run.adapter(adapter)["rank"].values > 0)
    js = run.js(adapter).isel(component=rows).compute()
    counted = np.isfinite(js.values).any(axis=1)
    by_sample = _sample_means(js.values, run, counted)
    used = _whole_samples(run) & np.isfinite(by_sample).any(axis=1)
    if not used.any():
        raise StoreError(
            f"{str(run.path)!r} holds no states, and js of no token of a whole sample; capture it with states"
        )
    by_sample[~used] = np.nan
    totals = by_sample.sum(axis=1)
    whole = totals[used]
    table = run.components.isel(component=rows)
    result = xr.Dataset(
        {
            "js": js,
            "js_sample": (("sample", "component"), by_sample, {"units": "nat"}),
            "miub_sample": ("sample", totals, {"units": "nat"}),
            "miub": ((), whole.mean(), {"units": "nat"}),
            "miub_se": ((), _standard_errors(whole), {"units": "nat"}),
        },
        coords={
            "kind": ("component", table["kind"].values),
            "layer": ("component", table["layer"].values),
            "sample": run.samples["id"].values,
            "sample_of_token": ("token", run.tokens["sample"].values),
            "position": ("token", run.tokens["position"].values),
        },
        attrs={
            "n_samples": int(used.sum()),
            "n_samples_incomplete": int((~used).sum()),
            "n_tokens": int(counted.sum()),
            "n_components": len(rows),
            "n_not_finite": int(np.isnan(js.values[counted]).sum()),
            "fidelity_max": np.nan,
            "fidelity_median": np.nan,
            "fidelity_n": 0,
            "adapter": adapter or run.adapters[0],
        },
    )
    return result, used
