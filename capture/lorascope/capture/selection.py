"""The token plan: which tokens of which sample are captured, where they go, and which of them are measured."""

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from lorascope.stores.tables import ROLES

from .encode import EncodedSample

__all__ = ["TokenPlan", "check_selection", "plan_tokens", "select_tokens"]

_LAST = re.compile(r"last:([1-9][0-9]*)")


class TokenPlan(NamedTuple):
    """The flat token axis of a run, before the run; a pure function of data and configuration."""

    positions: tuple[np.ndarray, ...]
    """Sample -> captured positions in its sequence, int64 (token,)."""
    starts: np.ndarray
    """First captured token of each sample on the token axis, and their number at the end, int64 (sample + 1,)."""
    measured: np.ndarray
    """Bool (token,): tokens whose js is measured during capture."""

    @property
    def n_tokens(self) -> int:
        """Length of the token axis."""
        return int(self.starts[-1])


def plan_tokens(
    samples: Sequence[EncodedSample], batches: Sequence[slice], selection: str, *, js_share: float, seed: int
) -> TokenPlan:
    """The token plan of these samples; at least one token of every batch is measured.

    Raises
    ------
    ValueError
        If the selection takes nothing of a sample.
    """
    positions = tuple(select_tokens(sample.roles, selection) for sample in samples)
    for sample, chosen in zip(samples, positions, strict=True):
        if not len(chosen):
            raise ValueError(
                f"`tokens` = {selection!r} takes nothing of sample {sample.id!r} of {sample.dataset!r}, "
                "whose tokens have other roles; choose 'all' or 'last:N'"
            )
    starts = np.concatenate([[0], np.cumsum([len(chosen) for chosen in positions])])
    measured = _seeded_share(int(starts[-1]), js_share, seed)
    for batch in batches:  # so that no pass goes by without its sums being checked
        first, last = starts[batch.start], starts[batch.stop]
        measured[first] |= not measured[first:last].any()
    return TokenPlan(positions, starts, measured)


def check_selection(selection: str) -> None:
    """Raise a `ValueError` unless `selection` is one that `select_tokens` knows."""
    if selection not in {"all", "answer"} and not _LAST.fullmatch(selection):
        raise ValueError(f"`tokens` is {selection!r}; allowed are 'all', 'answer', or 'last:N' with N at least 1")


def select_tokens(roles: np.ndarray, selection: str) -> np.ndarray:
    """Positions (token,) int64 that `selection` takes of a sequence with these roles (position,)."""
    check_selection(selection)
    if selection == "answer":
        return np.flatnonzero(roles == ROLES.index("answer"))
    if last := _LAST.fullmatch(selection):
        return np.arange(max(len(roles) - int(last[1]), 0), len(roles))
    return np.arange(len(roles))


def _seeded_share(n_tokens: int, share: float, seed: int) -> np.ndarray:
    """A mask over exactly ceil(share * n_tokens) tokens, drawn without replacement."""
    chosen = np.random.default_rng(seed).permutation(n_tokens)[: int(np.ceil(share * n_tokens))]
    mask = np.zeros(n_tokens, dtype=bool)
    mask[chosen] = True
    return mask
