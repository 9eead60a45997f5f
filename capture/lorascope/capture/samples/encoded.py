"""Encoded samples: sequences of token ids, each token with its role."""

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from jaxtyping import Bool, Int64, UInt8

from lorascope.stores.format.tables import ROLES

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
    def of(cls, item: Any, prompt: str, token_ids: TokenIds, roles: np.ndarray, **more: Any) -> Self:
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
