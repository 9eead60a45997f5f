"""Check that a run's samples follow each other along the token axis, and that tokens fit their samples."""

import numpy as np

from ..errors import StoreError
from ..format.layout import TABLE_CHUNK


def require_contiguous(start: np.ndarray, stop: np.ndarray, n_tokens: int) -> None:
    """Raise StoreError unless samples' ranges of tokens, `start` to `stop`, follow each other along all `n_tokens`."""
    before = np.concatenate([[0], stop])
    wrong = [*np.flatnonzero((start != before[:-1]) | (stop < start)), len(start) - 1]
    if len(wrong) > 1 or before[-1] != n_tokens:
        span = (
            f"sample {wrong[0]} has the tokens {start[wrong[0]]} to {stop[wrong[0]]}"
            if len(start)
            else "no sample is stored"
        )
        raise StoreError(
            f"samples don't follow each other along the run's {n_tokens} tokens: {span} ('samples/token_start', "
            "'samples/token_stop'); run `lorascope verify`"
        )


def require_own_tokens(path: str, values: np.ndarray, stop: np.ndarray, length: np.ndarray) -> None:
    """Raise StoreError unless each token's value fits the sample that has it, as `stop` and `length` (sample,) say.

    `path` is `tokens/sample`, indices of the samples, or `tokens/position`, places below the sample's length. It takes
    little memory: tokens are compared chunk by chunk.
    """
    for first in range(0, len(values), TABLE_CHUNK):
        part = values[first : first + TABLE_CHUNK]
        own = np.searchsorted(stop, np.arange(first, first + len(part)), side="right")
        wrong = np.flatnonzero(part != own if path == "tokens/sample" else part >= length[own])
        if len(wrong):
            sample = int(own[wrong[0]])
            raise StoreError(
                f"entry {first + wrong[0]} of {path!r} is {part[wrong[0]]}, but the token is one of sample {sample}, "
                f"which has {length[sample]} positions; run `lorascope verify`"
            )
