"""Encoded samples: token ids with roles, the tokenizer's tokens that they are made of, and batches of them."""

import dataclasses
import reprlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Int64, UInt8
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from lorascope.stores.format.tables import ROLES

MAX_WORD = 2**20
"""Maximum number of characters without white space that a tokenizer gets, which takes it about a second."""
MOST_CHARACTERS = 64
"""Number of characters per token of the context; of a longer text the beginning is tokenized first."""
PADDING_ID = 0
"""Token id of padding. Any id of the vocabulary will do, since the attention mask hides it."""
PROBE_TOKENS = 32
"""Maximum number of tokens on which a probe checks that output = base + delta; more would show nothing else."""
PROMPT, CHOICE, ANSWER, GENERATED, TEXT, ASSISTANT, TEMPLATE = (
    ROLES.index(role) for role in ("prompt", "choice", "answer", "generated", "text", "assistant", "template")
)

TokenIds = Int64[np.ndarray, " position"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedChoice:
    """One possible answer to a question: its text, and its token ids as they follow the prompt."""

    text: str
    token_ids: TokenIds
    """Its tokens (position,), with the space before it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedSample:
    """One token sequence for the model: a prompt with its answer or completion, a chat, or a window of text.

    `generate` replaces the answer or the last turn with the model's own text, or adds that text to a window; scores are
    computed before that.
    """

    id: str
    """Name of the item; a window of text adds ":" and its number."""
    dataset: str
    split: str
    prompt: str
    """Name of the prompt, such as `main`; without one the kind of item: `text`, `chat`, `completion` or `tokens`."""
    token_ids: TokenIds
    """The whole sequence; for a question the prompt's tokens, then the right answer's or the model's own."""
    roles: UInt8[np.ndarray, " position"]
    """Role of each token in the sample: its index in `ROLES`."""
    choices: tuple[EncodedChoice, ...] = ()
    """The possible answers (choice,); empty unless the item is a question."""
    answer: int = -1
    """Index of the right choice; -1 without choices."""
    targets: Bool[np.ndarray, " position"] | None = None
    """Whether the model must predict each token; None if that follows from the roles."""

    @classmethod
    def from_item(cls, item: Any, prompt: str, token_ids: TokenIds, roles: np.ndarray, **more: Any) -> "EncodedSample":
        """Make a sample with an item's id, data set and split; `more` sets further fields, or another id."""
        named = {"id": item.id, "dataset": item.dataset, "split": item.split, **more}
        return cls(prompt=prompt, token_ids=token_ids, roles=roles.astype(np.uint8), **named)

    @property
    def is_target(self) -> Bool[np.ndarray, " position"]:
        """Mask (position,) of the tokens to predict: an answer's, the assistant's or a text's, never the first one.

        In a chat whose first turns are a prompt, the assistant's tokens in the prompt aren't targets.
        """
        by_role = np.isin(self.roles, (ANSWER, TEXT, ASSISTANT))
        targets: np.ndarray = by_role if self.targets is None else self.targets.copy()
        targets[0] = False
        return targets

    @property
    def n_context(self) -> int:
        """Number of tokens before the first one that the model must predict."""
        return int(np.argmax(self.is_target))

    @property
    def n_prefix(self) -> int:
        """Number of tokens that the model continues when it generates: a whole text, else all before the last turn.

        The answer, the completion or the assistant's last turn is not among them.
        """
        if (self.roles == TEXT).any():
            return len(self.token_ids)
        targets = np.flatnonzero(self.is_target)
        return int(targets[np.flatnonzero(np.diff(targets, prepend=-1) > 1)[-1]])

    def continued_with(self, token_ids: TokenIds) -> "EncodedSample":
        """Return the sample cut to its first `n_prefix` tokens and followed by these generated tokens."""
        n = self.n_prefix
        return dataclasses.replace(
            self,
            token_ids=np.concatenate([self.token_ids[:n], token_ids]),
            roles=np.concatenate([self.roles[:n], np.full(len(token_ids), GENERATED, np.uint8)]),
            targets=None if self.targets is None else np.append(self.targets[:n], np.zeros(len(token_ids), bool)),
        )


def count_roles(samples: Iterable[EncodedSample]) -> dict[str, int]:
    """Return role -> number of tokens with this role in all samples; roles that don't occur are missing."""
    counts = sum((np.bincount(sample.roles, minlength=len(ROLES)) for sample in samples), np.zeros(len(ROLES), int))
    return {role: int(count) for role, count in zip(ROLES, counts, strict=True) if count}


class Tokens(NamedTuple):
    """Token ids of a text and their places in it, without special tokens after the text."""

    ids: TokenIds
    offsets: Int64[np.ndarray, "position side"]
    """Start and stop of each token in the text, in characters; 0, 0 for special tokens."""
    n_start: int
    """Number of special tokens before the text."""


def tokenize(tokenizer: Any, texts: Sequence[str], *, special_tokens: bool = True) -> list[Tokens]:
    """Return the tokens of each text from a fast tokenizer, with or without special tokens before them.

    Raises
    ------
    ValueError
        If a text has more than `MAX_WORD` characters in a row without white space.
    """
    for text in texts:
        require_splittable(text)
    encoding = tokenizer(
        list(texts),
        add_special_tokens=special_tokens,
        return_offsets_mapping=True,
        return_special_tokens_mask=True,
        verbose=False,  # texts are cut into windows afterwards, so that their length needs no warning
    )
    columns = (encoding["input_ids"], encoding["offset_mapping"], encoding["special_tokens_mask"])
    tokenized = []
    for ids, offsets, special in zip(*columns, strict=True):
        is_text = np.flatnonzero(np.array(special) == 0)
        start, stop = (is_text[0], is_text[-1] + 1) if len(is_text) else (len(ids), len(ids))
        places = np.array(offsets[:stop], dtype=np.int64).reshape(stop, 2)
        tokenized.append(Tokens(np.array(ids[:stop], dtype=np.int64), places, int(start)))
    return tokenized


def require_splittable(text: str) -> None:
    """Raise ValueError if a text has more than `MAX_WORD` (2**20) characters in a row without white space."""
    if len(text) > MAX_WORD and (longest := max(map(len, text.split()))) > MAX_WORD:
        raise ValueError(
            f"the text {reprlib.repr(text)} has {longest} characters without white space between them; allowed are "
            f"{MAX_WORD}: put white space into it, or leave it out"
        )


def require_short(tokenizer: Any, name: str, text: str, max_length: int) -> None:
    """Raise ValueError if just the beginning of a text has more than 2 * `max_length` tokens.

    A huge text is thus refused before all of it is tokenized.
    """
    if len(text) > (start := MOST_CHARACTERS * max_length):
        (tokens,) = tokenize(tokenizer, [text[:start]])
        if len(tokens.ids) > 2 * max_length:
            words = f"has {len(tokens.ids)} tokens and more in its {len(text)} characters"
            raise ValueError(f"sample {name!r} {words}; the context has {max_length}: leave the item out")


def require_context_fit(name: str, n_tokens: int, max_length: int) -> None:
    """Raise ValueError if a sample has more tokens than the model's context, since none is ever shortened."""
    if n_tokens > max_length:
        raise ValueError(
            f"sample {name!r} has {n_tokens} tokens; the context has {max_length}: leave the item out, or shorten it"
        )


def plan_batches(lengths: Sequence[int], *, batch_tokens: int) -> list[slice]:
    """Return slices of consecutive samples, one per batch of at most `batch_tokens` padded tokens.

    They cover all samples in order.

    Parameters
    ----------
    lengths
        Tokens of each sample (sample,).
    batch_tokens
        Maximum number of tokens in a batch, with padding: its number of samples times the length of the longest. A
        longer sample has its own batch.

    Raises
    ------
    ValueError
        If `batch_tokens` or a length is below 1.

    Notes
    -----
    A pure function: float32 results of a sample differ by about 1e-6 between batches, so the plan must not depend on
    where a run was stopped or on the number of processes.

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


def probe_samples(sample: EncodedSample, *, whole: bool) -> list[EncodedSample]:
    """Return sequences for a trial pass: a sample's first tokens (at most 32) as two sequences, or all of it.

    Two sequences, the second of them padded if the number of tokens is odd, show the layout of a layer's output, if
    each has more than two tokens: (position, sequence) of two by two would look like (sequence, position). `whole` is
    for models that attend by the length of a batch, some of them (BigBird) once and for all, or take no batch.
    """
    n_tokens = min(len(sample.token_ids), PROBE_TOKENS)
    if n_tokens < 5 or whole:
        return [sample]
    half = -(-n_tokens // 2)
    plain = dataclasses.replace(sample, choices=(), targets=None)
    return [
        dataclasses.replace(plain, token_ids=plain.token_ids[part], roles=plain.roles[part])
        for part in (slice(0, half), slice(half, n_tokens))
    ]


def pad(samples: Sequence[EncodedSample]) -> tuple[Int64[Tensor, "sample position"], Int64[Tensor, "sample position"]]:
    """Return the samples' token ids, padded on the right, and the attention mask (1 for a token, 0 for padding)."""
    return pad_tokens([sample.token_ids for sample in samples])


def pad_tokens(
    sequences: Sequence[Int64[np.ndarray, " _"]], *, left: bool = False
) -> tuple[Int64[Tensor, "sequence position"], Int64[Tensor, "sequence position"]]:
    """Return sequences padded to the longest, on the right or the left, and their attention mask, both int64.

    Parameters
    ----------
    sequences
        Token ids of each sequence.
    left
        Pad before the tokens, so that every sequence ends at the last position.
    """
    ids, side = [torch.from_numpy(sequence) for sequence in sequences], "left" if left else "right"
    masks = [torch.ones_like(sequence) for sequence in ids]
    input_ids = pad_sequence(ids, batch_first=True, padding_value=PADDING_ID, padding_side=side)
    return input_ids, pad_sequence(masks, batch_first=True, padding_side=side)
