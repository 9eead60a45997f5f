"""Reductions over the tokens of each sample: from values by token and component to values by sample and component.

The values are mostly js, the Jensen-Shannon divergence (JS) of a layer's output without and with the adapter.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, assert_never

import numpy as np
import xarray as xr
from jaxtyping import Float64

from lorascope.analyze.results.options import Reduction
from lorascope.analyze.results.tree import CHUNK_TOKENS
from lorascope.stores import Run

ANSWERS = ("answer", "assistant")
"""Roles of the tokens of the reduction `answer`; in a chat only the scored tokens of the assistant count."""


class DivergenceUnit(NamedTuple):
    """Unit of divergences (nat, bit or root of nat), and the conversion from nats to it."""

    symbol: str
    """Name of the unit after a number and in `units` attributes."""
    convert: Callable[[np.ndarray], np.ndarray]
    """Conversion of a token's divergence from nats."""


UNITS: Mapping[str, DivergenceUnit] = {
    "nat": DivergenceUnit("nat", lambda values: values),
    "bit": DivergenceUnit("bit", lambda values: values / math.log(2)),
    "sqrt": DivergenceUnit(
        "nat^0.5", lambda values: np.sqrt(np.maximum(values, 0))
    ),  # js measured at capture may be rounded to -1e-12
}
"""Units by their name in `unit` options; the root of each token's JS is a metric, the Jensen-Shannon distance
(Endres and Schindelin 2003, IEEE Trans. Inf. Theory 49(7))."""


def token_blocks(values: Any) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield slices of tokens and the values there of an array (token, ...), which is read one slice at a time."""
    for start in range(0, values.shape[0], CHUNK_TOKENS):
        tokens = slice(start, min(start + CHUNK_TOKENS, values.shape[0]))
        yield tokens, np.asarray(values[tokens])


def token_sums(block: np.ndarray, unit: str) -> Float64[np.ndarray, " token"]:
    """Return js (token, component), in nats, converted to `unit` and then summed over components, float64 (token,)."""
    return np.asarray(UNITS[unit].convert(block.astype(np.float64)).sum(axis=1))


def reduce_tokens(
    measured: xr.Dataset, name: str, run: Run, reduction: Reduction = "mean", *, unit: str = "nat"
) -> Float64[np.ndarray, "sample component"]:
    """Return the measure `name` reduced over each sample's tokens, (sample, component); NaN if no token counts.

    It is also NaN if a token that counts is NaN.

    Parameters
    ----------
    measured
        What `measure_run` returns.
    reduction
        The `mean` of the sample's captured tokens; their `sum`; the `last` one; the mean over the `answer`, in a chat
        the scored tokens of the assistant. Mean and sum weight sampled tokens by the inverse of their probability.
    unit
        Unit to which each token's value is converted before it is reduced; see `UNITS`.
    """
    sums = SampleSums(measured, run, reduction, unit=unit)
    for tokens, block in token_blocks(measured[name].variable):
        sums.add(tokens, block)
    return sums.values()


class SampleSums:
    """Accumulator that reduces values by token to values by sample, from ranges of tokens in ascending order.

    A value of weight 0 is ignored, even NaN; any other NaN makes the sample NaN. The ranges affect only rounding.
    """

    def __init__(self, measured: xr.Dataset, run: Run, reduction: Reduction, *, unit: str) -> None:
        """Start with empty sums; `measured` gives weights and labels of tokens, and `add` the values."""
        starts, stops = run.samples["token_start"].values, run.samples["token_stop"].values
        self._some = np.flatnonzero(stops > starts)  # samples without captured tokens have no value
        self._starts = starts[self._some]
        self._weights = measured["weight"].values
        self._counted = np.where(_counted_tokens(measured, run, reduction), self._weights, 0.0)
        self._convert = UNITS[unit].convert
        self._is_sum = reduction == "sum"
        self._sums = np.zeros((len(self._some), measured.sizes["component"]))
        self._whole = np.full((len(starts), measured.sizes["component"]), np.nan)

    def add(self, tokens: slice, block: np.ndarray) -> None:
        """Add the values (token, component) of a range of tokens to the sums of their samples."""
        w = self._counted[tokens, None]
        terms = np.where(w != 0, self._convert(block.astype(np.float64)), 0.0) * w
        first = max(int(np.searchsorted(self._starts, tokens.start, side="right")) - 1, 0)
        last = int(np.searchsorted(self._starts, tokens.stop))
        edges = np.maximum(self._starts[first:last] - tokens.start, 0)
        self._sums[first:last] += np.add.reduceat(terms, edges, axis=0)

    def values(self) -> Float64[np.ndarray, "sample component"]:
        """Return the reduced values, (sample, component); NaN for samples without a token that counts."""
        totals = np.add.reduceat(self._counted, self._starts)[:, None]
        means = np.divide(self._sums, totals, out=np.full_like(self._sums, np.nan), where=totals > 0)
        if self._is_sum:
            means *= np.add.reduceat(self._weights, self._starts)[:, None]
        self._whole[self._some] = means
        return self._whole


def usable_samples(measured: xr.Dataset, run: Run, reduction: Reduction) -> np.ndarray:
    """Return which samples can be reduced, bool (sample,): all tokens are committed, and at least one counts."""
    starts, stops = run.samples["token_start"].values, run.samples["token_stop"].values
    some = np.flatnonzero(stops > starts)
    usable = np.zeros(len(starts), bool)
    usable[some] = np.logical_and.reduceat(run.committed.values, starts[some])
    usable[some] &= np.logical_or.reduceat(_counted_tokens(measured, run, reduction), starts[some])
    return usable


def _counted_tokens(measured: xr.Dataset, run: Run, reduction: Reduction) -> np.ndarray:
    """Return which tokens a reduction counts, bool (token,): all committed ones, answers, or the last of a sample."""
    counts = np.asarray(measured["counted"].values)
    starts, stops = run.samples["token_start"].values, run.samples["token_stop"].values
    if reduction == "answer":
        answers = np.isin(measured["role"].values, ANSWERS)
        # Assistant turns in the prompt of a chat aren't scored: only the last `n_targets` tokens are.
        n_later = np.append(np.cumsum(answers[::-1])[::-1], 0)
        owner = run.read_static("tokens/sample")
        n_targets = run.samples.get("n_targets", run.samples["length"]).values
        return np.asarray(counts & answers & (n_later[:-1] - n_later[stops[owner]] <= n_targets[owner]))
    if reduction == "last":
        return counts & np.isin(np.arange(len(counts)), stops[stops > starts] - 1)
    if reduction == "mean" or reduction == "sum":
        return counts
    assert_never(reduction)
