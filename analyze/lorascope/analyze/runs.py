"""Several results side by side, and whether two of them differ: paired by sample."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from .groups import COMPONENT_KEYS, SAMPLE_KEYS, group_by

__all__ = ["RUN_KEYS", "matched", "paired", "side_by_side"]

RUN_KEYS = ("run", "model", "adapter", "rank", "stream", "datasets")


def side_by_side(results: Sequence[xr.Dataset], by: Sequence[str] = ("run",)) -> xr.Dataset:
    """MIUB of several results, by what tells their runs apart and by what `group_by` knows.

    Parameters
    ----------
    results
        What `miub` returns, of different runs or adapters, with one reduction and unit.
    by
        Keys of runs (`RUN_KEYS`), and after them any of `group_by`. `rank` is the adapter's; `mixed` where its
        components have several.

    Returns
    -------
    xr.Dataset
        `miub` over a dimension for each key: where several runs share a group, the mean of theirs. `n_runs` says how
        many and `n_samples` how many samples they have together, `miub_sd` is their standard deviation (NaN for one),
        `miub_se` the standard error of the mean within runs, over samples.

    Raises
    ------
    ValueError
        If units or reductions differ, or a key isn't known.
    """
    _check_alike(results)
    run_keys = [key for key in by if key in RUN_KEYS]
    inner = [key for key in by if key not in RUN_KEYS]
    labels = [tuple(_label(result, key) for key in run_keys) for result in results]
    frames = [group_by(one, inner) if inner else _whole(one) for one in results]
    groups = dict.fromkeys(labels)
    merged = [_mean([f for f, label in zip(frames, labels, strict=True) if label == group]) for group in groups]
    whole = xr.concat(merged, dim="group", join="outer", combine_attrs="override")
    if not run_keys:
        return whole.isel(group=0, drop=True).assign_attrs(_shared(results))
    index = xr.Coordinates.from_pandas_multiindex(_multiindex(run_keys, list(groups)), "group")
    table = whole.assign_coords(index).unstack("group").transpose(*by).assign_attrs(_shared(results))
    return table.sel({key: list(dict.fromkeys(column)) for key, column in _names(run_keys, list(groups)).items()})


def paired(first: xr.Dataset, second: xr.Dataset, by: Sequence[str] = ()) -> xr.Dataset:
    """How much larger MIUB is in the second result, from samples that both hold, and whether by more than chance.

    Parameters
    ----------
    first, second
        What `miub` returns, with one reduction and unit. Samples are matched by data set, split, prompt and id.
    by
        Keys of components by which to take the differences apart: of `component`, `layer` and `kind`.

    Returns
    -------
    xr.Dataset
        `difference`, second less first, mean over samples; `difference_se`; `t` and `p_t` of the paired t-test;
        `p_wilcoxon` of the signed-rank test, which doesn't take differences for normal; with `by` also `p_adjusted`,
        p_t after Benjamini and Hochberg's control of false discoveries over all groups. `n_samples` were matched.

    Raises
    ------
    ValueError
        If units or reductions differ, fewer than two samples are in both, a name of a sample isn't unique, or a key
        isn't one of a component's.

    Notes
    -----
    Pairs take away what makes samples differ from each other in either run. A component that only one result holds
    counts as 0 in the other.
    """
    _check_alike((first, second))
    if set(by) - set(COMPONENT_KEYS):
        raise ValueError(f"`by` is {list(by)}; paired differences go by {list(COMPONENT_KEYS)}")
    ones, others = matched(first, second)
    if len(ones) < 2:
        raise ValueError(
            f"{_name(first)!r} and {_name(second)!r} share {len(ones)} whole samples; at least 2 must be in both: "
            "the same data, prompt and ids"
        )
    tables = [_by_components(first, by, ones), _by_components(second, by, others)]
    whole = xr.align(*tables, join="outer", fill_value=0.0)
    return _tests(whole[1] - whole[0], len(ones), bool(by)).assign_attrs(
        **_shared((first, second)), first=_name(first), second=_name(second)
    )


def matched(first: xr.Dataset, second: xr.Dataset) -> tuple[list[int], list[int]]:
    """Places of the whole samples that both results hold, in the first one's order; see `paired`."""
    names = [_sample_names(result) for result in (first, second)]
    shared = [name for name in names[0] if name in names[1]]
    return [names[0][name] for name in shared], [names[1][name] for name in shared]


def _check_alike(results: Sequence[xr.Dataset]) -> None:
    for key in ("units", "reduction"):
        found = {result.attrs[key].replace("weighted ", "") for result in results}
        if len(found) > 1:
            raise ValueError(f"results of different {key} can't be compared: {sorted(found)}; compute them alike")


def _label(result: xr.Dataset, key: str) -> Any:
    if key == "rank":
        ranks = np.unique(result["rank"].values)
        return int(ranks[0]) if len(ranks) == 1 else "mixed"
    if key == "datasets":
        return ", ".join(dict.fromkeys(result["dataset"].values.tolist()))
    return result.attrs[key]


