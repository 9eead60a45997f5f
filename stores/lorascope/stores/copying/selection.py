"""Which part of a run is meant: components by name, samples by id, a share of each sample's tokens."""

import difflib
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple

import numpy as np

from ..errors import StoreError
from ..reading.run import Run

__all__ = ["Slice", "select"]


class Slice(NamedTuple):
    """A part of a run, by index in the run."""

    components: np.ndarray
    """Int (component,), ascending."""
    adapters: tuple[str, ...]
    samples: np.ndarray
    """Int (sample,), ascending; each wholly committed."""
    n_samples_incomplete: int
    """Samples that were meant but aren't wholly committed."""
    tokens: np.ndarray
    """Int (token,), ascending."""
    n_tokens: np.ndarray
    """Int (sample,): how many of the tokens belong to each sample."""
    weight: np.ndarray
    """Float (token,): by how many tokens of its sample each one stands for, in this selection alone."""


def select(
    run: Run,
    *,
    components: Sequence[str] | None,
    samples: Sequence[str] | int | None,
    token_share: float | None,
    seed: int,
    adapters: Sequence[str] | None,
) -> Slice:
    """The slice of a run that names, patterns and a share ask for.

    Raises
    ------
    StoreError
        If a name or pattern fits nothing, or no sample that was asked for is wholly committed.
    ValueError
        If `token_share` isn't in (0, 1], or a number of samples is below 1.
    """
    if token_share is not None and not 0 < token_share <= 1:
        raise ValueError(f"`token_share` is {token_share!r}; give a share above 0 and at most 1")
    if isinstance(samples, int) and samples < 1:
        raise ValueError(f"`samples` is {samples}; give at least 1, or names")
    chosen_components = _matches("component", run.component_paths, components)
    chosen_adapters = _matches("adapter", run.adapters, adapters)
    chosen, n_incomplete = _samples(run, samples)
    tokens, n_tokens, weight = _tokens(run, chosen, token_share, seed)
    return Slice(
        components=chosen_components,
        adapters=tuple(run.adapters[index] for index in chosen_adapters),
        samples=chosen,
        n_samples_incomplete=n_incomplete,
        tokens=tokens,
        n_tokens=n_tokens,
        weight=weight,
    )


def _matches(what: str, names: Sequence[str], patterns: Sequence[str] | None, *others: Sequence[str]) -> np.ndarray:
    """Indices of the names that one of the patterns fits, or that one of their other names does."""
    if patterns is None:
        return np.arange(len(names))
    if isinstance(patterns, str):
        raise StoreError(f"`{what}s` is the text {patterns!r}; give a list of names or patterns")
    kept = np.zeros(len(names), bool)
    for pattern in patterns:
        fits = [
            pattern in same or any(fnmatchcase(name, pattern) for name in same)
            for same in zip(names, *others, strict=True)
        ]
        if not any(fits):
            close = difflib.get_close_matches(pattern, names, n=3) or list(names[:1])
            raise StoreError(f"no {what} of the run fits {pattern!r}; there are {len(names)}, such as {close}")
        kept |= fits
    if not kept.any():
        raise StoreError(f"`{what}s` names nothing; leave it out for all {len(names)}")
    return np.flatnonzero(kept)


def _samples(run: Run, samples: Sequence[str] | int | None) -> tuple[np.ndarray, int]:
    """(indices of the wholly committed samples that were asked for, how many others were)."""
    ids = [str(name) for name in run.samples["id"].values]
    if samples is None or isinstance(samples, int):
        asked = np.arange(len(ids))
    else:
        # One item is a sample for each of the prompts that it was asked with.
        full = [f"{dataset}/{name}" for dataset, name in zip(run.samples["dataset"].values, ids, strict=True)]
        prompted = [f"{prompt}/{name}" for prompt, name in zip(run.samples["prompt"].values, full, strict=True)]
        asked = _matches("sample", ids, samples, full, prompted)
    committed = np.concatenate([[0], np.cumsum(run.committed.values)])
    starts, stops = run.samples["token_start"].values[asked], run.samples["token_stop"].values[asked]
    whole = committed[stops] - committed[starts] == stops - starts
    if not whole.any():
        raise StoreError(
            f"none of the {len(asked)} samples asked for is wholly committed in `{run.place.name}`; capture more of it"
        )
    chosen = asked[whole]
    if isinstance(samples, int):
        return chosen[:samples], 0
    return chosen, int((~whole).sum())


def _tokens(run: Run, chosen: np.ndarray, share: float | None, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    starts, stops = run.samples["token_start"].values[chosen], run.samples["token_stop"].values[chosen]
    parts, weights = [], []
    for sample, start, stop in zip(chosen.tolist(), starts.tolist(), stops.tolist(), strict=True):
        n_all = stop - start
        n_kept = n_all if share is None else int(np.ceil(share * n_all))
        # Each sample has a generator of its own, so that which tokens it keeps doesn't depend on what else is taken.
        drawn = np.random.default_rng([seed, sample]).permutation(n_all)[:n_kept]
        parts.append(start + np.sort(drawn))
        weights.append(np.full(n_kept, n_all / max(n_kept, 1)))  # a sample may have no tokens
    return np.concatenate(parts), np.array([len(part) for part in parts]), np.concatenate(weights)
