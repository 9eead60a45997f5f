"""MIUB, the paper's eq. 9, over a run: JS by token and component, and what becomes of it."""

from collections.abc import Callable
from importlib.metadata import version
from typing import Any, Literal, get_args

import numpy as np
import xarray as xr

from lorascope.stores import Run, StoreError

from .captured import captured_measures, counted_tokens, keeps_all_states
from .measure import MEASURES, compute, measure
from .weights import is_weighted, token_weights, weighted_sums

__all__ = ["fidelity", "measure_run", "misfit", "miub", "not_finite", "reduce_js", "reduce_tokens"]

Reduction = Literal["mean", "sum", "last"]
MISFIT = 1e-2
"""Relative difference of js from which on stored states aren't those of the capture; rounding comes to 1e-6."""
NO_FIDELITY: dict[str, float | int] = {"fidelity_max": np.nan, "fidelity_median": np.nan, "fidelity_n": 0}


def miub(
    run: Run,
    *,
    adapter: str | None = None,
    reduction: Reduction = "mean",
    n_workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> xr.Dataset:
    """MIUB of a run in nats, with the JS of every token and component that it is made of.

    Parameters
    ----------
    run
        An open run, finished or not; samples that aren't wholly committed are left out. Where it keeps no states, or
        not those of all tokens, js is the one measured during capture.
    adapter
        Name of the adapter; may be left out where there is one.
    reduction
        What becomes of a sample's captured tokens at a component: their `mean` (ours), `sum`, or the `last` one. Mean
        and sum weigh tokens that were drawn by the inverse of their chance.
    n_workers
        Threads; by default one a processor.
    progress
        Called with (tasks done, tasks in all).

    Returns
    -------
    xr.Dataset
        `js` (token, component), nats, float32; `js_sample` (sample, component): the tokens reduced; `miub_sample`
        (sample,): its sum over components; `miub` (): the mean of that over samples, and `miub_se`: its standard
        error, NaN for one sample. A token whose base or delta isn't finite makes all of them NaN; `not_finite` names
        it.
        Attributes hold reduction, counts, provenance, whether js comes from `states` or from `capture`, and how far the
        one written at capture lies from the one computed from states.

    Raises
    ------
    StoreError
        If the run holds neither states nor js, no sample is wholly committed, or a chunk is broken.
    ValueError
        If `reduction` isn't one of the three.

    Notes
    -----
    M = (1/N) sum_samples sum_m JS(softmax(h_LLM^m), softmax(h_LoRA^m)). The paper doesn't say what becomes of the
    tokens of a sample. It calls M an upper bound of a mutual information; that theorem doesn't hold. What M is: the
    size of the adapter's perturbation of the softmaxes, 0 where the adapter does nothing, at most ln 2 a component.

    References
    ----------
    Zhang et al., arXiv 2501.03152, eq. 9.
    """
    measured = measure_run(run, ("js",), adapter=adapter, n_workers=n_workers, progress=progress)
    return reduce_js(measured, run, adapter=adapter, reduction=reduction)


def measure_run(
    run: Run,
    names: tuple[str, ...],
    *,
    adapter: str | None = None,
    n_workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> xr.Dataset:
    """Measures (token, component) of a run as a dataset, one variable each; see `MEASURES`.

    They are computed from states where those of all tokens were kept, and are else those that capture took. The
    coordinate `counted` tells which tokens have been measured.
    """
    if keeps_all_states(run):
        values = list(compute(measure(run, names, adapter=adapter), n_workers=n_workers, progress=progress))
    else:
        values = captured_measures(run, names, adapter)
    table = run.components.assign(run.adapter(adapter))
    table = table.isel(component=np.flatnonzero(table["rank"].values > 0))
    # In a pair, what is measured as delta is a difference whatever the adapter's own branch is kept as.
    labels = ("kind", "layer") if run.stream == "pair" else ("kind", "layer", "delta_source")
    return xr.Dataset(
        {
            name: (("token", "component"), block, dict(MEASURES[name][1]))
            for name, block in zip(names, values, strict=True)
        },
        coords={
            "component": table["path"].values.astype(object),
            **{name: ("component", table[name].values) for name in labels},
            "sample_of_token": ("token", run.tokens["sample"].values),
            "position": ("token", run.tokens["position"].values),
            "weight": ("token", token_weights(run)),
            "counted": ("token", counted_tokens(run, values[names.index("js")])),
        },
    )


def reduce_js(measured: xr.Dataset, run: Run, *, adapter: str | None, reduction: Reduction) -> xr.Dataset:
    """`miub`'s dataset from one that holds `js` (token, component); adds which samples were `used`."""
    if reduction not in get_args(Reduction):
        raise ValueError(f"`reduction` is {reduction!r}; allowed are {get_args(Reduction)}")
    used = _usable_samples(measured, run, reduction)
    by_sample = reduce_tokens(measured, "js", run, reduction)
    by_sample[~used] = np.nan
    totals = by_sample.sum(axis=1)
    whole = totals[used]
    result = measured[["js"]].assign(
        js_sample=(("sample", "component"), by_sample, {"long_name": f"{reduction} of js over tokens", "units": "nat"}),
        miub_sample=("sample", totals, {"long_name": "js_sample, summed over components", "units": "nat"}),
        miub=((), whole.mean(), {"long_name": "MIUB: miub_sample, mean over samples", "units": "nat"}),
        miub_se=((), _standard_error(whole), {"long_name": "standard error of miub over samples", "units": "nat"}),
    )
    result = result.assign_coords(sample=run.samples["id"].values, used=("sample", used))
    return result.assign_attrs(_attributes(run, adapter, reduction, used, measured))


def reduce_tokens(measured: xr.Dataset, name: str, run: Run, reduction: Reduction) -> np.ndarray:
    """A measure by sample, float64 (sample, component), over the counted tokens; NaN where a sample has none."""
    values, counted, weights = (measured[key].values for key in (name, "counted", "weight"))
    starts, stops = run.samples["token_start"].values, run.samples["token_stop"].values
    if reduction == "last":
        return np.asarray(values[stops - 1], np.float64)
    sums = weighted_sums(values, np.where(counted, weights, 0.0), starts)
    counted_weights = weighted_sums(counted[:, None], weights, starts)
    means = np.divide(sums, counted_weights, out=np.full_like(sums, np.nan), where=counted_weights > 0)
    return np.asarray(means if reduction == "mean" else means * np.add.reduceat(weights, starts)[:, None])


def not_finite(measured: xr.Dataset, run: Run) -> list[tuple[int, str]]:
    """(token, component) of every js that is NaN though the token was measured: there base or delta isn't finite."""
    bad = np.isnan(measured["js"].values) & measured["counted"].values[:, None]
    return [(int(token), str(measured["component"].values[index])) for token, index in np.argwhere(bad)]


def misfit(result: xr.Dataset, run: Run) -> str | None:
    """What to say where stored states give another js than was measured when they were captured; None where they fit.

    States that were narrowed (`--store bf16`) may differ by as much; of others only rounding is expected.
    """
    narrowed = run.attributes.get("provenance", {}).get("settings", {}).get("store") == "bf16"
    if narrowed or not result.attrs["fidelity_max"] > MISFIT:
        return None
    return (
        f"js from the store is off by {result.attrs['fidelity_max']:.2g} of what was measured during capture, far "
        "above rounding: these may not be the states that were captured; run `lorascope verify`"
    )


def fidelity(measured: xr.Dataset, run: Run, *, adapter: str | None = None) -> dict[str, float | int]:
    """How far js from the store lies from js in memory at capture: relative, over the tokens that have both.

    Keys: `fidelity_max`, `fidelity_median` (relative differences; NaN if nothing is shared) and `fidelity_n`.
    """
    captured = run.js(adapter).values
    kept = [run.component_paths.index(path) for path in measured["component"].values]
    reference = captured[:, kept].astype(np.float64)
    shared = np.isfinite(reference) & np.isfinite(measured["js"].values)
    if not shared.any():
        return dict(NO_FIDELITY)
    difference = np.abs(measured["js"].values[shared] - reference[shared])
    with np.errstate(divide="ignore"):  # a js of 0 in memory that isn't 0 from the store differs without bound
        relative = np.divide(difference, reference[shared], out=np.zeros_like(difference), where=difference > 0)
    return {
        "fidelity_max": float(relative.max()),
        "fidelity_median": float(np.median(relative)),
        "fidelity_n": int(shared.sum()),
    }


def _usable_samples(measured: xr.Dataset, run: Run, reduction: Reduction) -> np.ndarray:
    """Bool (sample,): all of the sample's tokens lie in committed rows, and what is reduced was measured."""
    starts, stops = run.samples["token_start"].values, run.samples["token_stop"].values
    whole = np.logical_and.reduceat(run.committed.values, starts)
    if not whole.any():
        raise StoreError(f"no sample of {run.place.name!r} is wholly committed yet; capture more of it")
    counted = measured["counted"].values
    used = whole & (counted[stops - 1] if reduction == "last" else np.logical_or.reduceat(counted, starts))
    if not used.any():
        raise StoreError(
            f"{run.place.name!r} holds no states, and js of no token of a whole sample; capture it with states"
        )
    return np.asarray(used)


def _standard_error(values: np.ndarray) -> float:
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("nan")


def _attributes(
    run: Run, adapter: str | None, reduction: str, used: np.ndarray, measured: xr.Dataset
) -> dict[str, Any]:
    from_states = keeps_all_states(run)
    weighted = "weighted " if is_weighted(run) and reduction != "last" else ""
    return {
        "measure": "softmax Jensen-Shannon divergence, arXiv 2501.03152 eq. 9",
        "units": "nat",
        "reduction": f"tokens: {weighted}{reduction}; components: sum; samples: mean",
        "n_samples": int(used.sum()),
        "n_samples_incomplete": int((~used).sum()),
        "n_tokens": int(measured["counted"].sum()),
        "n_components": measured.sizes["component"],
        "n_not_finite": len(not_finite(measured, run)),
        "js_source": "states" if from_states else "capture",
        **(fidelity(measured, run, adapter=adapter) if from_states else NO_FIDELITY),
        "stream": run.stream,
        "adapter": adapter or run.adapters[0],
        "run": run.place.name,
        "run_fingerprint": str(run.attributes.get("fingerprint", "")),
        "lorascope": version("lorascope"),
    }
