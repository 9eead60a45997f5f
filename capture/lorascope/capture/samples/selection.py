"""The token plan: which tokens of which sample are captured, where they go, and which of them are measured."""

import hashlib
import re
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Int64, UInt8

from lorascope.stores.format.tables import ROLES
from lorascope.stores.names import meant

from .encoded import EncodedSample

ROLE_SELECTIONS = {
    "prompt": (("prompt", "choice"), "the tokens of the prompt, its choices included"),
    "choice": (("choice",), "the tokens of the choices in the prompt"),
    "answer": (("answer",), "the tokens of the answer"),
    "generated": (("generated",), "the generated tokens"),
    "assistant": (("assistant",), "the assistant's tokens"),
}
"""Selection -> the roles that it takes, and the tokens that its means are about, in words."""
ALLOWED = (
    "'all', 'prompt', 'choice', 'answer', 'generated', 'assistant', 'last:N' and 'every:K' with whole numbers from 1, "
    "or 'share:P' with P above 0 and at most 1"
)


class Selected(NamedTuple):
    """What a selection takes of one sequence."""

    positions: Int64[np.ndarray, " token"]
    """Ascending places in the sequence."""
    weights: Float32[np.ndarray, " token"]
    """Inverse of the chance with which each token was taken, among the tokens that the selection is about."""


class TokenPlan(NamedTuple):
    """The flat token axis of a run, before the run; a pure function of data and configuration."""

    positions: tuple[np.ndarray, ...]
    """Sample -> captured positions in its sequence, int64 (token,)."""
    starts: np.ndarray
    """First captured token of each sample on the token axis, and their number at the end, int64 (sample + 1,)."""
    measured: np.ndarray
    """Bool (token,): tokens whose js is measured during capture."""
    weights: np.ndarray
    """Float32 (token,): inverse of the chance with which a token was taken of its sample; see `select_tokens`."""
    kl_batches: np.ndarray
    """Bool (batch,): batches whose next-token distributions are compared with the base model's."""
    ablate_batches: np.ndarray
    """Bool (batch,): batches that pass once more without each part of the adapter."""

    @property
    def n_tokens(self) -> int:
        """Length of the token axis."""
        return int(self.starts[-1])


def plan_tokens(
    samples: Sequence[EncodedSample],
    batches: Sequence[slice],
    selection: str,
    *,
    js_share: float,
    seed: int,
    kl_share: float = 0.0,
    ablate_share: float = 0.0,
) -> TokenPlan:
    """The token plan of these samples.

    Parameters
    ----------
    samples, batches
        What passes the model, and which of it together.
    selection
        See `select_tokens`.
    js_share
        Share of the captured tokens to measure; at least one of every batch is.
    seed
        Draws tokens and batches. A sample's tokens depend on nothing else but the sample: neither on its place among
        the samples nor on how many there are.
    kl_share, ablate_share
        Share of the batches in `kl_batches` and `ablate_batches`: at least one, or none where it is 0.

    Raises
    ------
    ValueError
        If the selection takes nothing of a sample.
    """
    selected = [select_tokens(sample.roles, selection, _generator(sample, seed)) for sample in samples]
    for sample, (positions, _) in zip(samples, selected, strict=True):
        if not len(positions):
            roles = [ROLES[role] for role in np.unique(sample.roles)]
            choice = " or ".join(map(repr, [*(role for role in roles if role in ROLE_SELECTIONS), "all"]))
            raise ValueError(
                f"`tokens` = {selection!r} takes nothing of sample {sample.id!r} of {sample.dataset!r} under prompt "
                f"{sample.prompt!r}, whose tokens have other roles ({', '.join(roles)}); give {choice}"
            )
    starts = np.concatenate([[0], np.cumsum([len(positions) for positions, _ in selected])])
    measured = _seeded_share(int(starts[-1]), js_share, np.random.default_rng(seed))
    for batch in batches:  # so that no pass goes by without its sums being checked
        first, last = starts[batch.start], starts[batch.stop]
        measured[first] |= not measured[first:last].any()
    return TokenPlan(
        positions=tuple(positions for positions, _ in selected),
        starts=starts,
        measured=measured,
        weights=np.concatenate([weights for _, weights in selected]),
        kl_batches=_seeded_share(len(batches), kl_share, np.random.default_rng([seed, 1])),
        ablate_batches=_seeded_share(len(batches), ablate_share, np.random.default_rng([seed, 2])),
    )


