"""MIUB by groups of samples, components and tokens, with errors for independent samples.

MIUB is js, the Jensen-Shannon divergence of a layer's output without and with the adapter, averaged over tokens and
samples and summed over components.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd  # type: ignore[import-untyped]
import xarray as xr

from lorascope.analyze.results.options import COMPONENT_KEYS, EXPERT, KEYS, SAMPLE_KEYS, TOKEN_KEYS
from lorascope.analyze.results.tree import CHUNK_TOKENS, require_result
from lorascope.stores.format.tables import ROLES
from lorascope.stores.names import suggestion

from .reduce import UNITS

UNSORTED_KEYS = ("dataset", "split", "prompt", "component", "kind", "text")
"""Keys whose values keep their order of occurrence; others are sorted."""
LENGTH_TOKENS = 100
"""Width in tokens of the bins of the key `length`: 1-100, 101-200, ..., as in the paper."""
MOST_GROUPS = 10_000_000
"""Largest number of groups, also empty ones, of some hundred bytes each; texts by position could be more."""


def group_by(result: xr.DataTree, by: str | Sequence[str]) -> xr.Dataset:
    """Return MIUB by groups of samples, components or tokens as a dataset, with standard errors over samples.

    Parameters
    ----------
    result
        What `miub` returns; its reduction and unit are kept.
    by
        One or several of `KEYS`: of samples (`dataset`, `split`, `prompt`, `length` of the whole sequence in hundreds
        of tokens), components (`component`, `layer`, `kind`, `rank`) and tokens (`role`, `position`, `text`). A
        sample's tokens of one group are reduced to their mean; a group's components are summed up, as in MIUB.

    Returns
    -------
    xr.Dataset
        Over one dimension per key: `miub`, its standard error `miub_se`, and the numbers of samples, `n_samples`, and
        components, `n_components`; with keys of tokens also of tokens, `n_tokens`. Groups that don't occur are NaN with
        0 samples.

    Raises
    ------
    ValueError
        If a key is unknown or given twice, no key is given, tokens are grouped in a result that isn't a mean over
        tokens, or there are more than `MOST_GROUPS` groups.

    Notes
    -----
    Tokens and components of a sample depend on each other; samples are assumed to be independent. So the error is
    that of a mean over samples, with one number per sample and group: errors clustered by sample.
    """
    by = (by,) if isinstance(by, str) else tuple(by)
    check_keys(result, by)
    by_sample, by_token = result.children["samples"].dataset, result.children["tokens"].dataset
    groups = result_groups(result, by)
    samples, tokens, parts = groups
    counts = {"n_components": np.bincount(parts.codes, minlength=parts.n)}
    if tokens.labels:
        of_token = samples.codes[by_token["sample_of_token"].values]
        counted = by_token["counted"].values & (of_token >= 0)
        codes = of_token[counted] * tokens.n + tokens.codes[counted]
        counts["n_tokens"] = np.bincount(codes, minlength=samples.n * tokens.n)[:, None]
        cells = partial(_token_means, by_token, result.attrs["unit"], groups)
    else:
        used = samples.codes >= 0
        values = _component_group_sums(by_sample["js"].values[used], parts)
        cells = partial(iter, [(samples.codes[used], values)])
    count, mean, error = _group_statistics(cells, samples.n * tokens.n, parts.n)
    labels = groups.labels()
    dims, shape = tuple(labels), [len(values) for values in labels.values()]
    counts = {"n_samples": count, **counts}
    about, units = f"js; {result.attrs['reduction']}", result.attrs["units"]
    grouped = xr.Dataset(
        {
            "miub": (dims, mean.reshape(shape), {"long_name": about, "units": units}),
            "miub_se": (dims, error.reshape(shape), {"long_name": "standard error over samples", "units": units}),
            **{name: (dims, np.broadcast_to(n, count.shape).reshape(shape)) for name, n in counts.items()},
        },
        coords=labels,
        attrs=result.attrs,
    )
    return grouped.transpose(*by)


def to_dataframe(result: xr.Dataset | xr.DataTree, per: str = "component") -> Any:
    """Return a result as a tidy pandas table with one row per component, sample, token, or pair of them.

    Parameters
    ----------
    result
        What `miub`, `qualify` or `group_by` returns.
    per
        `component`, `sample`, `sample component`, `token` or `token component`; `group` for what `group_by` returns.

    Returns
    -------
    pandas.DataFrame
        One column for each coordinate and variable with these dimensions; groups without samples are dropped.

    Raises
    ------
    ValueError
        If nothing in the result has these dimensions.
    """
    if not isinstance(result, xr.Dataset):
        require_result(result)
    if per in ("group", "component") and "n_samples" in result and per not in result.dims:
        frame = result.to_dataframe().reset_index()
        return frame[frame["n_samples"] > 0].reset_index(drop=True)
    nodes = [result] if isinstance(result, xr.Dataset) else [node.to_dataset() for node in result.subtree]
    dims = {
        " ".join(map(str, values.dims)): node for node in nodes for values in node.data_vars.values() if values.dims
    }
    if per not in dims:
        raise ValueError(f"`per` is {per!r}; this result holds numbers per {sorted(dims)}")
    columns = [name for name, values in dims[per].data_vars.items() if " ".join(map(str, values.dims)) == per]
    table = dims[per][columns]  # xarray makes no column of a label with an index
    frame = table.drop_indexes(set(table.xindexes) - set(table.dims)).to_dataframe().reset_index()
    return frame[[name for name in frame if name not in columns] + columns]


class GroupCodes(NamedTuple):
    """Groups of items (samples, tokens or components): a code per item, and the labels that codes stand for."""

    labels: Mapping[str, list[Any]]
    """Key -> its values, in the order of their dimension."""
    codes: np.ndarray
    """Int64 (item,): place of its group in the product of all keys' values, first key slowest."""
    n: int
    """Number of groups: the size of that product."""


