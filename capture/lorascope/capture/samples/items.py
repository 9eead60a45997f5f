"""Data items: multiple-choice questions, plain texts, chats, prompts with completions, and token ids."""

import reprlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
MAX_ID = 1000
"""Characters of an item's name, which messages repeat."""
CHAT_ROLES = ("system", "user", "assistant", "tool")
"""Roles of a chat's messages."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Named:
    """Names that every item has."""

    id: str
    """Name of the item, unique within its data set."""
    dataset: str
    split: str
    """Name of the split, "" if there is none."""

    def __post_init__(self) -> None:
        _require_text("id", self.id)
        if len(self.id) > MAX_ID:
            words = f"of {len(self.id)} characters; give at most {MAX_ID}"
            raise ValueError(f"`id` is {reprlib.repr(self.id)}, {words}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ChoiceItem(_Named):
    """A question with its possible answers, one of which is right."""

    question: str
    """The question without its choices."""
    choices: tuple[str, ...]
    """The answers' texts (choice,), 2 to 26 of them."""
    answer: int
    """Index of the right choice."""

    def __post_init__(self) -> None:
        _Named.__post_init__(self)
        _require_text("question", self.question)
        if not 2 <= len(self.choices) <= len(LETTERS):
            raise ValueError(
                f"`choices` has {len(self.choices)} texts: {reprlib.repr(self.choices)}; give 2 to {len(LETTERS)}"
            )
        for index, choice in enumerate(self.choices):
            _require_text(f"choices[{index}]", choice)
        if not 0 <= self.answer < len(self.choices):
            n = len(self.choices)
            raise ValueError(f"`answer` is {self.answer!r}; with {n} choices give 0 to {n - 1}")


@dataclass(frozen=True, slots=True, kw_only=True)
class TextItem(_Named):
    """A plain text for language modelling."""

    text: str
    """The text as it stands in the file."""

    def __post_init__(self) -> None:
        _Named.__post_init__(self)
        _require_text("text", self.text)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatItem(_Named):
    """A conversation for the tokenizer's chat template; what the assistant says after the prompt is to be predicted."""

    messages: tuple[Mapping[str, Any], ...]
    """Turns (message,), each with its `role`, its `content` as a text, and what else the template reads."""
    n_prompt: int = 0
    """Number of the first messages that are the prompt; the assistant's among them aren't to be predicted."""
    tools: tuple[Any, ...] | None = None
    """Tools that the template shows, as JSON schemas; None for none."""
    template_options: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments of the template."""

    def __post_init__(self) -> None:
        _Named.__post_init__(self)
        for number, message in enumerate(self.messages):
            name, role, content = f"messages[{number}]", message.get("role"), message.get("content")
            if role not in CHAT_ROLES:
                hint = ": write 'system' for it" if role == "developer" else ""
                raise ValueError(f"`{name}` has the role {role!r}; allowed are {', '.join(CHAT_ROLES)}{hint}")
            if not (role == "assistant" and message.get("tool_calls") and not content):
                if not isinstance(content, str):
                    raise ValueError(f"`{name}.content` is {reprlib.repr(content)}; give a string of characters")
                if content or role != "system":  # many data sets leave the system's empty
                    _require_text(f"{name}.content", content)
        if self.n_prompt and self.messages[self.n_prompt - 1]["role"] == "assistant":
            raise ValueError("`prompt` ends with the assistant's turn; end it with what the completion replies to")
        if not any(message["role"] == "assistant" for message in self.messages[self.n_prompt :]):
            what = "completion" if self.n_prompt else "messages"
            raise ValueError(f"`{what}` holds no turn of the assistant's; give a chat in which it says something")


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletionItem(_Named):
    """A text and its continuation, which is to be predicted."""

    prompt: str
    completion: str
    """Text after the prompt, its own white space included."""

    def __post_init__(self) -> None:
        _Named.__post_init__(self)
        _require_text("prompt", self.prompt)
        _require_text("completion", self.completion)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokensItem(_Named):
    """A sequence that was tokenized already."""

    token_ids: tuple[int, ...]
    """Ids without padding."""
    targets: tuple[bool, ...]
    """Whether each token is to be predicted (position,); the first never is."""

    def __post_init__(self) -> None:
        _Named.__post_init__(self)
        if not any(self.targets[1:]):
            raise ValueError(
                f"none of the {len(self.token_ids)} tokens is to be predicted: give at least two `input_ids`, and "
                "`labels` that aren't all -100"
            )


Item = ChoiceItem | TextItem | ChatItem | CompletionItem | TokensItem


def _require_text(name: str, text: str) -> None:
    if not text.strip():
        raise ValueError(f"`{name}` is {text!r}; give a text that isn't empty")
