"""From values by token and component to one by sample and component: the reductions the paper may have meant."""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, get_args

import numpy as np
import xarray as xr
from jaxtyping import Float64

from lorascope.stores import Run
from lorascope.stores.format.tables import ROLES

from .measuring.partial import CHUNK_TOKENS

__all__ = [
    "REDUCTIONS",
    "UNITS",
    "Reduction",
    "Unit",
    "reduce_tokens",
    "refuse_unknown",
    "token_blocks",
    "usable_samples",
]

Reduction = Literal["mean", "sum", "last", "answer"]
REDUCTIONS: tuple[Reduction, ...] = get_args(Reduction)
Unit = Literal["nat", "bit", "sqrt"]

UNITS: Mapping[str, tuple[Callable[[np.ndarray], np.ndarray], str]] = {
    "nat": (lambda values: values, "nat"),
    "bit": (lambda values: values / math.log(2), "bit"),
    "sqrt": (lambda values: np.sqrt(np.maximum(values, 0)), "nat^0.5"),  # js of capture may round to -1e-12
}
"""Unit -> (what becomes of a divergence in nats, its name); the root of each token's JS is a metric, the
Jensen-Shannon distance (Endres and Schindelin 2003, IEEE Trans. Inf. Theory 49(7))."""


def refuse_unknown(reduction: str, unit: str) -> None:
    """Raise ValueError unless there is such a reduction, and such a unit."""
    for name, value, allowed in (("reduction", reduction, REDUCTIONS), ("unit", unit, tuple(UNITS))):
        if value not in allowed:
            raise ValueError(f"`{name}` is {value!r}; allowed are {allowed}")


def token_blocks(values: Any) -> Iterator[tuple[slice, np.ndarray]]:
    """Ranges of tokens and what an array (token, ...) holds there, in memory one range at a time."""
    for start in range(0, values.shape[0], CHUNK_TOKENS):
        tokens = slice(start, min(start + CHUNK_TOKENS, values.shape[0]))
        yield tokens, np.asarray(values[tokens])


def reduce_tokens(
    measured: xr.Dataset, name: str, run: Run, reduction: Reduction = "mean", *, unit: str = "nat"
) -> Float64[np.ndarray, "sample component"]:
    """A measure by sample and component, over the counted tokens; NaN where a sample has none, or one of them is NaN.

    Parameters
    ----------
    measured
        What `measure_run` returns.
    reduction
        The `mean` of the sample's captured tokens; their `sum`; the `last` one; the mean of those that are the
        `answer`. Mean and sum weigh tokens that were drawn by the inverse of their chance.
    unit
        What each token's value becomes before that; see `UNITS`.
    """
    values, convert = measured[name].variable, UNITS[unit][0]
    starts, stops = run.samples["token_start"].values, run.samples["token_stop"].values
    whole = np.full((len(starts), values.shape[1]), np.nan)
    some = np.flatnonzero(stops > starts)  # a sample of which no token was captured has no value
    starts, stops = starts[some], stops[some]
    if reduction == "last":
        whole[some] = convert(np.asarray(values[stops - 1], np.float64))
        return whole
    weights = measured["weight"].values
    counted = np.where(_wanted(measured, reduction), weights, 0.0)
    sums = weighted_sums(values, counted, starts, convert)
    totals = np.add.reduceat(counted, starts)[:, None]
    whole[some] = np.divide(sums, totals, out=np.full_like(sums, np.nan), where=totals > 0)
    if reduction == "sum":
        whole[some] *= np.add.reduceat(weights, starts)[:, None]
    return whole


def usable_samples(measured: xr.Dataset, run: Run, reduction: Reduction) -> np.ndarray:
    """Bool (sample,): all of the sample's tokens lie in committed rows, and what is reduced was measured."""
    starts, stops = run.samples["token_start"].values, run.samples["token_stop"].values
    wanted = _wanted(measured, reduction)
    usable = np.zeros(len(starts), bool)
    some = np.flatnonzero(stops > starts)
    starts, stops = starts[some], stops[some]
    there = wanted[stops - 1] if reduction == "last" else np.logical_or.reduceat(wanted, starts)
    usable[some] = np.logical_and.reduceat(run.committed.values, starts) & there
    return usable


def weighted_sums(
    values: Any,
    weights: Float64[np.ndarray, " token"],
    starts: np.ndarray,
    convert: Callable[[np.ndarray], np.ndarray] = UNITS["nat"][0],
) -> Float64[np.ndarray, "sample component"]:
    """Sums of weight times value over each sample's tokens.

    Parameters
    ----------
    values
        (token, component), an array or something that reads like one. A value whose weight is 0 doesn't count, whatever
        it is; NaN that counts makes NaN.
    weights
        By token.
    starts
        First token of each sample, ascending; each has at least one.
    convert
        What becomes of values before they are summed.
    """
    out = np.zeros((len(starts), values.shape[1]))
    for tokens, block in token_blocks(values):
        w = weights[tokens, None]
        terms = np.where(w != 0, convert(block.astype(np.float64)), 0.0) * w
        first = max(int(np.searchsorted(starts, tokens.start, side="right")) - 1, 0)
        last = int(np.searchsorted(starts, tokens.stop))
        edges = np.maximum(starts[first:last] - tokens.start, 0)
        out[first:last] += np.add.reduceat(terms, edges, axis=0)
    return out


def _wanted(measured: xr.Dataset, reduction: Reduction) -> np.ndarray:
    """Bool (token,): tokens that count, before a sample's weights."""
    counted = measured["counted"].values
    if reduction != "answer":
        return np.asarray(counted)
    return np.asarray(counted & (measured["role"].values == ROLES.index("answer")))
