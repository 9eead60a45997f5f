"""Data items (questions, texts, chats, prompts with completions, token ids), and draws of them by seed and length."""

import dataclasses
import hashlib
import re
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeVar

from lorascope.stores.format.digests import canonical_json
from lorascope.stores.names import suggestion

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
MAX_ID = 1000
"""Maximum number of characters in an item's id, which messages repeat."""
CHAT_ROLES = ("system", "user", "assistant", "tool")
"""Roles of a chat's messages."""
Unit = Literal["tokens", "words", "characters"]
BUCKETS = ((1, 100), (101, 200), (201, 300))
"""The lengths of arXiv 2501.03152, section 4.2, which states no unit."""
# A heading of the first level and the blank lines before it; without them around it, " = " may be a formula's.
_HEADING = re.compile(r"(?:\A(?: *\n)*|(?<=\n)(?: *\n)+) = [^\n]+?(?<! =) = (?=\n *(?:\n|\Z)|\Z)")


@dataclass(frozen=True, slots=True, kw_only=True)
class _NamedItem:
    """Base class of all data items: a checked id, a data set's name and a split's name."""

    id: str
    """Name of the item, unique within its data set."""
    dataset: str
    split: str
    """Name of the split, or ""."""

    def __post_init__(self) -> None:
        """Raise ValueError if the id is blank or has more than 1000 characters."""
        _require_text("id", self.id)
        if len(self.id) > MAX_ID:
            words = f"of {len(self.id)} characters; give at most {MAX_ID}"
            raise ValueError(f"`id` is {reprlib.repr(self.id)}, {words}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ChoiceItem(_NamedItem):
    """A question with several possible answers and exactly one right answer."""

    question: str
    """The question without its choices."""
    choices: tuple[str, ...]
    """The answers' texts (choice,), 2 to 26 of them."""
    answer: int
    """Index of the right choice."""

    def __post_init__(self) -> None:
        """Raise ValueError unless there are 2 to 26 choices, none blank, and `answer` is the index of one."""
        _NamedItem.__post_init__(self)
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
class TextItem(_NamedItem):
    """A plain text on which a language model predicts each token."""

    text: str
    """The text as it stands in the file."""

    def __post_init__(self) -> None:
        """Raise ValueError if the id or the text is blank."""
        _NamedItem.__post_init__(self)
        _require_text("text", self.text)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatItem(_NamedItem):
    """A conversation for the tokenizer's chat template; the assistant's words after the prompt are to be predicted."""

    messages: tuple[Mapping[str, Any], ...]
    """Turns (message,), each with its `role`, its `content` as a text, and what else the template reads."""
    n_prompt: int = 0
    """Number of messages, from the first on, that are the prompt and aren't to be predicted."""
    tools: tuple[Any, ...] | None = None
    """Tools that the template shows, as JSON schemas; None for none."""
    template_options: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments of the template."""

    def __post_init__(self) -> None:
        """Raise ValueError if a message's role or content isn't allowed, or no assistant's turn is to be predicted."""
        _NamedItem.__post_init__(self)
        for number, message in enumerate(self.messages):
            name, role, content = f"messages[{number}]", message.get("role"), message.get("content")
            if role not in CHAT_ROLES:
                hint = ": write 'system' for it" if role == "developer" else suggestion(str(role), CHAT_ROLES)
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
class CompletionItem(_NamedItem):
    """A text and its continuation, which is to be predicted."""

    prompt: str
    completion: str
    """Text after the prompt, with white space at its start."""

    def __post_init__(self) -> None:
        """Raise ValueError if the id, the prompt or the completion is blank."""
        _NamedItem.__post_init__(self)
        _require_text("prompt", self.prompt)
        _require_text("completion", self.completion)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokensItem(_NamedItem):
    """A sequence given as token ids, with a mask of those to be predicted."""

    token_ids: tuple[int, ...]
    """Ids without padding."""
    targets: tuple[bool, ...]
    """Whether each token is to be predicted (position,); the first never is."""

    def __post_init__(self) -> None:
        """Raise ValueError if the id is blank, or no token after the first is to be predicted."""
        _NamedItem.__post_init__(self)
        if not any(self.targets[1:]):
            raise ValueError(
                f"none of the {len(self.token_ids)} tokens is to be predicted: give at least two `input_ids`, and "
                "`labels` that aren't all -100"
            )


Item = ChoiceItem | TextItem | ChatItem | CompletionItem | TokensItem
SomeItem = TypeVar("SomeItem", bound=Item)


def _require_text(name: str, text: str) -> None:
    """Raise ValueError, with the field's `name`, if its text is blank."""
    if not text.strip():
        raise ValueError(f"`{name}` is {text!r}; give a text that isn't empty")


class LengthPick(NamedTuple):
    """Items drawn from each span of lengths of a data set, and how many were asked for."""

    dataset: str
    unit: Unit
    """Unit of lengths."""
    n: int
    """Number of items asked for in each span."""
    items: dict[tuple[int, int], tuple[Item, ...]]
    """(shortest, longest) length of a span -> the drawn items, in the order of the data."""


def item_length(item: Item, unit: Unit = "tokens", tokenizer: Any = None) -> int:
    """Return the length, in `unit`, of an item's text, or of its question and choices joined by spaces.

    Prompts don't count.

    Parameters
    ----------
    unit
        `tokens` of the tokenizer without special tokens, `words` (what white space separates) or `characters`.
    tokenizer
        A tokenizer of transformers, for tokens.

    Raises
    ------
    ValueError
        If the unit isn't known, it is tokens but there is no tokenizer, or the item is neither a question nor a text.

    Examples
    --------
    >>> item = TextItem(id="1", dataset="d", split="", text="To be or not to be.")
    >>> item_length(item, "words"), item_length(item, "characters")
    (6, 19)
    """
    if not isinstance(item, TextItem | ChoiceItem):
        raise ValueError(f"item {item.id!r} is a {type(item).__name__}; lengths are of questions and plain texts")
    text = item.text if isinstance(item, TextItem) else " ".join([item.question, *item.choices])
    if unit == "characters":
        return len(text)
    if unit == "words":
        return len(text.split())
    if unit != "tokens":
        raise ValueError(f"`unit` is {unit!r}; allowed are tokens, words, characters")
    if tokenizer is None:
        raise ValueError("`unit` is 'tokens', but there is no tokenizer; give one, or count words or characters")
    return len(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


def pick_items(items: Sequence[SomeItem], n: int, seed: int = 0) -> tuple[SomeItem, ...]:
    """Return at most `n` items, drawn by `seed` without replacement, in the order of the data.

    All are returned if there are fewer.

    Notes
    -----
    Items are drawn in the order of the SHA-256 of seed, data set and id, which depends neither on the order of the data
    nor on other items.

    Raises
    ------
    ValueError
        If `n` is below 1.
    """
    if n < 1:
        raise ValueError(f"`n` is {n!r}; give at least 1")
    names = [canonical_json([seed, item.dataset, item.id]) for item in items]
    order = sorted(range(len(items)), key=lambda index: hashlib.sha256(names[index]).digest())
    return tuple(items[index] for index in sorted(order[:n]))


def pick_by_length(
    items: Sequence[Item],
    *,
    buckets: Sequence[tuple[int, int]] = BUCKETS,
    unit: Unit = "tokens",
    n: int = 100,
    seed: int = 0,
    tokenizer: Any = None,
) -> LengthPick:
    """Draw at most `n` items by `seed` from each span of lengths (`buckets`); return them by span.

    They are drawn as `pick_items` does; `shortfall_messages` names spans with fewer items.

    Parameters
    ----------
    items
        Items of one data set.
    buckets
        (shortest, longest) length of each span, in rising order; items of other lengths are skipped.
    unit, tokenizer
        See `item_length`.

    Raises
    ------
    ValueError
        If there are no items, they are of several data sets, the spans overlap or don't rise, `n` is below 1, or a
        length can't be measured.
    """
    if not buckets:
        raise ValueError("`buckets` is empty; give at least one span of lengths")
    for (first, last), before in zip(buckets, [0, *(bucket[1] for bucket in buckets)], strict=False):
        if not before < first <= last:
            raise ValueError(f"`buckets` is {list(buckets)!r}; give spans of 1 or more that rise and don't overlap")
    names = sorted({item.dataset for item in items})
    if len(names) != 1:
        raise ValueError(f"the items are of the data sets {names!r}; draw from one at a time")
    lengths = [item_length(item, unit, tokenizer) for item in items]
    within = {
        (first, last): [item for item, length in zip(items, lengths, strict=True) if first <= length <= last]
        for first, last in buckets
    }
    return LengthPick(names[0], unit, n, {span: pick_items(fitting, n, seed) for span, fitting in within.items()})


def shortfall_messages(pick: LengthPick) -> list[str]:
    """Return a phrase per span with too few items, such as `piqa: 7 of 100 items of 201 to 300 tokens`."""
    return [
        f"{pick.dataset}: {len(items)} of {pick.n} items of {first} to {last} {pick.unit}"
        for (first, last), items in pick.items.items()
        if len(items) < pick.n
    ]


def articles(text: str) -> tuple[str, ...]:
    """Split a text in WikiText's form before each first-level heading; return the articles in order.

    A heading of the first level is a line ` = Title = ` between blank lines (or at the text's end); an article includes
    the blank lines before its heading.

    Raises
    ------
    ValueError
        If there are no such headings, or the text begins before the first.
    """
    starts = [heading.start() for heading in _HEADING.finditer(text)]
    if not starts:
        raise ValueError("the text has no headings of the first level (` = Title = `); give one in WikiText's form")
    if starts[0]:
        raise ValueError(f"the text begins with {text[:40]!r}, before the first heading; cut it at an article")
    return tuple(text[start:stop] for start, stop in zip(starts, [*starts[1:], len(text)], strict=True))


def pick_articles(item: TextItem, first: int, last: int) -> TextItem:
    """Return a copy of the item with only articles `first` to `last` of its text, counted from 1.

    Both are included.

    Raises
    ------
    ValueError
        If the text has no articles (see `articles`), or not as many.
    """
    parts = articles(item.text)
    if not 1 <= first <= last <= len(parts):
        raise ValueError(f"articles {first} to {last} are asked for; text {item.id!r} has {len(parts)}, counted from 1")
    return dataclasses.replace(item, text="".join(parts[first - 1 : last]))
