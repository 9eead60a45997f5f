"""Which measure of a component predicts what taking out its delta does to the model's next token."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import xarray as xr
from jaxtyping import Float64, Int64

from lorascope.stores import Run, StoreError
from lorascope.stores.progress import Progress
from lorascope.stores.reading.read import RunLike, as_run

from .adapters.adapter import adapter_report
from .measuring.captured import available
from .measuring.measures import MEASURES
from .measuring.run import measure_run
from .reduce import reduce_tokens, usable_samples
from .stats.resampling import Draws, basic_interval, group_draws, refuse_draws
from .tree import run_attributes
from .weights import standard_error

BY_TOKEN = ("js", "delta_ratio", "js_permuted", "effective_width")
"""Measures of states, means over tokens and samples here."""
OTHERS = {
    "js_over_permuted": "js over js_permuted, each a mean over samples",
    "weight_norm": "Frobenius norm of the change s B A to the layer's weight",
    "depth": "layer, -1 outside of the layers",
}
"""Name of a measure that isn't one of a token -> what it is."""
MEASURED = ("js", "delta_ratio", "js_permuted", "js_over_permuted", "effective_width", "weight_norm", "depth")
"""Measures in the order of the result."""
CORRELATIONS = {
    "spearman": "rank correlation with ablation over components",
    "partial": "rank correlation with ablation once the means of each kind's ranks are taken off",
    "overrated": "rank correlation with how many ranks js puts a component above its place by ablation",
}


def compare_measures(
    run: RunLike,
    *,
    adapter: str | None = None,
    weights: str | Path | None = None,
    level: float = 0.95,
    n_draws: int = 2000,
    seed: int = 0,
    n_workers: int | None = None,
    progress: Progress | None = None,
) -> xr.Dataset:
    """Rank correlations of measures with ablation over components: the KL in nats that taking one's delta out costs.

    Parameters
    ----------
    run
        An open run or its path or url, captured with `--ablate components`. Samples count whose captured tokens were
        all ablated; of these all other numbers are, too.
    adapter
        Name of the adapter; not needed if there is only one.
    weights
        The adapter's PEFT folder, for `weight_norm`: a run doesn't hold lora_A.
    level
        Level of the intervals.
    n_draws, seed
        Bootstrap draws of samples, and what they begin with. Where fewer draws differ, all are made.
    n_workers
        Threads; by default one a processor. No number depends on it.
    progress
        Called with (tasks done, tasks in all).

    Returns
    -------
    xr.Dataset
        By `measure` (js, delta_ratio, js_permuted, js_over_permuted, effective_width, weight_norm, depth): `spearman`
        with ablation; `partial`, the same once the mean rank of each kind of module is taken off both sides; and
        `overrated`, with the rank by js less the rank by ablation, which is positive where the measure is large in
        components that js puts too high. Each has `_low` and `_high`, the ends of its interval, NaN for one sample.

        By `component` of those that were ablated: `ablation` in nats, a mean over samples of means over their tokens,
        and its standard error over samples `ablation_se`. `value` (measure, component) is what was compared. Tokens
        that were drawn weigh the inverse of their chance.

        A measure that isn't known, or isn't finite somewhere, is NaN in all its correlations, and `remarks` (JSON list
        of sentences) says why. Other attributes: provenance, `n_samples`, `n_tokens`, `level`, `n_draws`, `seed`.

    Raises
    ------
    StoreError
        If the run has no ablation, or one of other parts than components; if no sample was ablated as a whole; or a
        chunk is broken.
    ValueError
        If the adapter's folder lacks a component, or `level`, `n_draws` or `seed` can't be.

    Notes
    -----
    Samples are taken for independent draws of a population, components for all that there are. Each draw of samples
    gives means, and correlations, on both sides anew. A draw is noisier than what it is drawn from, and noise takes
    ranks apart: correlations of draws lie below the one found as that lies below the true one. Intervals are therefore
    the bootstrap's basic ones, within -1 and 1; those of percentiles would lie too low. Of few samples, they are too
    narrow.

    References
    ----------
    Spearman (1904), American Journal of Psychology 15, 72. Fisher (1924), Metron 3, 329 (partial correlation).
    """
    refuse_draws(n_draws, seed, level)
    run = as_run(run)
    ablation = run.ablation(adapter)
    if ablation.attrs["parts"] != "components":
        raise StoreError(
            f"{run.place.name!r} has the ablation of {ablation.attrs['parts']!r}; only that of 'components' can be "
            "compared with measures of components: capture with `--ablate components`"
        )
    names, touched = available(run, BY_TOKEN), run.adapter(adapter)["rank"].values > 0
    paths = [path for path, is_own in zip(run.component_paths, touched, strict=True) if is_own]
    paths = [path for path in paths if path in set(ablation["part"].values.tolist())]
    measured = measure_run(run, names, adapter=adapter, components=paths, n_workers=n_workers, progress=progress)
    measured["ablation"] = (("token", "component"), ablation.sel(part=paths).data)
    tables = {name: reduce_tokens(measured, name, run) for name in ("ablation", *names)}
    used = usable_samples(measured, run, "mean") & np.isfinite(tables["ablation"]).all(axis=1)
    if not used.any():
        raise StoreError(f"no sample of {run.place.name!r} was ablated as a whole yet; capture more of it")
    tables = {name: np.where(np.isfinite(table[used]), table[used], np.nan) for name, table in tables.items()}
    fixed = {"depth": measured["layer"].values.astype(np.float64), "weight_norm": _norms(weights, paths)}
    kinds = np.unique(measured["kind"].values.astype(str), return_inverse=True)[1]
    draws = group_draws(int(used.sum()), n_draws, np.random.default_rng(seed)) if used.sum() > 1 else None
    remarks = list(_remarks(run, tables, fixed, paths))
    attributes = run_attributes(run, adapter) | {"remarks": json.dumps(remarks), "level": level, "n_draws": n_draws}
    attributes |= {"seed": seed, "n_samples": int(used.sum()), "n_tokens": _n_tokens(run, used)}
    found = correlate(tables, fixed, kinds, draws, level)
    return found.assign_coords(measured.drop_dims("token").coords).assign_attrs(attributes)


