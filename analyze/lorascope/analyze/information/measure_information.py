"""Mutual information of base and lora (output without and with adapter) by component, and export of its pairs."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import dask.array as da
import dask.config
import numpy as np
import xarray as xr

from lorascope.analyze.measuring.compute import open_workers, task_counter
from lorascope.analyze.measuring.sources import component_sources
from lorascope.analyze.results.options import N_SHUFFLES, PAIR_FORMATS, refuse_target
from lorascope.analyze.results.tree import run_attributes
from lorascope.stores import Run
from lorascope.stores.checking.verify import open_as_written
from lorascope.stores.names import Patterns
from lorascope.stores.places.files import atomic_write
from lorascope.stores.progress import Progress
from lorascope.stores.reading.read import RunLike
from lorascope.stores.reading.source import Source
from lorascope.stores.reading.token_choice import TokenChoice
from lorascope.stores.threads import limit_worker_to_one_blas_thread, limiting_blas_to_one_thread

from .bound import js_upper_bound
from .components import (
    Against,
    ComponentEstimates,
    ComponentPairs,
    Plan,
    component_pairs,
    estimate_component,
    make_plan,
)
from .mutual_information import information_dataset
from .pairs import Settings, Unit

COLUMNS = {
    "js": ("mean over tokens of JS(softmax(base), softmax(lora))", "nat"),
    "js_delta_alone": ("mean over tokens of JS(softmax(base), softmax(delta))", "nat"),
    "n_tokens": ("tokens that estimates are made of", "1"),
    "n_samples": ("samples of these tokens", "1"),
    "n_repeats": ("tokens excluded as repeats", "1"),
    "n_not_finite": ("tokens excluded as not finite", "1"),
    "n_axes_x": ("axes of base", "1"),
    "n_axes_y": ("axes of what base is compared with", "1"),
    "share_x": ("variance of base that its axes keep", "1"),
    "share_y": ("variance of the other side that its axes keep", "1"),
}
"""Further value of a component -> its `long_name` and unit."""
ONE_TASK_PER_PROCESS = {"chunksize": 1}
"""Setting of Dask's process scheduler: tasks that are sent together can't be cancelled."""


def measure_information(
    run: RunLike,
    *,
    adapter: str | None = None,
    component: Patterns = None,
    tokens: TokenChoice = "all",
    estimator: str | Sequence[str] = "panel",
    against: Against = "lora",
    n_tokens: int = 2000,
    n_axes: int = 8,
    share: float = 0.9,
    k: int = 3,
    unit: Unit = "nat",
    n_shuffles: int = N_SHUFFLES,
    seed: int = 0,
    scheduler: Any = None,
    n_workers: int | None = None,
    progress: Progress | None = None,
) -> xr.Dataset:
    """Return the mutual information (nats) of frozen (base) and adapted (lora) outputs, by component and estimator.

    Parameters
    ----------
    run, adapter, component, scheduler, n_workers, progress
        As for `miub`, but the run must keep states. A task is a component.
    tokens
        Choice among the tokens with states: words of `lorascope.stores.reading.token_choice`, such as `answer`, or
        indices on the token axis. Axes are computed from all chosen tokens, and pairs are drawn among them.
    estimator
        Names of `ESTIMATORS`, or `panel`; see `mutual_information`.
    against
        What base is compared with: `lora`, or `delta` alone.
    n_tokens
        Largest number of tokens, drawn evenly from the samples. Repeated and non-finite states are excluded.
    n_axes, share
        Number of principal axes of each side: as few as have this share of the variance, but at most `n_axes`.
    k, unit, n_shuffles, seed
        As in `mutual_information`; the groups are samples.

    Returns
    -------
    xr.Dataset
        The variables of `mutual_information` over (component, estimator). By component: `js`, the mean over the same
        tokens of JS(softmax(base), softmax(lora)), always in nats, and `js_delta_alone` with delta in place of lora;
        `n_tokens` and `n_samples` of the pairs, and excluded tokens `n_repeats` and `n_not_finite`; axes of base and of
        the other side, `n_axes_x` and `n_axes_y`, and their shares of the variance, `share_x` and `share_y`; `note`,
        why values are missing; kind, layer, d_in, d_out and rank; with the estimator `classifier` its lower bound
        `js_joint` of JS(joint, product), in nats; and `singular` (see Notes). The attribute `tokens` is the choice, and
        `n_prefix_repeats` counts tokens that were excluded since an earlier one has the same id after the same ids.

    Raises
    ------
    StoreError
        If the run keeps no states, none of the chosen tokens has states, or a chunk is broken.
    ValueError, IndexError
        If an option isn't allowed, a component isn't known, an index is out of range, or the chosen tokens are of fewer
        than four samples.

    Notes
    -----
    lora = base + scaling B A x: outside of B's columns both are equal, so that the mutual information of whole states
    is infinite if the rank is below the width. The numbers here are those of projections, and therefore finite. They
    compare components and adapters, and are no property of the model alone.

    `singular` is True if base and the other side together depend on fewer directions of x than the sum of both: they
    share some exactly, and mutual information is infinite if x varies continuously. States that are functions of the
    token id, as before any attention, are discrete; their mutual information is at most the logarithm of the
    vocabulary. False doesn't mean finite, only that these counts don't show it, as for stream `pair`, whose sides have
    different x.

    References
    ----------
    arXiv 2501.03152, whose table 3 has one such number; Amjad and Geiger 2018, arXiv 1802.09766, on why it is infinite.
    """
    run = open_as_written(run)
    plan = make_plan(
        run, tokens=tokens, estimator=estimator, against=against, n_tokens=n_tokens, n_axes=n_axes, share=share,
        settings=Settings(k=k, seed=seed), unit=unit, n_shuffles=n_shuffles,
    )  # fmt: skip
    sources = component_sources(run, adapter, component)
    records = _for_each_component(estimate_component, sources, plan, scheduler, n_workers, progress)
    return component_dataset(run, adapter, sources, plan, records, unit)


def export_pairs(
    run: RunLike,
    path: str | Path,
    *,
    adapter: str | None = None,
    component: Patterns = None,
    tokens: TokenChoice = "all",
    against: Against = "lora",
    n_tokens: int = 2000,
    n_axes: int = 8,
    share: float = 0.9,
    seed: int = 0,
    scheduler: Any = None,
    n_workers: int | None = None,
    progress: Progress | None = None,
) -> dict[str, str]:
    """Write the projected states behind `measure_information` as `.npz`; return excluded components and reasons.

    Parameters and errors are those of `measure_information`. `numpy.load(path, allow_pickle=False)` reads the file:
    `<component>/x` and `<component>/y`, float64 (n, axis); `<component>/sample` and `<component>/token`, int64 (n,);
    `components`, the names before `/`; `about`, JSON: how pairs were made, and under `left_out` the components whose
    states couldn't be projected. All pairs are in memory together: 8 bytes per token, axis, side and component.

    Raises
    ------
    ValueError
        If the name has another suffix or is inside a store, or no states can be projected.
    FileExistsError, PermissionError
        If the path exists, or can't be written.
    """
    run = open_as_written(run)
    target = refuse_target(Path(path), PAIR_FORMATS, option="export")
    plan = make_plan(
        run, tokens=tokens, estimator="panel", against=against, n_tokens=n_tokens, n_axes=n_axes, share=share,
        settings=Settings(seed=seed), unit="nat", n_shuffles=0,
    )  # fmt: skip
    sources = component_sources(run, adapter, component)
    pairs = _for_each_component(component_pairs, sources, plan, scheduler, n_workers, progress)
    by_component = {source.component: part for source, part in zip(sources, pairs, strict=True)}
    return _write_pairs(target, by_component, pairs_provenance(run, adapter, plan))


def _write_pairs(path: Path, by_component: Mapping[str, ComponentPairs], about: dict[str, Any]) -> dict[str, str]:
    """Write all components' pairs to one `.npz`; return the excluded components, each with the reason."""
    left_out = {name: pairs.why for name, pairs in by_component.items() if pairs.why}
    arrays: dict[str, np.ndarray] = {}
    for name, part in by_component.items():
        if name not in left_out:
            sides = {"x": part.pairs.x, "y": part.pairs.y, "sample": part.pairs.groups_x, "token": part.tokens}
            arrays |= {f"{name}/{key}": values for key, values in sides.items()}
    if not arrays:
        first, why = next(iter(left_out.items()))
        raise ValueError(f"no states can be projected; the first are those of {first}: {why}")
    arrays["components"] = np.array([name for name in by_component if name not in left_out])
    arrays["about"] = np.array(json.dumps({**about, "left_out": left_out}))
    with atomic_write(path) as partial, partial.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]
    return left_out


