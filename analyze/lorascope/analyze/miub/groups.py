"""MIUB by properties of samples, components and tokens, with errors that take samples for independent."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd  # type: ignore[import-untyped]
import xarray as xr

from lorascope.analyze.results.options import COMPONENT_KEYS, KEYS, SAMPLE_KEYS, TOKEN_KEYS
from lorascope.analyze.results.tree import CHUNK_TOKENS, require_result
from lorascope.stores.format.tables import ROLES
from lorascope.stores.names import suggestion

from .reduce import UNITS

UNSORTED = ("dataset", "split", "prompt", "component", "kind", "text")
"""Keys whose values stay in the order in which they come."""
LENGTH_TOKENS = 100
"""Tokens of a bucket of lengths: 1-100, 101-200, ..., as the paper's."""
MOST_GROUPS = 10_000_000
"""Groups of a table, those that don't occur among them: some hundred bytes each. Texts by position could be more."""


def group_by(result: xr.DataTree, by: str | Sequence[str]) -> xr.Dataset:
    """MIUB by groups of samples, components or tokens, with standard errors.

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
        Over a dimension for each key: `miub`, its standard error `miub_se`, and how many samples, `n_samples`, and
        components, `n_components`, it rests on; by keys of tokens also how many tokens, `n_tokens`. Groups that don't
        occur are NaN with 0 samples.

    Raises
    ------
    ValueError
        If a key isn't one of those, a key is given twice or none, tokens are grouped though the
        result is no mean over tokens, or there are more than `MOST_GROUPS` groups.

    Notes
    -----
    Tokens and components of a sample depend on each other, and samples are assumed to be independent. So the error is
    the error of a mean over samples, where each sample gives one number a group: errors clustered by sample.
    """
    by = (by,) if isinstance(by, str) else tuple(by)
    _check(result, by)
    by_sample, by_token = result.children["samples"].dataset, result.children["tokens"].dataset
    used = np.flatnonzero(by_sample["used"].values)
    samples = _codes({key: by_sample[key].values[used] for key in by if key in SAMPLE_KEYS}, len(used))
    labels = {key: by_token[key].values for key in by if key in TOKEN_KEYS}
    if "role" in labels:  # numbers stay in the order of the roles
        labels["role"] = pd.Index(ROLES).get_indexer(labels["role"])
    tokens = _codes(labels, by_token.sizes["token"])
    parts = _codes({key: result.dataset[key].values for key in by if key in COMPONENT_KEYS}, result.sizes["component"])
    if (n_groups := samples.n * tokens.n * parts.n) > MOST_GROUPS:
        raise ValueError(f"`by` is {list(by)}, which makes {n_groups} groups; name fewer keys: at most {MOST_GROUPS}")
    counts = {"n_components": np.bincount(parts.codes, minlength=parts.n)}
    if tokens.labels:
        groups = np.full(by_sample.sizes["sample"], -1)
        groups[used] = samples.codes
        of_token = groups[by_token["sample_of_token"].values]
        counted = by_token["counted"].values & (of_token >= 0)
        codes = of_token[counted] * tokens.n + tokens.codes[counted]
        counts["n_tokens"] = np.bincount(codes, minlength=samples.n * tokens.n)[:, None]
        cells = partial(_token_means, by_token, result.attrs["unit"], groups, tokens, parts)
    else:
        values = _part_sums(by_sample["js"].values[used], parts)
        cells = partial(iter, [(samples.codes, values)])
    count, mean, error = _moments(cells, samples.n * tokens.n, parts.n)
    names = {**samples.labels, **tokens.labels, **parts.labels}
    dims, shape = tuple(names), [len(values) for values in names.values()]
    counts = {"n_samples": count, **counts}
    about, units = f"js; {result.attrs['reduction']}", result.attrs["units"]
    grouped = xr.Dataset(
        {
            "miub": (dims, mean.reshape(shape), {"long_name": about, "units": units}),
            "miub_se": (dims, error.reshape(shape), {"long_name": "standard error over samples", "units": units}),
            **{name: (dims, np.broadcast_to(n, count.shape).reshape(shape)) for name, n in counts.items()},
        },
        coords={key: _named(key, values) for key, values in names.items()},
        attrs=result.attrs,
    )
    return grouped.transpose(*by)


def to_dataframe(result: xr.Dataset | xr.DataTree, per: str = "component") -> Any:
    """A result as a tidy pandas table, with one row for each component, sample, token, or pair of them.

    Parameters
    ----------
    result
        What `miub`, `qualify` or `group_by` returns.
    per
        `component`, `sample`, `sample component`, `token` or `token component`; `group` for what `group_by` returns.

    Returns
    -------
    pandas.DataFrame
        One column for each coordinate and variable that has these dimensions, groups without samples left out.

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
    table = dims[per][columns]  # to xarray, a label with an index is no column
    frame = table.drop_indexes(set(table.xindexes) - set(table.dims)).to_dataframe().reset_index()
    return frame[[name for name in frame if name not in columns] + columns]


class _Codes(NamedTuple):
    """To which of the groups each of some things belongs."""

    labels: Mapping[str, list[Any]]
    """Key -> its values, in the order of their dimension."""
    codes: np.ndarray
    """Place in the product of all keys' values, first key slowest."""
    n: int
    """Places of that product."""


