"""A model's own answers: what it writes after each prompt, and the choice that is read in it."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from .encode import CHOICE, GENERATED, EncodedSample
from .generate import generate
from .parse import is_cut_short, parse_choice

__all__ = ["Answer", "write_answers"]


class Answer(NamedTuple):
    """What a model answers a multiple-choice sample."""

    written: str
    """Its own words, without special tokens."""
    prediction: int
    """Index of the choice that is read in them; -1 where none is. See `write_answers`."""


def write_answers(
    model: Any,
    tokenizer: Any,
    samples: Sequence[EncodedSample],
    *,
    n: int,
    batch_tokens: int,
    progress: Callable[[int, int], None] | None = None,
) -> list[Answer]:
    """What the model writes after the prompt of each multiple-choice sample, and the choice that is read in it.

    Parameters, errors and progress are those of `generate`, whose texts these are; `tokenizer` is the model's.

    Notes
    -----
    `parse_choice` reads them. An answer of n tokens that doesn't end itself was cut off: where it is a choice, and the
    beginning of another ("iron", of iron and iron oxide), none is read.
    """
    extended = generate(model, samples, n=n, batch_tokens=batch_tokens, progress=progress)
    new = [sample.token_ids[sample.roles == GENERATED].tolist() for sample in extended]
    texts = tokenizer.batch_decode(new, skip_special_tokens=True)
    may_go_on = [len(ids) == n and ids[-1] not in tokenizer.all_special_ids for ids in new]
    return [
        Answer(text, _read(text, sample, may_go_on=cut))
        for text, cut, sample in zip(texts, may_go_on, samples, strict=True)
    ]


def _read(text: str, sample: EncodedSample, *, may_go_on: bool) -> int:
    choices = [choice.text for choice in sample.choices]
    lettered = bool((sample.roles == CHOICE).any())  # the prompt lists them
    return -1 if may_go_on and is_cut_short(text, choices) else parse_choice(text, choices, lettered=lettered)