def _for_each_component(
    function: Callable[[Source, Plan], Any],
    sources: Sequence[Source],
    plan: Plan,
    scheduler: Any,
    n_workers: int | None,
    progress: Progress | None,
) -> list[Any]:
    """Return the results of `function` for each component, computed in one Dask task per component."""
    components = np.empty(len(sources), object)
    components[:] = list(sources)
    lazy = da.map_blocks(
        _compute_component,
        da.from_array(components, chunks=1),
        dtype=object,
        meta=np.empty(0, object),
        function=function,
        plan=plan,
    )
    with (
        limiting_blas_to_one_thread(),
        dask.config.set(ONE_TASK_PER_PROCESS),
        open_workers(scheduler, n_workers) as pool,
    ):
        return list(pool.compute(lazy, task_counter(progress, len(sources))))


def _compute_component(sources: np.ndarray, *, function: Callable[[Source, Plan], Any], plan: Plan) -> np.ndarray:
    """Return the result of `function` for a single component as an object array (1,)."""
    limit_worker_to_one_blas_thread()
    out = np.empty(1, object)
    out[0] = function(sources[0], plan)
    return out


def component_dataset(
    run: Run,
    adapter: str | None,
    sources: Sequence[Source],
    plan: Plan,
    records: Sequence[ComponentEstimates],
    unit: Unit,
) -> xr.Dataset:
    """Return estimates and further values of all components as a dataset over (component, estimator)."""
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
    shared = shares_directions(*sizes, plan.against, is_factor=is_factor) & (run.stream != "pair")
    about = {"long_name": "whole states share directions: their mutual information is infinite"}
    coordinates = {
        "component": np.array([source.component for source in sources], object),
        **{name: ("component", values) for name, values in columns.items()},
        "singular": ("component", shared, about),
    }
    return result.assign_coords(coordinates).assign_attrs(pairs_provenance(run, adapter, plan))


def shares_directions(
    d_in: np.ndarray, d_out: np.ndarray, rank: np.ndarray, against: Against, *, is_factor: np.ndarray
) -> np.ndarray:
    """Return whether base and lora (or delta) share directions of the layer's input exactly, bool (component,).

    Both together then depend on fewer directions than the sum of both. If delta isn't stored as a factor, as with DoRA,
    its rank counts as full. False doesn't mean that mutual information is finite.
    """
    full = np.minimum(d_in, d_out)
    together = np.minimum(d_in, d_out + np.minimum(rank, full))
    change = np.where(is_factor, np.minimum(rank, full), full)
    return np.asarray(together < full + (full if against == "lora" else change))


def pairs_provenance(run: Run, adapter: str | None, plan: Plan) -> dict[str, Any]:
    """Return attributes of a result: its run and adapter, and how states were chosen and projected."""
    return {
        **run_attributes(run, adapter),
        "tokens": plan.choice,
        "against": plan.against,
        "n_axes": plan.n_axes,
        "share": plan.share,
        "n_tokens_chosen": len(plan.tokens),
        "n_samples_chosen": len(np.unique(plan.samples)),
        "n_prefix_repeats": plan.n_prefix_repeats,
        "seed": plan.settings.seed,
    }
