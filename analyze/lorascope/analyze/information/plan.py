"""What is done with each component of a run, and with which tokens: every mistake in words, before any work."""

import difflib
import numbers
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Literal, NamedTuple, get_args

import numpy as np

from lorascope.stores import Run

from ..measuring.sources import Source, sources_of
from .arrays import LEAST_GROUPS
from .dataset import Unit
from .estimators import Settings, check_settings, resolve_estimators
from .projections import feature_blocks
from .states import choose_tokens, sample_labels

__all__ = ["Against", "Plan", "Projection", "chosen_sources", "make_plan"]

Against = Literal["lora", "delta"]
Projection = Literal["pca", "random", "canonical"]


class Plan(NamedTuple):
    """What is done with each component: small, for it goes to every task."""

    tokens: np.ndarray
    """Int64 (token,), ascending: places of the chosen tokens."""
    samples: np.ndarray
    """Int64 (token,): their samples."""
    n_prefix_repeats: int
    """Tokens that couldn't be chosen, for an earlier one has the same id after the same ids."""
    names: tuple[str, ...]
    """Of estimators."""
    settings: Settings
    n_shuffles: int
    against: Against
    projection: Projection
    n_axes: int
    """The most for each side."""
    share: float
    """Of each side's variance that principal axes are to keep, if so many do."""
    n_blocks: int
    """Equal parts of the features, such as heads, each looked at alone."""


def make_plan(
    run: Run, *, estimator: str | Sequence[str], against: Against, n_tokens: int, projection: Projection, n_axes: int,
    share: float, n_blocks: int, settings: Settings, unit: Unit, n_shuffles: int,
) -> Plan:  # fmt: skip
    """The plan that these options ask for; they are those of `measure_information`, which says what is raised."""
    names = resolve_estimators(estimator)
    check_settings(settings, unit, n_shuffles, None)
    for name, word, allowed in (("against", against, Against), ("projection", projection, Projection)):
        if word not in get_args(allowed):
            raise ValueError(f"`{name}` is {word!r}; allowed are {', '.join(map(repr, get_args(allowed)))}")
    for name, value in (("n_axes", n_axes), ("n_blocks", n_blocks), ("n_tokens", n_tokens)):
        if not isinstance(value, numbers.Integral) or isinstance(value, bool) or value < 1:
            raise ValueError(f"`{name}` is {value!r}; give a whole number of at least 1")
    if not 0 < share <= 1:
        raise ValueError(f"`share` is {share!r}; it must be above 0 and at most 1")
    tokens, n_prefix_repeats = choose_tokens(run, int(n_tokens), seed=settings.seed)
    samples = sample_labels(run, tokens)
    if (n_samples := len(np.unique(samples))) < LEAST_GROUPS:
        raise ValueError(_few_samples(run, len(tokens), n_samples, int(n_tokens)))
    return Plan(
        tokens, samples, n_prefix_repeats, names, settings, n_shuffles, against, projection, int(n_axes), share,
        int(n_blocks),
    )  # fmt: skip


def _few_samples(run: Run, n_found: int, n_samples: int, n_tokens: int) -> str:
    """What to do about it: as many samples as there are give tokens, so that a larger choice helps tiny ones alone."""
    need = f"halves, shuffles and errors need at least {LEAST_GROUPS}"
    if n_tokens < LEAST_GROUPS:
        return f"`n_tokens` is {n_tokens}, and so many tokens are of {_samples(n_samples)}; {need}: choose more tokens"
    return f"the {n_found} tokens that {run.place.name!r} has are of {_samples(n_samples)}; {need}: capture more"


def _samples(n: int) -> str:
    return f"{n} sample" if n == 1 else f"{n} samples"


def chosen_sources(run: Run, adapter: str | None, components: Sequence[str] | None, n_blocks: int) -> list[Source]:
    """The components that are looked at, in the run's order.

    Raises
    ------
    StoreError
        As `sources_of`.
    ValueError
        If a path or pattern fits none that the adapter touches, or `n_blocks` doesn't divide the features of one.
    """
    sources = sources_of(run, adapter)
    if components is not None:
        kept = _matching([source.component for source in sources], components)
        sources = [source for source in sources if source.component in kept]
    for source in sources:
        try:
            feature_blocks(source.base.shape[1], n_blocks)
        except ValueError as error:
            raise ValueError(f"{source.component}: {error}; or name components that fit") from error
    return sources


def _matching(paths: Sequence[str], patterns: Sequence[str]) -> set[str]:
    if isinstance(patterns, str) or not patterns:
        raise ValueError(f"`components` is {patterns!r}; it must be a list of paths or patterns, or left out for all")
    kept = set()
    for pattern in patterns:
        fits = {path for path in paths if path == pattern or fnmatchcase(path, pattern)}
        if not fits:
            close = difflib.get_close_matches(pattern, paths, n=3) or list(paths[:1])
            raise ValueError(
                f"`components` names {pattern!r}, which fits none of the {len(paths)} that the adapter touches; close "
                f"to it are {close}"
            )
        kept |= fits
    return kept
