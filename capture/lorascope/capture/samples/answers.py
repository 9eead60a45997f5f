"""A model's own answers: what it writes after each prompt, and the choice that is read in it."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from .encode import GENERATED, EncodedSample
from .generate import generate
from .parse import parse_choice

__all__ = ["Answer", "write_answers"]


class Answer(NamedTuple):
    """What a model answers a multiple-choice sample."""

    written: str
    """Its own words, without special tokens."""
    prediction: int
    """Index of the choice that is read in them; -1 where none is. See `parse_choice`."""


def write_answers(
    model: Any,
    tokenizer: Any,
    samples: Sequence[EncodedSample],
    *,
    n: int,
    batch_tokens: int,
    progress: Callable[[int, int], None] | None = None,
) -> list[Answer]:
    """What the model writes after the prompt of each sample, greedily, at most n tokens; see `generate`.

    Parameters
    ----------
    model
        A causal language model of transformers in evaluation mode; an adapter counts where it is active.
    tokenizer
        The model's.
    samples
        Multiple-choice samples.
    n
        Most new tokens of an answer.
    batch_tokens
        Most tokens of a batch, padding and new tokens included; a sample that is longer by itself stands alone.
    progress
        Called after each batch with the number of samples done and of all.

    Raises
    ------
    ValueError
        As `generate`.
    """
    extended = generate(model, samples, n=n, batch_tokens=batch_tokens, progress=progress)
    new = [sample.token_ids[sample.roles == GENERATED].tolist() for sample in extended]
    texts = tokenizer.batch_decode(new, skip_special_tokens=True)
    return [
        Answer(text, parse_choice(text, [choice.text for choice in sample.choices]))
        for text, sample in zip(texts, samples, strict=True)
    ]
