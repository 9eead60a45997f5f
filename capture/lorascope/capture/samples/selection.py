"""The token plan: which tokens of which sample are captured, where they go, and which of them are measured."""

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from lorascope.stores.format.tables import ROLES
from lorascope.stores.reading.token_choice import choose

from .encoded import EncodedSample


class TokenPlan(NamedTuple):
    """The flat token axis of a run, before the run; a pure function of data and configuration."""

    positions: tuple[np.ndarray, ...]
    """Sample -> captured positions in its sequence, int64 (token,)."""
    starts: np.ndarray
    """First captured token of each sample on the token axis, and their number at the end, int64 (sample + 1,)."""
    measured: np.ndarray
    """Bool (token,): tokens whose js is measured during capture."""
    weights: np.ndarray
    """Float32 (token,): inverse of the chance with which a token was taken of its sample; see `choose`."""
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
        A choice of tokens in words, see `lorascope.stores.reading.token_choice`.
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
    selected = [
        choose(
            selection,
            positions=np.arange(len(sample.roles)),
            roles=sample.roles,
            length=len(sample.roles),
            generator=_generator(sample, seed),
        )
        for sample in samples
    ]
    for sample, (positions, _) in zip(samples, selected, strict=True):
        if not len(positions):
            roles = [ROLES[role] for role in np.unique(sample.roles)]
            choice = " or ".join(map(repr, [*roles, "all"]))
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
