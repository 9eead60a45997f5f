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

from lorascope.stores.format.tables import ROLES

MAX_WORD = 2**20
"""Characters without white space between them that a tokenizer gets; it takes a second for so many."""
MOST_CHARACTERS = 64
"""Characters for each token of the context beyond which the beginning of a text is tokenized before the rest."""
PADDING_ID = 0
"""Any id of the vocabulary will do: the attention mask hides it."""
PROMPT, CHOICE, ANSWER, GENERATED, TEXT, ASSISTANT, TEMPLATE = (
    ROLES.index(role) for role in ("prompt", "choice", "answer", "generated", "text", "assistant", "template")
)

TokenIds = Int64[np.ndarray, " position"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedChoice:
    """One possible answer, as it would follow the prompt."""

    text: str
    token_ids: TokenIds
    """Its tokens (position,), the space before it included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedSample:
    """One sequence for the model: a prompt with its right answer or completion, a chat, or a window of plain text.

    `generate` puts what the model writes in the place of the answer or of the last turn, or after the window; what is
    scored comes before that.
    """

    id: str
    """Name of the item; a window of text adds ":" and its number."""
    dataset: str
    split: str
    prompt: str
    """Name of the prompt, such as `main`; without one `text`, `chat`, `completion` or `tokens`, by what the item is."""
    token_ids: TokenIds
    """The whole sequence: for a question its prompt's tokens, then the right answer's or the model's own."""
    roles: UInt8[np.ndarray, " position"]
    """Role of each token in the sample: its index in `ROLES`."""
    choices: tuple[EncodedChoice, ...] = ()
    """The possible answers (choice,); none but for a question."""
    answer: int = -1
    """Index of the right choice; -1 where there are none."""
    targets: Bool[np.ndarray, " position"] | None = None
    """Whether each token is one that the model must predict; None where the roles say it."""

    @classmethod
    def of(cls, item: Any, prompt: str, token_ids: TokenIds, roles: np.ndarray, **more: Any) -> "EncodedSample":
        """The sample of an item, under the item's own id unless another is given."""
        named = {"id": item.id, "dataset": item.dataset, "split": item.split, **more}
        return cls(prompt=prompt, token_ids=token_ids, roles=roles.astype(np.uint8), **named)

    @property
    def is_target(self) -> Bool[np.ndarray, " position"]:
        """Whether each token is one the model must predict: of an answer, the assistant or a text, but for the first.

        In a chat whose first turns are a prompt, the assistant's tokens among these aren't.
        """
        by_role = np.isin(self.roles, (ANSWER, TEXT, ASSISTANT))
        targets: np.ndarray = by_role if self.targets is None else self.targets.copy()
        targets[0] = False
        return targets

    @property
    def n_context(self) -> int:
        """Number of tokens before the first that the model must predict."""
        return int(np.argmax(self.is_target))

    @property
    def n_prefix(self) -> int:
        """Number of tokens that the model continues when it writes itself: a whole text, else up to the last turn.

        So the answer, the completion, or the assistant's last turn is left out.
        """
        if (self.roles == TEXT).any():
            return len(self.token_ids)
        targets = np.flatnonzero(self.is_target)
        return int(targets[np.flatnonzero(np.diff(targets, prepend=-1) > 1)[-1]])

    def continued_with(self, token_ids: TokenIds) -> "EncodedSample":
        """The sample up to `n_prefix`, and these generated tokens after it."""
        n = self.n_prefix
        return dataclasses.replace(
            self,
            token_ids=np.concatenate([self.token_ids[:n], token_ids]),
            roles=np.concatenate([self.roles[:n], np.full(len(token_ids), GENERATED, np.uint8)]),
            targets=None if self.targets is None else np.append(self.targets[:n], np.zeros(len(token_ids), bool)),
        )


def count_roles(samples: Iterable[EncodedSample]) -> dict[str, int]:
    """Role -> how many tokens of these samples have it, without those that none has."""
    counts = sum((np.bincount(sample.roles, minlength=len(ROLES)) for sample in samples), np.zeros(len(ROLES), int))
    return {role: int(count) for role, count in zip(ROLES, counts, strict=True) if count}


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