class ResultGroups(NamedTuple):
    """Groups of a result's samples (code -1: unused), tokens and components."""

    samples: GroupCodes
    tokens: GroupCodes
    components: GroupCodes

    def labels(self) -> dict[str, list[Any]]:
        """Return key -> its values, with texts for `length` (such as 1-100) and `role`, in the order of dimensions."""
        return {key: _label_names(key, values) for part in self for key, values in part.labels.items()}


def result_groups(result: xr.DataTree, by: Sequence[str], *, n_experts: int = 1) -> ResultGroups:
    """Return the groups of a result by these keys; raise ValueError if they and experts make over `MOST_GROUPS`."""
    by_sample, by_token = result.children["samples"].dataset, result.children["tokens"].dataset
    used = by_sample["used"].values
    samples = _group_codes({key: by_sample[key].values[used] for key in by if key in SAMPLE_KEYS}, int(used.sum()))
    codes = np.full(len(used), -1)
    codes[used] = samples.codes
    labels = {key: by_token[key].values for key in by if key in TOKEN_KEYS}
    if "role" in labels:  # as numbers, roles are sorted in their own order
        labels["role"] = pd.Index(ROLES).get_indexer(labels["role"])
    tokens = _group_codes(labels, by_token.sizes["token"])
    parts = _group_codes(
        {key: result.dataset[key].values for key in by if key in COMPONENT_KEYS}, result.sizes["component"]
    )
    if (n_groups := samples.n * tokens.n * parts.n * n_experts) > MOST_GROUPS:
        raise ValueError(f"`by` is {list(by)}, which makes {n_groups} groups; name fewer keys: at most {MOST_GROUPS}")
    return ResultGroups(samples._replace(codes=codes), tokens, parts)


def check_keys(result: xr.DataTree, by: Sequence[str], allowed: Sequence[str] = KEYS) -> None:
    """Raise ValueError unless the result can be grouped by these keys, TypeError if it isn't a result of `miub`."""
    require_result(result)
    unknown = [key for key in by if key not in allowed]
    if unknown or not by or len(set(by)) < len(by):
        close = suggestion(unknown[0], allowed) if unknown else ""
        raise ValueError(f"`by` is {list(by)}; name one or several of {list(allowed)}, each once{close}")
    token_keys = [key for key in by if key in (*TOKEN_KEYS, EXPERT)]
    if token_keys and result.attrs["over_tokens"] != "mean":
        raise ValueError(
            f"tokens can't be grouped by {token_keys} in a result of reduction {result.attrs['reduction']!r}; take the "
            "one of reduction 'mean'"
        )
    if token_keys and not has_matching_tokens(result):
        raise ValueError(
            "tokens can't be grouped if samples of the result were selected or sorted; group the whole result"
        )
    if "text" in by and "text" not in result.children["tokens"].coords:
        raise ValueError("tokens can't be grouped by 'text', which the run doesn't store; group them by another key")