def _mean(frames: Sequence[xr.Dataset]) -> xr.Dataset:
    stacked = xr.concat(frames, dim="run_of_group", join="outer", combine_attrs="override")
    n = stacked["miub"].notnull().sum("run_of_group")
    return xr.Dataset(
        {
            "miub": stacked["miub"].mean("run_of_group", keep_attrs=True),
            "miub_se": (stacked["miub_se"] ** 2).sum("run_of_group", skipna=False) ** 0.5 / n,
            "miub_sd": stacked["miub"].std("run_of_group", ddof=1) if len(frames) > 1 else stacked["miub"][0] * np.nan,
            "n_runs": n,
            "n_samples": stacked["n_samples"].fillna(0).sum("run_of_group").astype(np.int64),
        }
    )


def _whole(result: xr.Dataset) -> xr.Dataset:
    return result[["miub", "miub_se"]].reset_coords(drop=True).assign(n_samples=result.attrs["n_samples"])


def _names(keys: Sequence[str], groups: Sequence[tuple[Any, ...]]) -> dict[str, list[Any]]:
    """Key -> its value in each group, of one type: numbers in ascending order, names in the order of the results."""
    columns = {key: [group[place] for group in groups] for place, key in enumerate(keys)}
    for key, column in columns.items():
        if len({type(value) for value in column}) > 1:
            columns[key] = [str(value) for value in column]
    return {key: sorted(column) if isinstance(column[0], int) else column for key, column in columns.items()}


def _multiindex(keys: Sequence[str], groups: Sequence[tuple[Any, ...]]) -> Any:
    import pandas as pd  # type: ignore[import-untyped]

    texts = [len({type(group[place]) for group in groups}) > 1 for place in range(len(keys))]
    rows = [tuple(str(v) if text else v for v, text in zip(group, texts, strict=True)) for group in groups]
    return pd.MultiIndex.from_tuples(rows, names=list(keys))


def _shared(results: Sequence[xr.Dataset]) -> Mapping[str, Any]:
    return {key: results[0].attrs[key] for key in ("measure", "units", "reduction", "lorascope")}


def _name(result: xr.Dataset) -> str:
    return f"{result.attrs['run']} ({result.attrs['adapter']})"


def _sample_names(result: xr.Dataset) -> dict[tuple[str, ...], int]:
    """(data set, split, prompt, id) -> its place, of the samples that were used."""
    columns = [result[key].values for key in (*SAMPLE_KEYS[:3], "sample")]
    used = np.flatnonzero(result["used"].values).tolist()
    names = {tuple(str(column[place]) for column in columns): place for place in used}
    if len(names) < len(used):
        raise ValueError(f"several samples of {_name(result)!r} share a name; pairs need names that are unique")
    return names


def _by_components(result: xr.Dataset, by: Sequence[str], places: Sequence[int]) -> xr.DataArray:
    """(pair, and a dimension for each key): js summed over the components of each group."""
    values = result["js_sample"].isel(sample=list(places)).rename(sample="pair").reset_coords(drop=False)["js_sample"]
    values = xr.DataArray(values.values, dims=("pair", "component"), coords={"component": result["component"].values})
    if not by:
        return values.sum("component", skipna=False)
    if tuple(by) == ("component",):
        return values
    keys = values.assign_coords({key: ("component", result[key].values) for key in by if key != "component"})
    grouped = keys.groupby({key: xr.groupers.UniqueGrouper() for key in by} if len(by) > 1 else by[0])
    return grouped.sum("component", skipna=False) if len(by) == 1 else grouped.sum(skipna=False)


def _tests(differences: xr.DataArray, n: int, adjust: bool) -> xr.Dataset:
    from scipy import stats  # type: ignore[import-untyped]  # a quarter of a second, for which nothing else should wait

    values = differences.transpose("pair", ...).values
    dims = tuple(d for d in differences.transpose("pair", ...).dims if d != "pair")
    mean, error = values.mean(axis=0), values.std(axis=0, ddof=1) / np.sqrt(n)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = mean / error
    p = 2 * stats.t.sf(np.abs(t), n - 1)
    rank = np.apply_along_axis(lambda column: _wilcoxon(column, stats.wilcoxon), 0, values)
    found = {"difference": mean, "difference_se": error, "t": t, "p_t": p, "p_wilcoxon": rank}
    if adjust:
        adjusted, known = np.full(np.shape(p), np.nan), np.isfinite(p)
        adjusted[known] = stats.false_discovery_control(np.asarray(p)[known])
        found["p_adjusted"] = adjusted
    coords = {key: differences[key].values for key in dims}
    return xr.Dataset({k: (dims, v) for k, v in found.items()} | {"n_samples": n}, coords=coords)


def _wilcoxon(differences: np.ndarray, test: Callable[[np.ndarray], Any]) -> float:
    if not np.isfinite(differences).all() or not differences.any():
        return float("nan")
    return float(test(differences).pvalue)
