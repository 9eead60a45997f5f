"""MIUB by data set, prompt, length, role, position, layer and kind, with errors that take samples for independent."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from lorascope.stores.format.tables import ROLES

from .reduce import UNITS, token_blocks
from .weights import standard_error

__all__ = ["COMPONENT_KEYS", "KEYS", "SAMPLE_KEYS", "TOKEN_KEYS", "group_by", "to_dataframe"]

SAMPLE_KEYS = ("dataset", "split", "prompt", "length")
COMPONENT_KEYS = ("component", "layer", "kind", "rank")
TOKEN_KEYS = ("role", "position")
KEYS = (*SAMPLE_KEYS, *COMPONENT_KEYS, *TOKEN_KEYS)
LENGTH_TOKENS = 100
"""Tokens of a bucket of lengths: 1-100, 101-200, ..., as the paper's."""


def group_by(result: xr.Dataset, by: Sequence[str], *, over_components: str = "sum") -> xr.Dataset:
    """Mean over samples of js, reduced over each group's tokens and components, with its standard error.

    Parameters
    ----------
    result
        What `miub` returns; its reduction and unit are kept.
    by
        One or several of `KEYS`: of samples (`dataset`, `split`, `prompt`, `length` of the whole sequence in hundreds
        of tokens), components (`component`, `layer`, `kind`, `rank`) and tokens (`role`, `position`). Tokens of one
        role are reduced to their mean; at a position a sample has one.
    over_components
        `sum` (as MIUB) or `mean` over the components of a group.

    Returns
    -------
    xr.Dataset
        Over a dimension for each key: `miub`, its standard error `miub_se`, and how many samples, `n_samples`, and
        components, `n_components`, it rests on. Groups that don't occur are NaN with 0 samples.

    Raises
    ------
    ValueError
        If a key or `over_components` isn't one of those, a key is given twice or none, or tokens are grouped though the
        result is no mean over tokens.

    Notes
    -----
    A sample's tokens and components depend on each other; samples are taken for independent. The error is therefore
    that of a mean over samples, each of which enters with one number a group: errors clustered by sample.
    """
    _check(result, by, over_components)
    used = np.flatnonzero(result["used"].values)
    samples = _codes({key: _sample_labels(result, key)[used] for key in by if key in SAMPLE_KEYS}, len(used))
    parts = _codes({k: result[k].values for k in by if k in COMPONENT_KEYS}, result.sizes["component"])
    tokens = _codes({k: result[k].values for k in by if k in TOKEN_KEYS}, result.sizes["token"])
    if tokens.labels:
        sums = _by_position if "position" in by else _by_role
        count, mean, spread = sums(result, used, samples, parts, tokens, over_components)
    else:
        values = _over_components(result["js_sample"].values[used], parts, over_components)
        count, mean, spread = _moments(values[:, None], samples)
    return _dataset(result, by, over_components, (samples, tokens, parts), (count, mean, spread))


def to_dataframe(result: xr.Dataset, per: str = "component") -> Any:
    """A tidy pandas table of a result: a row for each component, sample, token, or pair of them.

    Parameters
    ----------
    result
        What `miub`, `group_by` or `qualify` returns.
    per
        `component`, `sample`, `sample component`, `token` or `token component`; `group` for what `group_by` returns.

    Returns
    -------
    pandas.DataFrame
        One column for each coordinate and variable that has these dimensions, groups without samples left out.
        `component` of a result of `miub` has `js`, the mean over samples of `js_sample`, and `js_se`.

    Raises
    ------
    ValueError
        If nothing in the result has these dimensions.
    """
    if per == "group" and "n_samples" in result:
        frame = result.to_dataframe().reset_index()
        return frame[frame["n_samples"] > 0].reset_index(drop=True)
    if per == "component" and "js_sample" in result:
        values, units = result["js_sample"].values[result["used"].values], result["js_sample"].attrs["units"]
        means = {"js": values.mean(axis=0), "js_se": standard_error(values)}
        result = result.assign({name: ("component", one, {"units": units}) for name, one in means.items()})
    dims = tuple(per.split())
    kept = [name for name, values in result.data_vars.items() if values.dims == dims]
    if not kept:
        known = sorted({" ".join(map(str, values.dims)) for values in result.data_vars.values() if values.dims})
        raise ValueError(f"`per` is {per!r}; this result holds numbers per {known}")
    return result[kept].to_dataframe().reset_index()