def check_selection(selection: str) -> tuple[str, float]:
    """Kind of a selection and its number, 0 where it has none; raises a ValueError unless `select_tokens` knows it."""
    kind, colon, number = selection.partition(":")
    if not colon and kind in ("all", *ROLE_SELECTIONS):
        return kind, 0
    if kind in ("last", "every") and re.fullmatch("[1-9][0-9]*", number):
        return kind, int(number)
    with suppress(ValueError):
        if kind == "share" and 0 < float(number) <= 1:
            return kind, float(number)
    raise ValueError(f"`tokens` is {selection!r}; allowed are {ALLOWED}{meant(kind, ('all', *ROLE_SELECTIONS))}")


def select_tokens(roles: UInt8[np.ndarray, " position"], selection: str, generator: np.random.Generator) -> Selected:
    """Positions that `selection` takes of a sequence with these roles (indices in `ROLES`), and their weights.

    Parameters
    ----------
    selection
        `all`; `prompt` (the whole prompt, its choices included), `choice`, `answer`, `generated` or `assistant`, by
        role;
        `last:N`, the last N; `every:K`, every K-th from a drawn start; `share:P`, so large a share, drawn.
    generator
        Draws the start of `every:K` and the tokens of `share:P`.

    Notes
    -----
    `share:P` draws m = round(P n) of n tokens (half to even), at least one, without replacement: a token is taken with
    the chance m / n. `every:K` draws one of the n tokens and takes it with all tokens at whole multiples of K from it:
    a start is drawn in proportion to the m tokens that follow from it, and a token taken with the chance m / n again.
    So a sample's weights are all n / m, they add up to n, and its weighted mean and weighted sum are both unbiased for
    the mean and the sum over all n tokens, whether or not K divides n. (Starts of equal chance, each token weighing K,
    would bias the mean where K doesn't.)

    The others take whole groups of tokens. Their weights are 1, and what is computed from them is about these groups
    and not about the sequence: see `population`.
    """
    kind, number = check_selection(selection)
    n, sampled = len(roles), kind in ("share", "every")
    count = int(min(number, n))  # above n it picks what n does
    positions = np.arange(n)
    if kind in ROLE_SELECTIONS:
        positions = np.flatnonzero(np.isin(roles, [ROLES.index(role) for role in ROLE_SELECTIONS[kind][0]]))
    elif kind == "share":
        positions = np.sort(generator.choice(n, max(round(number * n), 1), replace=False))
    elif kind == "every":
        positions = positions[generator.integers(n) % count :: count]
    elif kind == "last":
        positions = positions[n - count :]
    return Selected(positions, np.full(len(positions), n / len(positions) if sampled else 1.0, np.float32))


def population(selection: str) -> str:
    """The tokens that a selection's means are about, in words, for the run to state.

    Examples
    --------
    >>> population("share:0.1"), population("answer")
    ('all tokens', 'the tokens of the answer')
    """
    kind, number = check_selection(selection)
    if kind == "last":
        return f"the last {number} tokens of each sequence"
    return ROLE_SELECTIONS[kind][1] if kind in ROLE_SELECTIONS else "all tokens"


def _generator(sample: EncodedSample, seed: int) -> np.random.Generator:
    """Random numbers of a sample's own, whichever process asks for them and in whichever order."""
    name = "\0".join((sample.dataset, sample.split, sample.prompt, sample.id))
    digest = hashlib.sha256(name.encode()).digest()
    return np.random.default_rng([seed, *np.frombuffer(digest, "<u4").tolist()])


def _seeded_share(n: int, share: float, generator: np.random.Generator) -> np.ndarray:
    """A mask over exactly ceil(share * n) of n, drawn without replacement."""
    chosen = generator.permutation(n)[: int(np.ceil(share * n))]
    mask = np.zeros(n, dtype=bool)
    mask[chosen] = True
    return mask
