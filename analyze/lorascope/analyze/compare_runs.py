"""Several results side by side, and whether two of them differ: paired by sample."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from .groups import SAMPLE_KEYS, group_by, to_dataframe
from .weights import standard_error

__all__ = ["RUN_KEYS", "paired", "side_by_side"]

PAIR_KEYS = ("component", "layer", "kind")
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
        many, `n_samples` how many samples they have together. `miub_sd` is their standard deviation (NaN for one);
        `miub_se` is the standard error over samples of a single run, and over runs (miub_sd / sqrt(n_runs)) of several,
        which may well share their samples. A group of which one run's value isn't finite is NaN; one that doesn't
        occur has 0 runs.

    Raises
    ------
    ValueError
        If there is no result, one is given twice, units or reductions differ, or a key isn't known.
    """
    _check_alike(results)
    names = [_name(result) for result in results]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"{twice[0]!r} is given twice; give each run and adapter once")
    import pandas as pd  # type: ignore[import-untyped]

    table = pd.concat([_rows(result, by) for result in results], ignore_index=True)
    for key in by:
        if table[key].map(type).nunique() > 1:  # ranks, some of which are mixed
            table[key] = table[key].astype(str)
    rows = [dict(zip(by, group, strict=True)) | _summary(part) for group, part in table.groupby(list(by), sort=False)]
    whole: xr.Dataset = pd.DataFrame(rows).set_index(list(by)).to_xarray()
    counts = {name: whole[name].fillna(0).astype(np.int64) for name in ("n_runs", "n_samples")}
    whole = whole.assign(counts).sel({key: _in_order(table[key].tolist(), key) for key in by}).transpose(*by)
    for name in ("miub", "miub_se", "miub_sd"):
        whole[name].attrs["units"] = results[0].attrs["units"]
    return whole.assign_attrs(_shared(results))


def _rows(result: xr.Dataset, by: Sequence[str]) -> Any:
    """One row for each of the result's groups, with a column for each key."""
    import pandas as pd

    inner = [key for key in by if key not in RUN_KEYS]
    if inner:
        rows = to_dataframe(group_by(result, inner), "group")
    else:
        whole = {"miub": float(result["miub"]), "miub_se": float(result["miub_se"])}
        rows = pd.DataFrame([whole | {"n_samples": result.attrs["n_samples"]}])
    return rows.assign(**{key: _label(result, key) for key in by if key in RUN_KEYS})


def _summary(runs: Any) -> dict[str, float]:
    """Mean and errors of the rows of one group, one a run."""
    values = runs["miub"].to_numpy()
    n = len(values)
    spread = float(values.std(ddof=1)) if n > 1 else float("nan")
    error = spread / np.sqrt(n) if n > 1 else float(runs["miub_se"].iloc[0])
    counts = {"n_runs": n, "n_samples": int(runs["n_samples"].sum())}
    return {"miub": float(values.mean()), "miub_se": float(error), "miub_sd": spread, **counts}


def _in_order(labels: list[Any], key: str) -> list[Any]:
    """Each once: numbers and buckets of lengths ascending, names as they come."""
    found = list(dict.fromkeys(labels))
    if key == "length":
        return sorted(found, key=lambda label: int(label.partition("-")[0]))
    return sorted(found) if all(isinstance(label, int | float) for label in found) else found


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
    if isinstance(by, str) or set(by) - set(PAIR_KEYS):
        raise ValueError(f"`by` is {by!r}; paired differences go by a sequence of {list(PAIR_KEYS)}")
    names = [_sample_names(result) for result in (first, second)]
    shared = [name for name in names[0] if name in names[1]]
    ones, others = ([places[name] for name in shared] for places in names)
    if len(ones) < 2:
        raise ValueError(
            f"{_name(first)!r} and {_name(second)!r} share {len(ones)} whole samples; at least 2 must be in both: "
            "the same data, prompt and ids"
        )
    groups = dict.fromkeys(label for result in (first, second) for label in _group_labels(result, by))
    tables = [_group_sums(one, by, places, list(groups)) for one, places in ((first, ones), (second, others))]
    found = _tests(tables[1] - tables[0], adjust=bool(by))
    grid = _grid(found, by, list(groups))
    if list(by) == ["component"]:  # as maps want it
        for key in ("kind", "layer"):
            labels = {name: label for one in (first, second) for name, label in _group_labels(one, ("component", key))}
            grid = grid.assign_coords(
                {key: ("component", [labels[name] for name in grid["component"].values.tolist()])}
            )
    return grid.assign(n_samples=len(ones)).assign_attrs(
        **_shared((first, second)), first=_name(first), second=_name(second)
    )