class _Codes(NamedTuple):
    """To which of the groups each of some things belongs."""

    labels: Mapping[str, list[Any]]
    """Key -> its values, in the order of their dimension."""
    codes: np.ndarray
    """Place in the product of all keys' values, first key slowest."""
    n: int
    """Places of that product."""


def _check(result: xr.Dataset, by: Sequence[str], over_components: str) -> None:
    if isinstance(by, str):
        raise ValueError(f"`by` is {by!r}; give a sequence of keys, such as [{by!r}]")
    unknown = [key for key in by if key not in KEYS]
    if unknown or not by or len(set(by)) < len(by):
        raise ValueError(f"`by` is {list(by)}; name one or several of {list(KEYS)}, each once")
    if over_components not in ("sum", "mean"):
        raise ValueError(f"`over_components` is {over_components!r}; allowed are 'sum' and 'mean'")
    if set(by) & set(TOKEN_KEYS) and result.attrs["over_tokens"] != "mean":
        raise ValueError(
            f"tokens can't be grouped by {[k for k in by if k in TOKEN_KEYS]} in a result of reduction "
            f"{result.attrs['reduction']!r}; take the one of reduction 'mean'"
        )
    if set(by) & set(TOKEN_KEYS) and result["sample_of_token"].max() >= result.sizes["sample"]:
        raise ValueError("tokens can't be grouped where samples were taken out of the result; group the whole result")


def _sample_labels(result: xr.Dataset, key: str) -> np.ndarray:
    values = result[key].values
    return values if key != "length" else np.asarray(np.maximum(values - 1, 0) // LENGTH_TOKENS)


def _codes(columns: Mapping[str, np.ndarray], n: int) -> _Codes:
    labels: dict[str, list[Any]] = {}
    codes, size = np.zeros(n, np.int64), 1
    for key, values in columns.items():
        found, inverse = np.unique(values.astype(str) if values.dtype == object else values, return_inverse=True)
        if key in ("kind", "component", "dataset", "prompt", "split"):  # in the order in which they come
            first = np.unique(inverse, return_index=True)[1]
            order = np.argsort(first, kind="stable")
            found, inverse = found[order], np.argsort(order, kind="stable")[inverse]
        labels[key] = found.tolist()
        codes, size = codes * len(found) + inverse, size * len(found)
    return _Codes(labels, codes, size)


def _over_components(values: np.ndarray, parts: _Codes, how: str) -> np.ndarray:
    """Float64 (..., component group)."""
    groups = [values[..., parts.codes == code] for code in range(parts.n)]
    with np.errstate(invalid="ignore"):
        sums = np.stack([group.sum(axis=-1, dtype=np.float64) for group in groups], axis=-1)
    counts = np.array([group.shape[-1] for group in groups], np.float64)
    return sums if how == "sum" else np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)


_Moments = tuple[np.ndarray, np.ndarray, np.ndarray]
"""How many samples, their mean and their summed squares about it: (sample group, token group, component group)."""


def _moments(values: np.ndarray, samples: _Codes) -> _Moments:
    """Moments of values (sample, token group, component group), by group of samples."""
    shape = (samples.n, *values.shape[1:])
    count, mean, spread = np.zeros(shape), np.full(shape, np.nan), np.full(shape, np.nan)
    for code in range(samples.n):
        for token in range(shape[1]):
            part = values[samples.codes == code, token]
            if len(part):
                count[code, token] = len(part)
                mean[code, token] = part.mean(axis=0)
                spread[code, token] = ((part - mean[code, token]) ** 2).sum(axis=0)
    return count, mean, spread


