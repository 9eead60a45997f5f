"""The effect of taking a part of an adapter out, over samples, and which measures predict it."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import xarray as xr
from jaxtyping import Float64, Int64

from lorascope.analyze.adapters.adapter import adapter_report
from lorascope.analyze.adapters.factors import require_captured
from lorascope.analyze.fits.resampling import Draws, basic_interval, group_draws, refuse_draws
from lorascope.analyze.measuring.run import measure_run
from lorascope.analyze.measuring.sources import available_measures
from lorascope.analyze.miub.reduce import reduce_tokens, usable_samples
from lorascope.analyze.results.tree import run_attributes
from lorascope.analyze.results.weights import standard_error, token_weights
from lorascope.stores import Run, StoreError
from lorascope.stores.checking.verify import open_as_written
from lorascope.stores.reading.read import RunLike

from .importance import importance_by_component


def ablation_by_part(run: Run, adapter: str | None = None) -> xr.Dataset | None:
    """Return mean KL from removing a part's delta, by part (component, layer or kind); None without ablated samples.

    Returns
    -------
    xarray.Dataset
        By `part` (a component, layer or kind of module): `kl`, KL(adapted || adapted without that part's delta) of the
        next-token distributions in nats, the weighted mean over a sample's tokens and then the mean over samples;
        `behind`, how far it is below the largest `kl` of a part; and the standard errors of both, `kl_se` and
        `behind_se`. Only samples whose captured tokens were all ablated are used. Attributes `parts`, `n_samples`,
        `n_tokens`.

    Raises
    ------
    StoreError
        If the run has no ablation, or a chunk is broken.
    """
    ablated = _ablated_samples(run, adapter)
    if not len(ablated):
        return None
    values = ablated.values
    behind = values[:, [values.mean(axis=0).argmax()]] - values
    numbers = {"kl": values.mean(axis=0), "kl_se": standard_error(values)}
    numbers |= {"behind": behind.mean(axis=0), "behind_se": standard_error(behind)}
    columns = {name: ("part", column) for name, column in numbers.items()}
    return xr.Dataset(columns, coords={"part": ablated["part"].values}, attrs=ablated.attrs)


def _ablated_samples(run: Run, adapter: str | None) -> xr.DataArray:
    """Return the KL (sample, part) of removing parts, in nats, of the samples (indices) that were wholly ablated."""
    ablation = run.ablation(adapter)
    labels = {"counted": ("token", run.committed.values), "weight": ("token", token_weights(run))}
    measured = xr.Dataset({"kl": ablation.rename(part="component")}).assign_coords(labels)
    by_sample = reduce_tokens(measured, "kl", run)
    used = np.flatnonzero(usable_samples(measured, run, "mean") & np.isfinite(by_sample).all(axis=1))
    lengths = (run.samples["token_stop"] - run.samples["token_start"]).values[used]
    attributes = {"parts": ablation.attrs["parts"], "n_samples": len(used), "n_tokens": int(lengths.sum())}
    return xr.DataArray(by_sample[used], [("sample", used), ("part", ablation["part"].values)], attrs=attributes)


TOKEN_MEASURES = ("js", "delta_ratio", "js_permuted", "effective_width")
"""Compared measures that are means over tokens and samples."""
COMPARED_MEASURES = ("js", "delta_ratio", "js_permuted", "js_over_permuted", "effective_width", "weight_norm", "depth")
"""Compared measures that every run has, in the order of the result; `importance` follows if it was measured."""
LEVEL, SEED = 0.95, 0
"""Confidence level of intervals, and seed of the bootstrap's draws."""
MIN_COMPONENTS = 3
"""Least number of components for a rank correlation."""
CORRELATIONS = {
    "spearman": "rank correlation with ablation over components",
    "partial": "rank correlation with ablation once the mean rank of each kind is taken off",
}
"""Name of a correlation -> its `long_name`."""


def compare_measures(
    run: RunLike,
    *,
    adapter: str | None = None,
    weights: str | Path | None = None,
    n_draws: int = 2000,
) -> xr.Dataset:
    """Return rank correlations over components between measures and the KL that removing a component's delta causes.

    Parameters
    ----------
    run
        An open run or its path or url, captured with `--ablate components`. Only samples whose captured tokens were all
        ablated are used.
    adapter
        Name of the adapter; not needed if there is only one.
    weights
        The adapter's PEFT folder, for `weight_norm`: a run doesn't store lora_A. Its weights are compared with the
        run's hash of them, if it has one.
    n_draws
        Number of bootstrap draws of samples, at least 100; all distinct ones if fewer exist.

    Returns
    -------
    xr.Dataset
        By `measure` (js, delta_ratio, js_permuted, effective_width, their means over tokens and samples;
        js_over_permuted, a ratio of means; weight_norm, the Frobenius norm of s B A; depth, the layer; and importance,
        over its own samples, if the run has it): `spearman` with ablation, and `partial`, once the mean rank of each
        kind of module is subtracted from both sides. Each has `_low` and `_high`, the ends of its 95 % interval, NaN
        for one sample.

        By `component`: `ablation` in nats, mean over samples, and its standard error `ablation_se`. `value` (measure,
        component) contains the compared values. Sampled tokens are weighted by the inverse of their probability.

        Components at which a measure isn't known or finite are excluded from its correlations, which are NaN if fewer
        than three remain. Attributes: provenance, `n_samples` and `n_tokens` that were ablated, `n_draws`.

    Raises
    ------
    StoreError
        If the run has no ablation, or not one of components; if no sample is completely ablated; or a chunk is broken.
    ValueError
        If `weights` is another adapter than the captured one or lacks a component, or `n_draws` is below 100.

    Notes
    -----
    Samples are treated as independent draws, and components as a fixed set; each draw of samples recomputes both sides.
    Importance is measured on other samples than ablation, and these are drawn apart from ablation's.
    A draw is noisier than the data, and noise lowers correlations: those of draws are below the estimate, as that is
    below the true value. Intervals are therefore the bootstrap's basic ones, within -1 and 1; percentile intervals
    would be too low. They are still too narrow: of simulated runs with 60 components, 10 to 60 samples and logs that
    vary between samples by 0.5, 95 % ones cover the true correlation in 72 to 89 %; with logs that vary by 1.5, in 47
    to 76 % for 10 and 20 samples, and 70 to 86 % for 60.

    References
    ----------
    Spearman (1904), American Journal of Psychology 15, 72. Fisher (1924), Metron 3, 329 (partial correlation).
    """
    refuse_draws(n_draws, SEED, LEVEL)
    run = open_as_written(run)
    ablated = _ablated_samples(run, adapter)
    if ablated.attrs["parts"] != "components":
        raise StoreError(
            f"{run.place.name!r} has the ablation of {ablated.attrs['parts']!r}; only that of 'components' can be "
            "compared with measures of components: capture with `--ablate components`"
        )
    if not len(ablated):
        raise StoreError(f"no sample of {run.place.name!r} is completely ablated yet; capture more of it")
    if weights is not None:
        require_captured(Path(weights), run, adapter or run.adapters[0], option="weights")
    names, parts = available_measures(run, TOKEN_MEASURES), set(ablated["part"].values.tolist())
    ranks = dict(zip(run.component_paths, run.adapter(adapter)["rank"].values.tolist(), strict=True))
    paths = [path for path, rank in ranks.items() if rank > 0 and path in parts]
    measured = measure_run(run, names, adapter=adapter, component=paths)
    values, used = ablated.sel(part=paths).values, ablated["sample"].values
    unknown = np.full(values.shape, np.nan)
    tables = {name: reduce_tokens(measured, name, run)[used] if name in names else unknown for name in TOKEN_MEASURES}
    tables["ablation"] = values
    fixed = {"weight_norm": _weight_norms(weights, paths), "depth": measured["layer"].values.astype(np.float64)}
    kinds = np.unique(measured["kind"].values.astype(str), return_inverse=True)[1]
    rng = np.random.default_rng(SEED)
    draws, importance = group_draws(len(used), n_draws, rng), importance_by_component(run, adapter, paths)
    drawn = None
    if importance is not None:
        n = len(importance)
        drawn = importance, rng.multinomial(n, np.full(n, 1 / n), len(draws.counts))
    counts = {name: ablated.attrs[name] for name in ("n_samples", "n_tokens")}
    result = correlate(tables, fixed, kinds, draws, drawn).assign_coords(measured.drop_dims("token").coords)
    return result.assign_attrs(run_attributes(run, adapter) | counts | {"n_draws": n_draws})


def correlate(
    tables: Mapping[str, Float64[np.ndarray, "sample component"]],
    fixed: Mapping[str, Float64[np.ndarray, " component"]],
    kinds: Int64[np.ndarray, " component"],
    draws: Draws,
    importance: tuple[Float64[np.ndarray, "other component"], Int64[np.ndarray, "draw other"]] | None = None,
) -> xr.Dataset:
    """Return rank correlations of measures with the effect of ablation over components, with bootstrap intervals.

    This is the result of `compare_measures` without labels. `tables` vary over samples, `fixed` measures don't;
    `importance` are values of samples of its own, and how often each draw has these.
    """
    sides = {name: (np.where(np.isfinite(table), table, np.nan), draws.counts) for name, table in tables.items()}
    measures: tuple[str, ...] = COMPARED_MEASURES
    if importance is not None:
        sides["importance"], measures = importance, (*measures, "importance")

    def means(counts: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return measure -> means over samples, (draw, component), weighted by `counts` (draw, sample)."""
        values = {name: n / n.sum(axis=1, keepdims=True) @ sides[name][0] for name, n in counts.items()}
        permuted = values["js_permuted"]
        ratio = np.divide(values["js"], permuted, out=np.full(permuted.shape, np.nan), where=permuted > 0)
        return values | {"js_over_permuted": ratio} | {k: np.broadcast_to(v, ratio.shape) for k, v in fixed.items()}

    whole = means({name: np.ones((1, len(table))) for name, (table, _) in sides.items()})
    by_draw = means({name: counts for name, (_, counts) in sides.items()})
    known = {m: np.isfinite(whole[m][0]) & np.isfinite(by_draw[m]).all(axis=0) for m in measures}

    def correlations(means_by_measure: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return each measure's correlations with the effect of ablation, (measure, correlation, draw)."""
        ablation = means_by_measure["ablation"]
        return np.array(
            [
                [
                    rank_correlation(means_by_measure[m][:, at], ablation[:, at], groups[at])
                    for groups in (0 * kinds, kinds)
                ]
                for m, at in known.items()
            ]
        )

    r, drawn = correlations(whole)[..., 0], correlations(by_draw)  # (measure, correlation), and by draw
    drawn = drawn if len(tables["ablation"]) > 1 else np.full_like(drawn, np.nan)
    ends = [
        [basic_interval(float(v), d, LEVEL, draws.weights) for v, d in zip(*m, strict=True)]
        for m in zip(r, drawn, strict=True)
    ]
    result = xr.Dataset(coords={"measure": list(measures)})
    for k, (name, text) in enumerate(CORRELATIONS.items()):
        for end, values in (("", r), ("_low", np.array(ends)[..., 0]), ("_high", np.array(ends)[..., 1])):
            result[name + end] = ("measure", np.clip(values[:, k], -1, 1), {"long_name": text, "units": "1"})
    for name, values in (("ablation", whole["ablation"][0]), ("ablation_se", standard_error(tables["ablation"]))):
        result[name] = ("component", values, {"units": "nat"})
    result["value"] = (("measure", "component"), np.stack([whole[name][0] for name in measures]))
    return result


def rank_correlation(
    first: Float64[np.ndarray, "draw component"],
    second: Float64[np.ndarray, "draw component"],
    groups: Int64[np.ndarray, " component"],
) -> Float64[np.ndarray, " draw"]:
    """Return, per draw, the correlation of ranks over components less their group means; Spearman's for one group.

    It is NaN if a value is, for fewer than three components, or if nothing varies within groups.
    """
    from scipy.stats import rankdata  # type: ignore[import-untyped]  # takes a quarter of a second

    if len(groups) < MIN_COMPONENTS:
        return np.full(len(first), np.nan)
    one_hot = (np.unique(groups) == groups[:, None]).astype(float)
    share = one_hot / one_hot.sum(axis=0)
    ranks = (rankdata(side, axis=1) for side in (first, second))
    x, y = (np.round(rank - rank @ share @ one_hot.T, 9) for rank in ranks)  # removes rounding errors
    spread = np.sqrt((x * x).sum(axis=1) * (y * y).sum(axis=1))
    return np.asarray(np.divide((x * y).sum(axis=1), spread, out=np.full(len(x), np.nan), where=spread > 0))


def _weight_norms(weights: str | Path | None, paths: list[str]) -> Float64[np.ndarray, " component"]:
    """Return Frobenius norms of an adapter's change of weight by component, read from its folder; NaN without one."""
    if weights is None:
        return np.full(len(paths), np.nan)
    norms = adapter_report(weights)["frobenius_norm"].to_series()
    if missing := [path for path in paths if path not in norms.index]:
        raise ValueError(
            f"`weights` is {str(weights)!r}, which has no weights of {missing[0]!r}; give the captured adapter's folder"
        )
    return np.asarray(norms.loc[paths], np.float64)
