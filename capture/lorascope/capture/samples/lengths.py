"""Items drawn by seed, all alike or by their length, and texts cut at their articles."""

import dataclasses
import hashlib
import re
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, TypeVar

from lorascope.stores.format.fingerprint import canonical

from .items import ChoiceItem, Item, TextItem

Unit = Literal["tokens", "words", "characters"]
SomeItem = TypeVar("SomeItem", bound=Item)
BUCKETS = ((1, 100), (101, 200), (201, 300))
"""The lengths of arXiv 2501.03152, section 4.2, which states no unit."""

# A heading of the first level and the blank lines before it; without them around it, " = " may be a formula's.
_HEADING = re.compile(r"(?:\A(?: *\n)*|(?<=\n)(?: *\n)+) = [^\n]+?(?<! =) = (?=\n *(?:\n|\Z)|\Z)")


class LengthPick(NamedTuple):
    """Items of a data set drawn by their length."""

    dataset: str
    unit: Unit
    """Unit of lengths."""
    n: int
    """Number of items asked for of each span."""
    items: dict[tuple[int, int], tuple[Item, ...]]
    """Shortest and longest length of a span -> those drawn, in the order of the data."""


def item_length(item: Item, unit: Unit = "tokens", tokenizer: Any = None) -> int:
    """Length of an item: of its question and choices joined by single spaces, or of its text, without a prompt.

    Parameters
    ----------
    unit
        `tokens` of the tokenizer without special tokens, `words` (what white space separates) or `characters`.
    tokenizer
        A tokenizer of transformers, for tokens.

    Raises
    ------
    ValueError
        If the unit is another one, tokens are asked for without a tokenizer, or the item is of another kind.

    Examples
    --------
    >>> item = TextItem(id="1", dataset="d", split="", text="To be or not to be.")
    >>> item_length(item, "words"), item_length(item, "characters")
    (6, 19)
    """
    text = _text_of(item)
    if unit == "characters":
        return len(text)
    if unit == "words":
        return len(text.split())
    if unit != "tokens":
        raise ValueError(f"`unit` is {unit!r}; allowed are tokens, words, characters")
    if tokenizer is None:
        raise ValueError("`unit` is 'tokens', but there is no tokenizer; give one, or count words or characters")
    return len(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


def _text_of(item: Item) -> str:
    if isinstance(item, TextItem):
        return item.text
    if isinstance(item, ChoiceItem):
        return " ".join([item.question, *item.choices])
    raise ValueError(f"item {item.id!r} is a {type(item).__name__}; lengths are of questions and plain texts")


def pick_items(items: Sequence[SomeItem], n: int, seed: int = 0) -> tuple[SomeItem, ...]:
    """At most `n` items, drawn without replacement, in the order of the data; all where there are fewer.

    Notes
    -----
    Whether an item is drawn before another depends on the seed, their data sets and their ids alone (the order of
    SHA-256 of the three): not on the order of the data, nor on which others there are.

    Raises
    ------
    ValueError
        If `n` is below 1.
    """
    if n < 1:
        raise ValueError(f"`n` is {n!r}; give at least 1")
    names = [canonical([seed, item.dataset, item.id]) for item in items]
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
    """At most `n` items of each span of lengths, drawn as by `pick_items`; `missing_words` says where there are fewer.

    Parameters
    ----------
    items
        Items of one data set.
    buckets
        Shortest and longest length of each span, in rising order; an item of none of these lengths is left out.
    unit, tokenizer
        See `item_length`.

    Raises
    ------
    ValueError
        If there are no items, or of several data sets, the spans overlap or don't rise, `n` is below 1, or a length
        can't be measured.
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


def missing_words(pick: LengthPick) -> list[str]:
    """Spans with too few items, a phrase each: `piqa: 7 of 100 items of 201 to 300 tokens`."""
    return [
        f"{pick.dataset}: {len(items)} of {pick.n} items of {first} to {last} {pick.unit}"
        for (first, last), items in pick.items.items()
        if len(items) < pick.n
    ]


def articles(text: str) -> tuple[str, ...]:
    """The articles of a text in WikiText's form, each from its heading on; together they are the text.

    A heading of the first level is a line ` = Title = ` between blank lines (or at the text's end); the blank lines
    before it are the article's.

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
    """The text of some articles alone, counted from 1, the last included.

    Raises
    ------
    ValueError
        If the text has no articles (see `articles`), or not as many.
    """
    parts = articles(item.text)
    if not 1 <= first <= last <= len(parts):
        raise ValueError(f"articles {first} to {last} are asked for; text {item.id!r} has {len(parts)}, counted from 1")
    return dataclasses.replace(item, text="".join(parts[first - 1 : last]))