def _check(result: xr.DataTree, by: Sequence[str]) -> None:
    require_result(result)
    unknown = [key for key in by if key not in KEYS]
    if unknown or not by or len(set(by)) < len(by):
        close = suggestion(unknown[0], KEYS) if unknown else ""
        raise ValueError(f"`by` is {list(by)}; name one or several of {list(KEYS)}, each once{close}")
    if set(by) & set(TOKEN_KEYS) and result.attrs["over_tokens"] != "mean":
        raise ValueError(
            f"tokens can't be grouped by {[k for k in by if k in TOKEN_KEYS]} in a result of reduction "
            f"{result.attrs['reduction']!r}; take the one of reduction 'mean'"
        )
    if set(by) & set(TOKEN_KEYS) and not tokens_fit(result):
        raise ValueError("tokens can't be grouped where samples of the result were chosen or sorted; group it whole")
    if "text" in by and "text" not in result.children["tokens"].coords:
        raise ValueError("tokens can't be grouped by 'text', which the run doesn't keep; group them by another key")


def tokens_fit(result: xr.DataTree) -> bool:
    """Tell whether every token's sample is still at the place that the token names."""
    ids, by_token = result.children["samples"].dataset["sample"].values, result.children["tokens"].dataset
    owners = by_token["sample_of_token"].values
    return not len(owners) or bool(owners.max() < len(ids) and (ids[owners] == by_token["sample"].values).all())


def _codes(columns: Mapping[str, np.ndarray], n: int) -> _Codes:
    labels: dict[str, list[Any]] = {}
    codes, size = np.zeros(n, np.int64), 1
    for key, values in columns.items():
        buckets = np.maximum(values - 1, 0) // LENGTH_TOKENS if key == "length" else values
        codes_of_key, names = pd.factorize(buckets, sort=key not in UNSORTED)
        labels[key] = names.tolist()
        codes, size = codes * len(names) + codes_of_key, size * len(names)
    return _Codes(labels, codes, size)


def _token_means(
    by_token: xr.Dataset, unit: str, groups: np.ndarray, tokens: _Codes, parts: _Codes
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Weighted means of each sample's tokens of one group (cell, component group), and codes of (its group, theirs).

    `groups` is (sample,), -1 for one that isn't used. Some whole samples are in memory at a time.
    """
    convert, owner = UNITS[unit].convert, by_token["sample_of_token"].values
    weights = np.where(by_token["counted"].values & (groups[owner] >= 0), by_token["weight"].values, 0.0)
    edges = [0]
    for stop in [*(np.flatnonzero(np.diff(owner)) + 1).tolist(), len(owner)]:
        if stop - edges[-1] >= CHUNK_TOKENS or stop == len(owner):
            edges.append(stop)
    for span in map(slice, edges, edges[1:]):
        cells, places = np.unique(owner[span] * tokens.n + tokens.codes[span], return_inverse=True)
        w, sums = weights[span, None], np.zeros((len(cells), parts.n))
        values = convert(np.asarray(by_token["js"].variable[span]).astype(np.float64))
        # What doesn't count may be NaN.
        np.add.at(sums, places, _part_sums(np.where(w > 0, values, 0.0), parts) * w)
        totals = np.bincount(places, weights[span])
        occurs = totals > 0
        sample, group = np.divmod(cells[occurs], tokens.n)
        yield groups[sample] * tokens.n + group, sums[occurs] / totals[occurs, None]


def _part_sums(values: np.ndarray, parts: _Codes) -> np.ndarray:
    """Sums over the components of each group, float64 (..., component group)."""
    with np.errstate(invalid="ignore"):
        sums = [values[..., parts.codes == code].sum(axis=-1, dtype=np.float64) for code in range(parts.n)]
    return np.stack(sums, axis=-1)


def _moments(
    cells: Callable[[], Iterator[tuple[np.ndarray, np.ndarray]]], n: int, n_parts: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Count, mean and standard error (group, component group) of values (cell, component group), by their codes.

    Cells come twice, for deviations are from the mean.
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


def _named(key: str, values: list[Any]) -> list[Any]:
    """Labels as a reader wants them: buckets of lengths and roles by name."""
    if key == "length":
        return [f"{LENGTH_TOKENS * place + 1}-{LENGTH_TOKENS * (place + 1)}" for place in values]
    return [[*ROLES, ""][number] for number in values] if key == "role" else values