def _check_alike(results: Sequence[xr.Dataset]) -> None:
    if not results:
        raise ValueError("`results` is empty; give what `miub` returned for each run")
    for key, what in (("unit", "units"), ("over_tokens", "reductions")):
        found = {result.attrs[key] for result in results}
        if len(found) > 1:
            raise ValueError(f"results of different {what} can't be compared: {sorted(found)}; compute them alike")


def _label(result: xr.Dataset, key: str) -> Any:
    if key == "rank":
        ranks = np.unique(result["rank"].values)
        return int(ranks[0]) if len(ranks) == 1 else "mixed"
    if key == "datasets":
        return ", ".join(dict.fromkeys(result["dataset"].values.tolist()))
    return result.attrs[key]


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


def _group_labels(result: xr.Dataset, by: Sequence[str]) -> list[tuple[Any, ...]]:
    """Group of each component; an empty one for all where there are no keys."""
    return list(zip(*(result[key].values.tolist() for key in by), strict=True)) if by else [()]


def _group_sums(result: xr.Dataset, by: Sequence[str], places: Sequence[int], groups: Sequence[Any]) -> np.ndarray:
    """Float64 (pair, group): js summed over the components of each group, 0 where it has none here."""
    values = result["js_sample"].values[list(places)]
    if not by:
        return np.asarray(values.sum(axis=1, keepdims=True))
    labels = _group_labels(result, by)
    members = [[index for index, label in enumerate(labels) if label == group] for group in groups]
    return np.stack([values[:, some].sum(axis=1) for some in members], axis=1)


def _tests(differences: np.ndarray, *, adjust: bool) -> dict[str, np.ndarray]:
    """Tests of differences (pair, group), by group."""
    from scipy import stats  # type: ignore[import-untyped]  # a quarter of a second, for which nothing else should wait

    mean, error = differences.mean(axis=0), standard_error(differences)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = mean / error
    p = 2 * stats.t.sf(np.abs(t), len(differences) - 1)
    ranks = np.array([_wilcoxon(column, stats.wilcoxon) for column in differences.T])
    found = {"difference": mean, "difference_se": error, "t": t, "p_t": p, "p_wilcoxon": ranks}
    if adjust:
        adjusted, known = np.full(p.shape, np.nan), np.isfinite(p)
        adjusted[known] = stats.false_discovery_control(p[known]) if known.any() else []
        found["p_adjusted"] = adjusted
    return found


def _grid(found: Mapping[str, np.ndarray], by: Sequence[str], groups: Sequence[tuple[Any, ...]]) -> xr.Dataset:
    """Groups laid out over a dimension for each key; NaN where a combination doesn't occur."""
    labels = {key: _in_order([group[place] for group in groups], key) for place, key in enumerate(by)}
    shape = [len(values) for values in labels.values()]
    cells = tuple(np.array([labels[key].index(group[i]) for group in groups], int) for i, key in enumerate(by))
    variables = {}
    for name, values in found.items():
        grid = np.full(shape, np.nan)
        grid[cells] = values if by else values[0]
        variables[name] = (tuple(by), grid)
    return xr.Dataset(variables, coords=labels)


def _wilcoxon(differences: np.ndarray, test: Callable[[np.ndarray], Any]) -> float:
    if not np.isfinite(differences).all() or not differences.any():
        return float("nan")
    return float(test(differences).pvalue)
