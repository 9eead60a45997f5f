"""Base and delta of one component, a row at a time, and a choice of tokens."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Int64

from lorascope.stores import Run, StoreError
from lorascope.stores.format.spec import ROW_TOKENS

from ..measuring.sources import Source, read_factors
from ..measuring.tiles import row_tiles

__all__ = ["States", "TokenChoice", "choose_tokens", "component_blocks"]


class States(NamedTuple):
    """Some tokens' states at one component: arrays of their own, safe to keep."""

    tokens: Int64[np.ndarray, " token"]
    """Places on the run's token axis, ascending."""
    base: Float32[np.ndarray, "token feature"]
    delta: Float32[np.ndarray, "token feature"]


class TokenChoice(NamedTuple):
    """Tokens for an estimate."""

    tokens: Int64[np.ndarray, " token"]
    """Places on the run's token axis, ascending."""
    samples: Int64[np.ndarray, " token"]
    """Index of each token's sample: the groups that stay whole in halves, parts and shuffles."""
    n_repeats: int
    """Tokens with states that couldn't be chosen, since an earlier one has the same states."""


def component_blocks(source: Source, tokens: Bool[np.ndarray, " token"] | None = None) -> Iterator[States]:
    """States of a component's committed rows, one row after the other, without tokens that aren't finite.

    `tokens` says which of the run's tokens are wanted, by default all: a row that holds none is neither read nor
    returned. Raises StoreError if a chunk is missing, empty or broken.
    """
    wanted = np.ones(source.base.shape[0], bool) if tokens is None else tokens
    for row in np.unique(np.flatnonzero(wanted) // ROW_TOKENS).tolist():
        if source.base.is_committed(row):
            yield _row_states(source, row, wanted)


def choose_tokens(run: Run, n_tokens: int, *, seed: int) -> TokenChoice:
    """A random choice of so many tokens, or all, as many from each sample as far as it has them.

    Notes
    -----
    In a causal model a token's states depend on it and the tokens before it alone. Two tokens of different samples
    whose ids are the same from position 0 on have the same states: of those the first is kept, since to an estimator
    repeats look like perfect dependence. Prefixes are known where a sample's captured positions run from 0 without a
    gap; other tokens are kept. Weights of tokens (`run.tokens["weight"]`) play no part.
    """
    there = run.committed.values & run.with_states.values
    if not there.any():
        raise StoreError(f"no committed row of {run.place.name!r} keeps states; there are no tokens to choose from")
    repeats = _repeats(run, there)
    candidates = np.flatnonzero(there & ~repeats)
    labels = np.asarray(run.tokens["sample"].values[candidates])
    chosen = _spread(labels, n_tokens, np.random.default_rng(seed))
    return TokenChoice(candidates[chosen], labels[chosen], int(repeats.sum()))


def _row_states(source: Source, row: int, wanted: np.ndarray) -> States:
    (factor,) = read_factors([source], row)
    with np.errstate(over="ignore", invalid="ignore"):  # tokens that aren't finite are dropped here
        (tile,) = row_tiles(source, row, factor, whole=True)
        finite = np.isfinite(tile.base + tile.delta).all(axis=1)
    kept = np.flatnonzero(wanted[row * ROW_TOKENS :][: len(tile.base)] & finite)
    return States(row * ROW_TOKENS + kept, tile.base[kept], tile.delta[kept])


def _repeats(run: Run, there: np.ndarray) -> np.ndarray:
    """Bool (token,): tokens `there` that repeat an earlier one of them, prefix and all."""
    starts = run.samples["token_start"].values
    samples, positions, ids = (run.tokens[name].values for name in ("sample", "position", "token_id"))
    # Positions of a sample ascend, so that one equal to its place says that none before it is missing.
    known = positions == np.arange(run.n_tokens) - starts[samples]
    n_known = np.bincount(samples[known], minlength=len(starts))
    repeats = np.zeros(run.n_tokens, bool)
    alike, prefixes, place = np.flatnonzero(n_known), np.zeros(np.count_nonzero(n_known), np.int64), 0
    while len(alike) > 1:  # samples that share their first `place` ids with another, and number of that prefix
        tokens = starts[alike] + place
        keys = prefixes * (int(ids.max()) + 1) + ids[tokens]
        _, prefixes, counts = np.unique(keys, return_inverse=True, return_counts=True)
        kept = np.flatnonzero(there[tokens])
        later = np.delete(kept, np.unique(prefixes[kept], return_index=True)[1])
        repeats[tokens[later]] = True
        place += 1
        shared = (counts[prefixes] > 1) & (n_known[alike] > place)
        alike, prefixes = alike[shared], prefixes[shared]
    return repeats


def _spread(labels: np.ndarray, n_wanted: int, generator: np.random.Generator) -> np.ndarray:
    """Places, ascending, of about as many entries of each label, random among its own."""
    _, groups, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    # The same number of each as far as it has them, and one more of some drawn by chance.
    at_least = np.cumsum(np.bincount(sizes)[::-1])[::-1]  # level -> groups of so many or more
    totals = np.concatenate([[0], np.cumsum(at_least[1:])])  # level -> sum of min(size, level)
    level = int(np.searchsorted(totals, n_wanted, side="right")) - 1
    quotas = np.minimum(sizes, level)
    n_left = min(n_wanted, int(sizes.sum())) - int(quotas.sum())
    quotas[generator.permutation(np.flatnonzero(sizes > level))[:n_left]] += 1
    order = np.lexsort((generator.random(len(groups)), groups))
    ranks = np.arange(len(groups)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return np.asarray(np.sort(order[ranks < quotas[groups[order]]]))
