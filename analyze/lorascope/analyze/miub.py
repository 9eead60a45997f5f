"""MIUB, the paper's eq. 9, over a run: JS by token and component, and what becomes of it."""

from collections.abc import Callable
from importlib.metadata import version
from typing import Any, Literal, get_args

import numpy as np
import xarray as xr

from lorascope.stores import Run, StoreError

from .measure import MEASURES, compute, measure
from .sources import sources_of

__all__ = ["fidelity", "measure_run", "miub", "not_finite"]

Reduction = Literal["mean", "sum", "last"]


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
        An open run, finished or not; samples that aren't wholly committed are left out.
    adapter
        Name of the adapter; may be left out where there is one.
    reduction
        What becomes of a sample's captured tokens at a component: their `mean` (ours), `sum`, or the `last` one.
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
        Attributes hold reduction, counts, provenance, and how far the js written at capture lies from the one computed
        from the store.

    Raises
    ------
    StoreError
        If the run holds no states, no sample is wholly committed, or a chunk is broken.
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
    """Measures (token, component) of a run as a dataset, one variable each; see `MEASURES`."""
    values = compute(measure(run, names, adapter=adapter), n_workers=n_workers, progress=progress)
    touched = [source.component for source in sources_of(run, adapter)]
    rows = [run.component_paths.index(path) for path in touched]
    table = run.components.isel(component=rows)
    return xr.Dataset(
        {
            name: (("token", "component"), block, dict(MEASURES[name][1]))
            for name, block in zip(names, values, strict=True)
        },
        coords={
            "component": np.array(touched, dtype=object),
            "kind": ("component", table["kind"].values),
            "layer": ("component", table["layer"].values),
            "sample_of_token": ("token", run.tokens["sample"].values),
            "position": ("token", run.tokens["position"].values),
        },
    )


def reduce_js(measured: xr.Dataset, run: Run, *, adapter: str | None, reduction: Reduction) -> xr.Dataset:
    """`miub`'s dataset from a dataset that holds `js` (token, component)."""
    if reduction not in get_args(Reduction):
        raise ValueError(f"`reduction` is {reduction!r}; allowed are {get_args(Reduction)}")
    complete = _complete_samples(run)
    if not complete.any():
        raise StoreError(f"no sample of {str(run.path)!r} is wholly committed yet; capture more of it")
    by_sample = _reduce_tokens(measured["js"].values, run, reduction)
    by_sample[~complete] = np.nan
    totals = by_sample.sum(axis=1)
    whole = totals[complete]
    result = measured[["js"]].assign(
        js_sample=(("sample", "component"), by_sample, {"long_name": f"{reduction} of js over tokens", "units": "nat"}),
        miub_sample=("sample", totals, {"long_name": "js_sample, summed over components", "units": "nat"}),
        miub=((), whole.mean(), {"long_name": "MIUB: miub_sample, mean over samples", "units": "nat"}),
        miub_se=((), _standard_error(whole), {"long_name": "standard error of miub over samples", "units": "nat"}),
    )
    result = result.assign_coords(sample=run.samples["id"].values)
    return result.assign_attrs(_attributes(run, adapter, reduction, complete, measured))


def not_finite(measured: xr.Dataset, run: Run) -> list[tuple[int, str]]:
    """(token, component) of every js that is NaN in a committed row: there base or delta isn't finite."""
    bad = np.isnan(measured["js"].values) & run.committed.values[:, None]
    return [(int(token), str(measured["component"].values[index])) for token, index in np.argwhere(bad)]


def fidelity(measured: xr.Dataset, run: Run, *, adapter: str | None = None) -> dict[str, float | int]:
    """How far js from the store lies from js in memory at capture: relative, over the tokens that have both.

    Keys: `fidelity_max`, `fidelity_median` (relative differences; NaN if nothing is shared) and `fidelity_n`.
    """
    captured = run.js(adapter).values
    kept = [run.component_paths.index(path) for path in measured["component"].values]
    reference = captured[:, kept].astype(np.float64)
    shared = np.isfinite(reference) & np.isfinite(measured["js"].values)
    if not shared.any():
        return {"fidelity_max": np.nan, "fidelity_median": np.nan, "fidelity_n": 0}
    difference = np.abs(measured["js"].values[shared] - reference[shared])
    with np.errstate(divide="ignore"):  # a js of 0 in memory that isn't 0 from the store differs without bound
        relative = np.divide(difference, reference[shared], out=np.zeros_like(difference), where=difference > 0)
    return {
        "fidelity_max": float(relative.max()),
        "fidelity_median": float(np.median(relative)),
        "fidelity_n": int(shared.sum()),
    }


def _reduce_tokens(js: np.ndarray, run: Run, reduction: Reduction) -> np.ndarray:
    """float64 (sample, component)."""
    starts, stops = run.samples["token_start"].values, run.samples["token_stop"].values
    if reduction == "last":
        return np.asarray(js[stops - 1], np.float64)
    sums: np.ndarray = np.add.reduceat(js.astype(np.float64), starts, axis=0)
    return sums if reduction == "sum" else np.asarray(sums / (stops - starts)[:, None])


def _complete_samples(run: Run) -> np.ndarray:
    """Bool (sample,): all of the sample's tokens lie in committed rows."""
    committed = np.concatenate([[0], np.cumsum(run.committed.values)])
    starts, stops = run.samples["token_start"].values, run.samples["token_stop"].values
    return np.asarray(committed[stops] - committed[starts] == stops - starts)


def _standard_error(values: np.ndarray) -> float:
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("nan")


def _attributes(
    run: Run, adapter: str | None, reduction: str, complete: np.ndarray, measured: xr.Dataset
) -> dict[str, Any]:
    return {
        "measure": "softmax Jensen-Shannon divergence, arXiv 2501.03152 eq. 9",
        "units": "nat",
        "reduction": f"tokens: {reduction}; components: sum; samples: mean",
        "n_samples": int(complete.sum()),
        "n_samples_incomplete": int((~complete).sum()),
        "n_tokens": int(run.committed.values.sum()),
        "n_components": measured.sizes["component"],
        "n_not_finite": len(not_finite(measured, run)),
        **fidelity(measured, run, adapter=adapter),
        "stream": run.stream,
        "adapter": adapter or run.adapters[0],
        "run": str(run.path),
        "run_fingerprint": str(run.attributes.get("fingerprint", "")),
        "lorascope": version("lorascope"),
    }