def correlate(
    tables: Mapping[str, Float64[np.ndarray, "sample component"]],
    fixed: Mapping[str, Float64[np.ndarray, " component"]],
    kinds: Int64[np.ndarray, " component"],
    draws: Draws | None,
    level: float,
) -> xr.Dataset:
    """`compare_measures` without labels of components: of `ablation` and measures by sample, and of `fixed` ones.

    A measure that is missing is NaN; intervals are, without draws.
    """
    n, width = tables["ablation"].shape
    unknown = np.full(width, np.nan)

    def means(counts: np.ndarray) -> dict[str, np.ndarray]:
        shares = counts / counts.sum(axis=1, keepdims=True)
        found = {name: shares @ table for name, table in tables.items()}
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = found["js"] / found.get("js_permuted", unknown)
        found["js_over_permuted"] = np.where(np.isfinite(ratio), ratio, np.nan)
        rest = {name: fixed.get(name, unknown) for name in MEASURED if name not in found}
        return found | {name: np.broadcast_to(one, (len(counts), width)) for name, one in rest.items()}

    whole = means(np.ones((1, n)))
    drawn = None if draws is None else means(draws.counts)
    results: dict[str, list[float]] = {f"{name}{end}": [] for name in CORRELATIONS for end in ("", "_low", "_high")}
    for measure in MEASURED:
        found = [float(one[0]) for one in _three(whole, measure, kinds)]
        some = [np.full(1, np.nan)] * 3 if drawn is None else _three(drawn, measure, kinds)
        for name, r, by_draw in zip(CORRELATIONS, found, some, strict=True):
            ends = np.clip(basic_interval(r, by_draw, level, None if draws is None else draws.weights), -1, 1)
            for end, value in zip(("", "_low", "_high"), (r, *ends.tolist()), strict=True):
                results[name + end].append(value)
    texts = {f"{name}{end}": text for name, text in CORRELATIONS.items() for end in ("", "_low", "_high")}
    result = xr.Dataset({name: ("measure", r, _about(texts[name])) for name, r in results.items()})
    nats = "KL of next-token distributions with the component's delta and without it, mean over samples"
    errors = standard_error(tables["ablation"])
    result["ablation"] = ("component", whole["ablation"][0], _about(nats, "nat"))
    result["ablation_se"] = ("component", errors, _about("standard error of ablation over samples", "nat"))
    result["value"] = (("measure", "component"), np.stack([whole[name][0] for name in MEASURED]))
    described = {name: MEASURES[name].outputs[name]["long_name"] for name in BY_TOKEN} | OTHERS
    result["description"] = ("measure", np.array([described[name] for name in MEASURED], object))
    return result.assign_coords(measure=np.array(MEASURED, object)).set_coords("description")


