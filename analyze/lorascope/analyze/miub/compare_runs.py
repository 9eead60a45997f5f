"""MIUB of several results in one table, and the paired test of two results.

MIUB is js, the Jensen-Shannon divergence of a layer's output without and with the adapter, averaged over tokens and
samples and summed over components. A result is what `miub` returns for a run.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd  # type: ignore[import-untyped]
import xarray as xr

from lorascope.analyze.results.options import RUN_KEYS, SAMPLE_KEYS
from lorascope.analyze.results.tree import require_result
from lorascope.analyze.results.weights import standard_error

from .groups import group_by, has_matching_tokens, to_dataframe
from .reduce import ANSWERS

PAIR_KEYS = ("component", "layer", "kind")
"""Keys that `paired` can group differences by."""


def group_runs(results: Sequence[xr.DataTree], by: str | Sequence[str] = ("run",)) -> xr.Dataset:
    """Return mean MIUB of several runs' results by model, rank or other properties (`RUN_KEYS`, keys of `group_by`).

    Parameters
    ----------
    results
        What `miub` returns, of different runs or adapters, with one reduction and unit, about the same kind of tokens.
    by
        The keys. `rank` is the adapter's, or `mixed` if its components have different ranks.

    Returns
    -------
    xr.Dataset
        `miub` over one dimension per key: the mean of the runs in a group. `n_runs` is their number, `n_samples` the
        number of samples that they have together. `miub_sd` is their standard deviation (NaN for one);
        `miub_se` is the standard error over samples of a single run, and over runs (miub_sd / sqrt(n_runs)) of several,
        which may share their samples. A group is NaN if the value of one run isn't finite; a group that doesn't occur
        has 0 runs.

    Raises
    ------
    ValueError
        If there is no result, one is given twice, a key isn't known, or units, reductions or, in a mean or sum, the
        kind of tokens that were captured differ.
    """
    _check_alike(results)
    by = [by] if isinstance(by, str) else list(by)
    names = [_run_label(result) for result in results]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"{twice[0]!r} is given twice; give each run and adapter once")
    table = pd.concat([_run_rows(result, by) for result in results], ignore_index=True)
    for key in by:
        if table[key].map(type).nunique() > 1:  # some ranks are numbers, some `mixed`
            table[key] = table[key].astype(str)
    groups = table.groupby(by, sort=False)
    n_runs, error = groups.size(), groups["miub_se"].first()
    spread = groups["miub"].agg(lambda values: values.std(skipna=False))
    columns = {
        "miub": groups["miub"].agg(lambda values: values.mean(skipna=False)),
        "miub_se": error.where(n_runs == 1, spread / np.sqrt(n_runs)),
        "miub_sd": spread,
        "n_runs": n_runs,
        "n_samples": groups["n_samples"].sum(),
    }
    grid: xr.Dataset = pd.DataFrame(columns).to_xarray()
    counts = {name: grid[name].fillna(0).astype(np.int64) for name in ("n_runs", "n_samples")}
    grid = grid.assign(counts).sel({key: _sorted_labels(table[key].tolist(), key) for key in by}).transpose(*by)
    for name in ("miub", "miub_se", "miub_sd"):
        grid[name].attrs["units"] = results[0].attrs["units"]
    return grid.assign_attrs(_shared_attributes(results))


def _run_rows(result: xr.DataTree, by: Sequence[str]) -> pd.DataFrame:
    """Return MIUB of one run's result as a table: one row per group of `group_by`, one column per key in `by`."""
    inner = [key for key in by if key not in RUN_KEYS]
    if inner:
        rows = to_dataframe(group_by(result, inner), "group")
    else:
        rows = pd.DataFrame([{name: float(result[name]) for name in ("miub", "miub_se")}])
        rows["n_samples"] = result.attrs["n_samples"]
    return rows.assign(**{key: _key_value(result, key) for key in by if key in RUN_KEYS})


def _sorted_labels(labels: list[Any], key: str) -> list[Any]:
    """Return the distinct labels: numbers and length ranges ascending, names in order of first occurrence."""
    distinct = list(dict.fromkeys(labels))
    if key == "length":
        return sorted(distinct, key=lambda label: int(label.partition("-")[0]))
    return sorted(distinct) if all(isinstance(label, int | float) for label in distinct) else distinct


