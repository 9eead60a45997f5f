"""Plan of what is done with each component of a run, and with which tokens; mistakes are refused before any work."""

from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import numpy as np

from lorascope.analyze.results.options import require_whole
from lorascope.stores import Run, StoreError

from .estimators import check_settings, resolve_estimators
from .pairs import LEAST_GROUPS, Settings

Against = Literal["lora", "delta"]
Unit = Literal["nat", "bit"]


class Plan(NamedTuple):
    """Settings of what is done with each component; small, since it goes to every task."""

    tokens: np.ndarray
    """Int64 (token,), ascending: places of the chosen tokens."""
    samples: np.ndarray
    """Int64 (token,): their samples."""
    n_prefix_repeats: int
    """Tokens that couldn't be chosen, for an earlier one has the same id after the same ids."""
    names: tuple[str, ...]
    """Names of the estimators."""
    settings: Settings
    n_shuffles: int
    against: Against
    n_axes: int
    """The most principal axes for each side."""
    share: float
    """The part of each side's variance that axes are to keep, if so many do."""


def make_plan(
    run: Run, *, estimator: str | Sequence[str], against: Against, n_tokens: int, n_axes: int, share: float,
    settings: Settings, unit: Unit, n_shuffles: int,
) -> Plan:  # fmt: skip
    """The plan that these options ask for; they are those of `measure_information`, which says what is raised."""
    names = resolve_estimators(estimator)
    check_settings(settings, unit, n_shuffles)
    if against not in get_args(Against):
        raise ValueError(f"`against` is {against!r}; allowed are {', '.join(map(repr, get_args(Against)))}")
    require_whole("n_axes", n_axes)
    require_whole("n_tokens", n_tokens)
    if not 0 < share <= 1:
        raise ValueError(f"`share` is {share!r}; it must be above 0 and at most 1")
    tokens, samples, n_repeats = choose_tokens(run, int(n_tokens), seed=settings.seed)
    if (n_samples := len(np.unique(samples))) < LEAST_GROUPS:
        raise ValueError(
            f"{len(tokens)} tokens of {run.place.name!r} could be chosen, of {n_samples} samples; halves, shuffles and "
            f"errors need at least {LEAST_GROUPS}: choose more tokens, or capture more samples"
        )
    return Plan(tokens, samples, n_repeats, names, settings, n_shuffles, against, int(n_axes), share)


def choose_tokens(run: Run, n_tokens: int, *, seed: int) -> tuple[np.ndarray, np.ndarray, int]:
    """A random choice of so many tokens, or all, as many from each sample as far as it has them.

    Returns their places on the run's token axis, ascending, int64 (token,); index of each one's sample, which stays
    whole in halves, parts and shuffles; and how many tokens repeat the states of an earlier one.

    Notes
    -----
    In a causal model a token's states depend on it and the tokens before it alone. Two tokens of different samples
    whose ids are the same from position 0 on have the same states: of those the first is kept, since to an estimator
    repeats look like perfect dependence. Prefixes are known where a sample's captured positions run from 0 without a
    gap; other tokens are kept. Weights of tokens (`run.tokens["weight"]`) play no part.
    """
    usable = run.committed.values & run.with_states.values
    if not usable.any():
        raise StoreError(f"no committed row of {run.place.name!r} keeps states; there are no tokens to choose from")
    repeats = _repeats(run, usable)
    candidates = np.flatnonzero(usable & ~repeats)
    labels = np.asarray(run.tokens["sample"].values[candidates])
    chosen = _spread(labels, n_tokens, np.random.default_rng(seed))
    return candidates[chosen], labels[chosen], int(repeats.sum())


def _repeats(run: Run, usable: np.ndarray) -> np.ndarray:
    """Bool (token,): usable tokens that repeat an earlier one of them, prefix and all."""
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
        candidates = np.flatnonzero(usable[tokens])
        later = np.delete(candidates, np.unique(prefixes[candidates], return_index=True)[1])
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
