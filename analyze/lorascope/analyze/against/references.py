"""Tokens of a run that a target is compared with: how likely each is with and without the adapter."""

from typing import NamedTuple

import numpy as np
import pandas as pd  # type: ignore[import-untyped]
from jaxtyping import Int64

from lorascope.analyze.results.weights import prefix_repeats
from lorascope.stores import Run
from lorascope.stores.format.tables import ROLES

MOST_TOKENS = 20_000
"""Largest number of tokens that a target reads: as many as `capture` measures by default."""


class References(NamedTuple):
    """Token sequences of a run that a target can read, and what the run knows of each of their tokens."""

    sequences: tuple[Int64[np.ndarray, " position"], ...]
    """Token ids of each compared sample from position 0, without gaps."""
    tokens: pd.DataFrame
    """Tokens of all sequences, one after the other: `sequence` (its number), `sample` (its id), `place` on the run's
    token axis, `role`, `base` (-log p given the tokens before, without the adapter) and `x` (`base` less the adapted
    -log p), both in nats and NaN where they weren't measured, and `is_first`, whether no earlier sample has the same
    tokens up to this one: such as a system message, it counts once."""
    not_compared: dict[str, int]
    """Why samples aren't compared -> how many."""


def read_references(run: Run, adapter: str | None = None) -> References:
    """Return the token sequences that a target is asked for, and the run's -log p of their tokens.

    A sample is compared if its captured tokens begin at position 0 and have no gap, and next-token changes were
    measured in it. Of more than `MOST_TOKENS` tokens, samples are taken evenly from the run.

    Raises
    ------
    StoreError
        If the run has several adapters and `adapter` names none of them, or a chunk is broken.
    """
    run.adapter(adapter)  # raises for an unknown name
    name, n_samples = adapter or run.adapters[0], run.samples.sizes["sample"]
    base = adapted = np.full(run.n_tokens, np.nan)
    if is_measured := f"adapters/{name}/changes/base_nll" in run.arrays:
        changes = run.changes(name)
        base, adapted = (changes[f"{which}_nll"].values.astype(np.float64) for which in ("base", "adapted"))
    starts, stops = (run.samples[f"token_{end}"].values for end in ("start", "stop"))
    sample, position, ids = (run.tokens[column].values for column in ("sample", "position", "token_id"))
    has_gap = np.bincount(sample[position != np.arange(run.n_tokens) - starts[sample]], minlength=n_samples) > 0
    finite = np.isfinite(base) & np.isfinite(adapted)
    has_nll = np.bincount(sample[finite], minlength=n_samples) > 0
    usable = np.flatnonzero(~has_gap & has_nll)
    n_tokens = int((stops - starts)[usable].sum())
    n_chosen = min(len(usable), max(1, len(usable) * MOST_TOKENS // max(1, n_tokens)))
    chosen = usable[np.linspace(0, len(usable) - 1, n_chosen, dtype=int)]
    reasons = {
        "some of their tokens weren't captured": int(has_gap.sum()),
        "next-token changes weren't captured (`--changes all`)": n_samples if not is_measured else 0,
        "next-token changes weren't measured in them": int((~has_gap & ~has_nll).sum()) if is_measured else 0,
        f"a target reads at most {MOST_TOKENS:,} tokens": len(usable) - len(chosen),
    }
    place = np.concatenate([np.arange(starts[i], stops[i]) for i in chosen] or [np.empty(0, np.int64)])
    columns = {
        "sequence": np.repeat(np.arange(len(chosen)), (stops - starts)[chosen]),
        "sample": run.samples["id"].values[sample[place]],
        "place": place,
        "role": np.array(ROLES, object)[run.tokens["role"].values[place]],
        "base": base[place],
        "x": (base - adapted)[place],
        "is_first": ~prefix_repeats(run, finite & np.isin(np.arange(run.n_tokens), place))[place],
    }
    sequences = tuple(ids[starts[i] : stops[i]].astype(np.int64) for i in chosen)
    return References(sequences, pd.DataFrame(columns), {reason: n for reason, n in reasons.items() if n})