def paired(first: xr.DataTree, second: xr.DataTree, by: Sequence[str] = ()) -> xr.Dataset:
    """Return the difference of MIUB between two results, second minus first, on their shared samples, with tests.

    Parameters
    ----------
    first, second
        What `miub` returns, with one reduction and unit. Samples are matched by data set, split, prompt and id.
    by
        Keys of components to group the differences by: any of `component`, `layer` and `kind`.

    Returns
    -------
    xr.Dataset
        `difference`, second minus first, mean over samples; `difference_se`, its standard error; `t` and `p_t` of the
        paired t-test; `p_wilcoxon` of the signed-rank test, which doesn't assume normal differences; `n_samples`, the
        number of matched samples. With `by` also `p_adjusted`: p_t after Benjamini and Hochberg's correction over all
        groups.

    Raises
    ------
    ValueError
        If results aren't alike (see `group_runs`), fewer than two samples are in both, a name of a sample isn't
        unique, or a key isn't one of `PAIR_KEYS`; or if a sample has other tokens in the other result, unless they
        were generated or come from another tokenizer.

    Notes
    -----
    Pairing removes the differences between samples. A component that only one result has counts as 0 in the other.
    """
    _check_alike((first, second))
    if isinstance(by, str) or set(by) - set(PAIR_KEYS):
        raise ValueError(f"`by` is {by!r}; paired differences are grouped by a sequence of {list(PAIR_KEYS)}")
    tables = [_js_by_sample(result, by) for result in (first, second)]
    shared = tables[0].index.intersection(tables[1].index, sort=False)
    if len(shared) < 2:
        raise ValueError(
            f"{_run_label(first)!r} and {_run_label(second)!r} share {len(shared)} whole samples; at least 2 must be "
            f"in both, by data set, split, prompt and id: {_format_datasets(first)} and {_format_datasets(second)}"
        )
    require_same_tokens(first, second, shared)
    groups = tables[0].columns.append(tables[1].columns).drop_duplicates()
    before, after = (table.loc[shared].reindex(columns=groups, fill_value=0.0) for table in tables)
    tests = pd.DataFrame(_paired_tests((after - before).to_numpy(), adjust=bool(by)), index=groups)
    orders = {key: _sorted_labels(groups.get_level_values(key).tolist(), key) for key in by}
    grid: xr.Dataset = tests.to_xarray().sel(whole=0, drop=True).sel(orders)
    if list(by) == ["component"]:  # figures need layer and kind of each component
        keys = {key: np.concatenate([first[key].values, second[key].values]) for key in PAIR_KEYS}
        kinds = pd.DataFrame(keys).drop_duplicates("component").set_index("component").loc[orders["component"]]
        grid = grid.assign_coords({key: ("component", kinds[key].to_numpy()) for key in kinds})
    return grid.assign(n_samples=len(shared)).assign_attrs(
        **_shared_attributes((first, second)), first=_run_label(first), second=_run_label(second)
    )


def _format_datasets(result: xr.DataTree) -> str:
    """Return the names of data sets and splits of a result's samples as text, for an error message."""
    samples = result.children["samples"].dataset
    names = zip(samples["dataset"].values.tolist(), samples["split"].values.tolist(), strict=True)
    return ", ".join(dict.fromkeys(repr("/".join(filter(None, name))) for name in names))


def _check_alike(results: Sequence[xr.DataTree]) -> None:
    """Raise ValueError unless results have one unit and one reduction, and are about the same kind of tokens."""
    if not results:
        raise ValueError("`results` is empty; give what `miub` returned for each run")
    for result in results:
        require_result(result)
    for key, option in (("unit", "unit"), ("over_tokens", "reduction")):
        values = {result.attrs[key] for result in results}
        if len(values) > 1:
            raise ValueError(
                f"results of different {option}s can't be compared: {sorted(values)}; compute them with one "
                f"`{option}`, such as {results[0].attrs[key]!r}"
            )
    kinds = {result.attrs.get("population", "") for result in results} - {""}
    if len(kinds) > 1 and results[0].attrs["over_tokens"] not in (shared := _shared_reductions(results)):
        way = "capture with the same `tokens`"
        if shared:
            name = shared[0]
            way = f"all have the reduction {name!r}: `lorascope miub RUN RUN --reduction {name}`, in Python "
            way += f"`miub(run, reduction={name!r})` of each"
        raise ValueError(f"results about different tokens can't be compared: {', '.join(sorted(kinds))}; {way}")


def _shared_reductions(results: Sequence[xr.DataTree]) -> list[str]:
    """Return the reductions that are about the same tokens in all results, whichever others were captured.

    They are `answer` if every result has tokens of answers, and `last` if each has the last token of every sample.
    """
    shared = {"answer", "last"}
    for result in results:
        tokens, samples = result.children["tokens"].dataset, result.children["samples"].dataset
        if not np.isin(tokens["role"].values, ANSWERS).any():
            shared -= {"answer"}
        if has_matching_tokens(result):
            ends = np.zeros(samples.sizes["sample"], np.int64)
            np.maximum.at(ends, tokens["sample_of_token"].values, tokens["position"].values + 1)
            if (ends < samples["length"].values)[samples["used"].values].any():
                shared -= {"last"}
    return sorted(shared)