def has_matching_tokens(result: xr.DataTree) -> bool:
    """Return whether a result's samples are in the order that its tokens refer to, not selected or sorted."""
    ids, by_token = result.children["samples"].dataset["sample"].values, result.children["tokens"].dataset
    owners = by_token["sample_of_token"].values
    return not len(owners) or bool(owners.max() < len(ids) and (ids[owners] == by_token["sample"].values).all())


def _group_codes(columns: Mapping[str, np.ndarray], n: int) -> GroupCodes:
    """Return the groups of n items, one for each combination of the values (item,) of all keys."""
    labels: dict[str, list[Any]] = {}
    codes, size = np.zeros(n, np.int64), 1
    for key, values in columns.items():
        buckets = np.maximum(values - 1, 0) // LENGTH_TOKENS if key == "length" else values
        codes_of_key, names = pd.factorize(buckets, sort=key not in UNSORTED_KEYS)
        labels[key] = names.tolist()
        codes, size = codes * len(names) + codes_of_key, size * len(names)
    return GroupCodes(labels, codes, size)


def sample_spans(owner: np.ndarray) -> Iterator[slice]:
    """Yield slices of tokens that hold whole samples, of `CHUNK_TOKENS` or more; `owner` (token,) is their sample."""
    edges = [0]
    for stop in [*(np.flatnonzero(np.diff(owner)) + 1).tolist(), len(owner)]:
        if stop - edges[-1] >= CHUNK_TOKENS or stop == len(owner):
            edges.append(stop)
    return map(slice, edges, edges[1:])


def _token_means(by_token: xr.Dataset, unit: str, groups: ResultGroups) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield codes (cell,) and weighted means of js (cell, component group); a cell is a sample's tokens of one group.

    A code combines the sample's group and the tokens' group. A few whole samples are in memory at a time.
    """
    samples, tokens, parts = groups
    convert, owner = UNITS[unit].convert, by_token["sample_of_token"].values
    weights = np.where(by_token["counted"].values & (samples.codes[owner] >= 0), by_token["weight"].values, 0.0)
    for span in sample_spans(owner):
        cells, places = np.unique(owner[span] * tokens.n + tokens.codes[span], return_inverse=True)
        w, sums = weights[span, None], np.zeros((len(cells), parts.n))
        values = convert(np.asarray(by_token["js"].variable[span]).astype(np.float64))
        # Values of weight 0 may be NaN.
        np.add.at(sums, places, _component_group_sums(np.where(w > 0, values, 0.0), parts) * w)
        totals = np.bincount(places, weights[span])
        occurs = totals > 0
        sample, group = np.divmod(cells[occurs], tokens.n)
        yield samples.codes[sample] * tokens.n + group, sums[occurs] / totals[occurs, None]


def _component_group_sums(values: np.ndarray, parts: GroupCodes) -> np.ndarray:
    """Return values (..., component) summed over each group's components, float64 (..., component group)."""
    with np.errstate(invalid="ignore"):
        sums = [values[..., parts.codes == code].sum(axis=-1, dtype=np.float64) for code in range(parts.n)]
    return np.stack(sums, axis=-1)


def _group_statistics(
    cells: Callable[[], Iterator[tuple[np.ndarray, np.ndarray]]], n: int, n_parts: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return count, mean, standard error, each (group, component group), of the values that `cells` yields by code.

    `cells` is called twice: for the means, and for the deviations from them.
    """
    count, total, spread = np.zeros(n, np.int64), np.zeros((n, n_parts)), np.zeros((n, n_parts))
    for codes, values in cells():
        count += np.bincount(codes, minlength=n)
        np.add.at(total, codes, values)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = total / count[:, None]
        for codes, values in cells():
            np.add.at(spread, codes, (values - mean[codes]) ** 2)
        error = np.sqrt(spread / (count - 1)[:, None] / count[:, None])
    return np.broadcast_to(count[:, None], mean.shape), mean, error


def _label_names(key: str, values: list[Any]) -> list[Any]:
    """Return a key's labels as texts if it is `length` (such as 1-100) or `role`, otherwise unchanged."""
    if key == "length":
        return [f"{LENGTH_TOKENS * place + 1}-{LENGTH_TOKENS * (place + 1)}" for place in values]
    return [[*ROLES, ""][number] for number in values] if key == "role" else values
