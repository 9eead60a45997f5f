"""What is done with each component of a run, and with which tokens: every mistake in words, before any work."""

from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import numpy as np

from lorascope.stores import Run

from ..measuring.sources import Source, matching, sources_of
from .estimators import check_settings, refuse_unless_whole, resolve_estimators
from .pairs import LEAST_GROUPS, Settings
from .states import choose_tokens

__all__ = ["Against", "Plan", "Unit", "chosen_sources", "make_plan"]

Against = Literal["lora", "delta"]
Unit = Literal["nat", "bit"]


class Plan(NamedTuple):
    """What is done with each component: small, for it goes to every task."""

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
    refuse_unless_whole("n_axes", n_axes, 1)
    refuse_unless_whole("n_tokens", n_tokens, 1)
    if not 0 < share <= 1:
        raise ValueError(f"`share` is {share!r}; it must be above 0 and at most 1")
    tokens, samples, n_repeats = choose_tokens(run, int(n_tokens), seed=settings.seed)
    if (n_samples := len(np.unique(samples))) < LEAST_GROUPS:
        raise ValueError(
            f"{len(tokens)} tokens of {run.place.name!r} could be chosen, of {n_samples} samples; halves, shuffles and "
            f"errors need at least {LEAST_GROUPS}: choose more tokens, or capture more samples"
        )
    return Plan(tokens, samples, n_repeats, names, settings, n_shuffles, against, int(n_axes), share)


def chosen_sources(run: Run, adapter: str | None, components: Sequence[str] | None) -> list[Source]:
    """The components that are looked at, in the run's order; raises where a pattern fits none."""
    sources = sources_of(run, adapter)
    return [sources[place] for place in matching([source.component for source in sources], components)]