def _key_value(result: xr.DataTree, key: str) -> Any:
    """Return a result's value of a key in `RUN_KEYS`, such as its model, or its rank (`mixed` for several ranks)."""
    if key == "rank":
        ranks = np.unique(result.dataset["rank"].values)
        return int(ranks[0]) if len(ranks) == 1 else "mixed"
    if key == "datasets":
        return ", ".join(dict.fromkeys(result.children["samples"].dataset["dataset"].values.tolist()))
    return result.attrs[key]


def _shared_attributes(results: Sequence[xr.DataTree]) -> dict[str, Any]:
    """Return measure, units, reduction and version as a dict, from the first of results that agree in them."""
    return {key: results[0].attrs[key] for key in ("measure", "units", "reduction", "lorascope")}


def _run_label(result: xr.DataTree) -> str:
    """Return the name of a result's run and adapter, as `run (adapter)`."""
    return f"{result.attrs['run']} ({result.attrs['adapter']})"


def sample_names(result: xr.DataTree) -> pd.MultiIndex:
    """Return (data set, split, prompt, id) of each sample of a result as a pandas MultiIndex."""
    table = result.children["samples"].dataset
    return pd.MultiIndex.from_arrays([table[key].values.astype(str) for key in (*SAMPLE_KEYS[:3], "sample")])


def require_same_tokens(first: xr.DataTree, second: xr.DataTree, shared: pd.MultiIndex) -> None:
    """Raise ValueError if a shared sample has different tokens in both results, for instance since data were edited.

    Only tokens in both results, of the same tokenizer and not generated, are compared.
    """
    tokenizers = {result.attrs.get("tokenizer") for result in (first, second)}
    nodes = [result.children["tokens"].dataset for result in (first, second)]
    if len(tokenizers) > 1 or None in tokenizers or not all("text" in node.coords for node in nodes):
        return
    if not (has_matching_tokens(first) and has_matching_tokens(second)):
        return  # samples were selected or sorted, so that their tokens are unknown
    places, texts = [], []
    for result, node in zip((first, second), nodes, strict=True):
        owners = shared.get_indexer(sample_names(result))[node["sample_of_token"].values]
        compared = (owners >= 0) & (node["role"].values != "generated")
        places.append(owners[compared].astype(np.int64) << 32 | node["position"].values[compared])
        texts.append(node["text"].values[compared])
    both, *where = np.intersect1d(places[0], places[1], assume_unique=True, return_indices=True)
    text, other = (text[place] for text, place in zip(texts, where, strict=True))
    if len(differing := np.flatnonzero(text != other)):
        at = differing[0]
        dataset, _, _, name = shared[both[at] >> 32]
        raise ValueError(
            f"sample {name!r} of {dataset!r} isn't the same text in both: at position {both[at] & 0xFFFFFFFF} "
            f"{_run_label(first)!r} has {text[at]!r}, {_run_label(second)!r} has {other[at]!r}; pair runs of the same "
            "data"
        )


def _js_by_sample(result: xr.DataTree, by: Sequence[str]) -> pd.DataFrame:
    """Return a table of js: a row per used sample (data set, split, prompt, id), a column per group of components."""
    table = result.children["samples"].dataset
    used = table["used"].values
    samples = sample_names(result)[used]
    if not samples.is_unique:
        raise ValueError(f"several samples of {_run_label(result)!r} share a name; pairs need names that are unique")
    labels = {key: result[key].values for key in by} | {"whole": np.zeros(result.sizes["component"], int)}
    codes, groups = pd.MultiIndex.from_frame(pd.DataFrame(labels)).factorize()
    values = table["js"].values[used]
    sums = [values[:, codes == code].sum(axis=1) for code in range(len(groups))]
    return pd.DataFrame(np.stack(sums, axis=1), index=samples, columns=groups.set_names([*by, "whole"]))


def _paired_tests(differences: np.ndarray, *, adjust: bool) -> dict[str, np.ndarray]:
    """Return name -> values by group: mean, standard error and paired tests of differences (pair, group)."""
    from scipy import stats  # type: ignore[import-untyped]  # takes a quarter of a second

    mean, error = differences.mean(axis=0), standard_error(differences)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = mean / error
    p = 2 * stats.t.sf(np.abs(t), len(differences) - 1)
    can_rank = np.isfinite(differences).all(axis=0) & differences.any(axis=0)
    ranks = [
        stats.wilcoxon(column).pvalue if can else np.nan for column, can in zip(differences.T, can_rank, strict=True)
    ]
    tests = {"difference": mean, "difference_se": error, "t": t, "p_t": p, "p_wilcoxon": np.array(ranks)}
    if adjust:
        adjusted, known = np.full(p.shape, np.nan), np.isfinite(p)
        adjusted[known] = stats.false_discovery_control(p[known]) if known.any() else []
        tests["p_adjusted"] = adjusted
    return tests
