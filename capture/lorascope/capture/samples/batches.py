"""Batches: which samples pass the model together, and how they are padded."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from .encoded import EncodedSample

PADDING_ID = 0
"""Any id of the vocabulary will do: the attention mask hides it."""


def plan_batches(lengths: Sequence[int], *, batch_tokens: int) -> list[slice]:
    """Slices of consecutive samples, one a batch, that cover all samples in order.

    Parameters
    ----------
    lengths
        Tokens of each sample (sample,).
    batch_tokens
        Most tokens of a batch, padding included: its number of samples times its longest sample. A sample that is
        longer by itself makes a batch of its own.

    Raises
    ------
    ValueError
        If `batch_tokens` or a length is below 1.

    Notes
    -----
    A pure function: float32 results differ by about 1e-6 with the batch that a sample sits in, so the plan must never
    depend on where a run was stopped or on how many processes share it.

    Examples
    --------
    >>> plan_batches([3, 4, 2, 9], batch_tokens=8)
    [slice(0, 2, None), slice(2, 3, None), slice(3, 4, None)]
    """
    if batch_tokens < 1:
        raise ValueError(f"`batch_tokens` is {batch_tokens!r}; give at least 1")
    batches = []
    start, longest = 0, 0
    for index, length in enumerate(lengths):
        if length < 1:
            raise ValueError(f"`lengths[{index}]` is {length!r}; a sample has at least 1 token")
        if index > start and (index + 1 - start) * max(longest, length) > batch_tokens:
            batches.append(slice(start, index))
            start, longest = index, 0
        longest = max(longest, length)
    if lengths:
        batches.append(slice(start, len(lengths)))
    return batches


def pad(samples: Sequence[EncodedSample]) -> tuple[Int64[Tensor, "sample position"], Int64[Tensor, "sample position"]]:
    """Token ids of samples, padded on the right, and their attention mask (1 where there is a token)."""
    return pad_tokens([sample.token_ids for sample in samples])


def pad_tokens(
    sequences: Sequence[Int64[np.ndarray, " _"]], *, left: bool = False
) -> tuple[Int64[Tensor, "sequence position"], Int64[Tensor, "sequence position"]]:
    """Token sequences padded to the longest, on the right or the left, and their attention mask.

    Parameters
    ----------
    sequences
        Token ids of each sequence.
    left
        Pad before the tokens, so that every sequence ends at the last position.
    """
    width = max(len(sequence) for sequence in sequences)
    input_ids = torch.full((len(sequences), width), PADDING_ID, dtype=torch.int64)
    attention_mask = torch.zeros_like(input_ids)
    for row, sequence in enumerate(sequences):
        where = slice(width - len(sequence), width) if left else slice(0, len(sequence))
        input_ids[row, where] = torch.from_numpy(sequence)
        attention_mask[row, where] = 1
    return input_ids, attention_mask