def _three(means: Mapping[str, np.ndarray], measure: str, kinds: np.ndarray) -> list[np.ndarray]:
    """A measure's correlations (draw,), in the order of `CORRELATIONS`."""
    value, ablation = means[measure], means["ablation"]
    above = rank_gap(means["js"], ablation)
    whole = np.zeros_like(kinds)
    return [rank_correlation(value, *other) for other in ((ablation, whole), (ablation, kinds), (above, whole))]


def rank_gap(
    first: Float64[np.ndarray, "*draw component"], second: Float64[np.ndarray, "*draw component"]
) -> np.ndarray:
    """How many ranks components (last axis) lie higher in the first than in the second; NaN where one isn't known."""
    from scipy.stats import rankdata  # type: ignore[import-untyped]  # a quarter of a second

    return np.asarray(rankdata(first, axis=-1) - rankdata(second, axis=-1))


def rank_correlation(
    first: Float64[np.ndarray, "draw component"],
    second: Float64[np.ndarray, "draw component"],
    groups: Int64[np.ndarray, " component"],
) -> Float64[np.ndarray, " draw"]:
    """Pearson's r of ranks, the means of each group's ranks taken off; Spearman's where there is but one group.

    It is NaN where a value is, or where nothing varies within groups.
    """
    from scipy.stats import rankdata

    one_hot = np.eye(groups.max() + 1)[groups]
    share = one_hot / one_hot.sum(axis=0)
    ranks = (rankdata(one, axis=1) for one in (first, second))
    x, y = (np.round(one - one @ share @ one_hot.T, 9) for one in ranks)  # what is 0 but for rounding is 0
    spread = np.sqrt((x * x).sum(axis=1) * (y * y).sum(axis=1))
    return np.divide((x * y).sum(axis=1), spread, out=np.full(len(x), np.nan), where=spread > 0)


def _norms(weights: str | Path | None, paths: list[str]) -> Float64[np.ndarray, " component"]:
    """Frobenius norms of the change to the layers' weights, out of the adapter's folder; NaN without one."""
    if weights is None:
        return np.full(len(paths), np.nan)
    norms = adapter_report(weights)["frobenius_norm"].to_series()
    if missing := [path for path in paths if path not in norms.index]:
        raise ValueError(
            f"`weights` is {str(weights)!r}, which has none of {missing[0]!r}; give the folder of the captured adapter"
        )
    return np.asarray(norms.loc[paths], np.float64)


def _remarks(
    run: Run, tables: Mapping[str, np.ndarray], fixed: Mapping[str, np.ndarray], paths: list[str]
) -> Iterator[str]:
    """Why a measure has no correlations."""
    for name in BY_TOKEN:
        if name not in tables:
            yield f"{name} isn't known: it takes the states of all tokens, and this run keeps those of {run.states!r}"
        elif not (finite := np.isfinite(tables[name]).all(axis=0)).all():
            yield f"{name} isn't finite at {paths[int(np.argmin(finite))]!r}"
    if "js_permuted" in tables and (still := ~(tables["js_permuted"].sum(axis=0) > 0)).any():
        yield f"js_over_permuted isn't defined at {paths[int(np.argmax(still))]!r}, where js_permuted is 0 or NaN"
    if np.isnan(fixed["weight_norm"]).any():
        yield "weight_norm isn't known: a run doesn't hold lora_A; give the adapter's folder as `weights`"


def _n_tokens(run: Run, used: np.ndarray) -> int:
    """Captured tokens of the samples used."""
    return int((run.samples["token_stop"].values - run.samples["token_start"].values)[used].sum())


def _about(text: str, units: str = "1") -> dict[str, str]:
    return {"long_name": text, "units": units}
