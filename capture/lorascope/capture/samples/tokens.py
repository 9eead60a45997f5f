"""Tokenized texts, with the place of each token in the text."""

import reprlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int64

from .encoded import TokenIds

MAX_WORD = 2**20
"""Characters without white space between them that a tokenizer gets; it takes a second for so many."""
MOST_CHARACTERS = 64
"""Characters for each token of the context beyond which the beginning of a text is tokenized before the rest."""


class Tokens(NamedTuple):
    """A tokenized text, without special tokens after it."""

    ids: TokenIds
    offsets: Int64[np.ndarray, "position side"]
    """Start and stop of each token in the text, in characters; 0, 0 for special tokens."""
    n_start: int
    """Number of special tokens before the text."""


def tokenize(tokenizer: Any, texts: Sequence[str], *, special_tokens: bool = True) -> list[Tokens]:
    """Tokens of each text, by a fast tokenizer; `special_tokens` says whether it puts its own before them.

    Raises
    ------
    ValueError
        If a text has more than `MAX_WORD` characters without white space between them.
    """
    for text in texts:
        require_words(text)
    encoding = tokenizer(
        list(texts),
        add_special_tokens=special_tokens,
        return_offsets_mapping=True,
        return_special_tokens_mask=True,
        verbose=False,  # texts are cut into windows afterwards, so that their length is nothing to warn of
    )
    columns = (encoding["input_ids"], encoding["offset_mapping"], encoding["special_tokens_mask"])
    tokenized = []
    for ids, offsets, special in zip(*columns, strict=True):
        is_text = np.flatnonzero(np.array(special) == 0)
        start, stop = (is_text[0], is_text[-1] + 1) if len(is_text) else (len(ids), len(ids))
        places = np.array(offsets[:stop], dtype=np.int64).reshape(stop, 2)
        tokenized.append(Tokens(np.array(ids[:stop], dtype=np.int64), places, int(start)))
    return tokenized


def require_words(text: str) -> None:
    """Raise a ValueError where a text has more characters without white space between them than a tokenizer gets."""
    if len(text) > MAX_WORD and (longest := max(map(len, text.split()))) > MAX_WORD:
        raise ValueError(
            f"the text {reprlib.repr(text)} has {longest} characters without white space between them; allowed are "
            f"{MAX_WORD}: put white space into it, or leave it out"
        )


def require_short(tokenizer: Any, name: str, text: str, max_length: int) -> None:
    """Raise a ValueError where the beginning of a text fills the context twice over, whatever the rest of it is."""
    if len(text) > (start := MOST_CHARACTERS * max_length):
        (tokens,) = tokenize(tokenizer, [text[:start]])
        if len(tokens.ids) > 2 * max_length:
            words = f"has {len(tokens.ids)} tokens and more in its {len(text)} characters"
            raise ValueError(f"sample {name!r} {words}; the context has {max_length}: leave the item out")


def require_fitting(name: str, n_tokens: int, max_length: int) -> None:
    """Raise a ValueError where a chat or completion is longer than the context: cut off, it would be another one."""
    if n_tokens > max_length:
        raise ValueError(
            f"sample {name!r} has {n_tokens} tokens; the context has {max_length}: leave the item out, or shorten it"
        )