def _by_role(
    result: xr.Dataset, used: np.ndarray, samples: _Codes, parts: _Codes, tokens: _Codes, how: str
) -> _Moments:
    """Tokens of one group are reduced to their weighted mean in each sample first."""
    n_samples = result.sizes["sample"]
    sums = np.zeros((n_samples * tokens.n, parts.n))
    weights = np.zeros(n_samples * tokens.n)
    for span, block, w in _counted_blocks(result):
        places = result["sample_of_token"].values[span] * tokens.n + tokens.codes[span]
        np.add.at(sums, places, _over_components(block, parts, how) * w[:, None])
        np.add.at(weights, places, w)
    means = np.divide(sums, weights[:, None], out=np.full_like(sums, np.nan), where=weights[:, None] > 0)
    means = means.reshape(n_samples, tokens.n, parts.n)[used]
    there = (weights.reshape(n_samples, tokens.n) > 0)[used]
    found = []
    for token in range(tokens.n):
        kept = there[:, token]
        found.append(_moments(means[kept, token][:, None], samples._replace(codes=samples.codes[kept])))
    count, mean, spread = (np.concatenate(parts_of_all, axis=1) for parts_of_all in zip(*found, strict=True))
    return count, mean, spread


def _by_position(
    result: xr.Dataset, used: np.ndarray, samples: _Codes, parts: _Codes, tokens: _Codes, how: str
) -> _Moments:
    """A sample has one token at a position: each is its own mean. Two trips, for deviations are from the mean."""
    shape = (samples.n * tokens.n, parts.n)
    of_sample = np.full(result.sizes["sample"], -1)
    of_sample[used] = samples.codes
    count, total, spread = np.zeros(shape), np.zeros(shape), np.zeros(shape)

    def cells(span: slice) -> tuple[np.ndarray, np.ndarray]:
        sample = of_sample[result["sample_of_token"].values[span]]
        return sample * tokens.n + tokens.codes[span], sample >= 0

    for span, block, w in _counted_blocks(result):
        places, kept = cells(span)
        kept = kept & (w > 0)
        np.add.at(count, places[kept], 1.0)
        np.add.at(total, places[kept], _over_components(block[kept], parts, how))
    mean = np.divide(total, count, out=np.full(shape, np.nan), where=count > 0)
    for span, block, w in _counted_blocks(result):
        places, kept = cells(span)
        kept = kept & (w > 0)
        np.add.at(spread, places[kept], (_over_components(block[kept], parts, how) - mean[places[kept]]) ** 2)
    full = (samples.n, tokens.n, parts.n)
    return count.reshape(full), mean.reshape(full), spread.reshape(full)


def _counted_blocks(result: xr.Dataset) -> Any:
    """(tokens, js in the result's unit (token, component), weights) by ranges of tokens; weight 0 where none counts."""
    convert = UNITS[result.attrs["unit"]].convert
    counted, weights = result["counted"].values, result["weight"].values
    for span, block in token_blocks(result["js"].variable):
        w = np.where(counted[span], weights[span], 0.0)
        yield span, np.where(w[:, None] > 0, convert(block.astype(np.float64)), 0.0), w


def _dataset(
    result: xr.Dataset, by: Sequence[str], how: str, codes: tuple[_Codes, _Codes, _Codes], moments: _Moments
) -> xr.Dataset:
    samples, tokens, parts = codes
    count, mean, spread = moments
    labels = {**samples.labels, **tokens.labels, **parts.labels}
    shape = [len(values) for values in labels.values()]
    with np.errstate(invalid="ignore", divide="ignore"):
        error = np.where(count > 1, np.sqrt(spread / (count - 1) / count), np.nan)
    members = np.broadcast_to(np.bincount(parts.codes, minlength=parts.n), count.shape)
    units, about = result.attrs["units"], result.attrs["reduction"].replace("components: sum", f"components: {how}")
    dims = tuple(labels)
    grouped = xr.Dataset(
        {
            "miub": (dims, mean.reshape(shape), {"long_name": f"js; {about}", "units": units}),
            "miub_se": (dims, error.reshape(shape), {"long_name": "standard error over samples", "units": units}),
            "n_samples": (dims, count.reshape(shape).astype(np.int64)),
            "n_components": (dims, members.reshape(shape)),
        },
        coords={key: _named(key, values) for key, values in labels.items()},
        attrs={**result.attrs, "reduction": about},
    )
    return grouped.transpose(*by)


def _named(key: str, values: list[Any]) -> list[Any]:
    """Labels as a reader wants them: buckets of lengths and roles by name."""
    if key == "length":
        return [f"{LENGTH_TOKENS * place + 1}-{LENGTH_TOKENS * (place + 1)}" for place in values]
    return [ROLES[number] for number in values] if key == "role" else values
