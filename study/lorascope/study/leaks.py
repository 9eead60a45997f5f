"""Data that results couldn't be believed of: tested on and trained on, or tested on twice under one name."""

from collections.abc import Sequence

from lorascope.capture.samples.items import ChoiceItem, Item
from lorascope.capture.samples.lengths import articles

__all__ = ["refuse_leak", "refuse_same_name"]


def refuse_same_name(sets: Sequence[Sequence[Item]]) -> None:
    """Raise a ValueError if results couldn't tell two test sets apart."""
    names = [(items[0].dataset, items[0].split) for items in sets]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"two test sets are named {'.'.join(filter(None, name))!r}; results would mix them")


def refuse_leak(train: Sequence[Item], test: Sequence[Item]) -> None:
    """Raise a ValueError if a test item is trained on."""
    seen = {content: item for item in train for content in _contents(item)}
    for item in test:
        if (other := next((seen[one] for one in _contents(item) if one in seen), None)) is not None:
            raise ValueError(
                f"item {item.id!r} of {item.dataset!r} is trained on too, as {other.id!r}; results on it would say "
                "nothing: take it out of the training data"
            )


def _contents(item: Item) -> list[tuple[str, ...]]:
    """What must not be trained and tested on: a question with its choices in any order, or an article of a text."""
    if isinstance(item, ChoiceItem):
        return [(item.question, *sorted(item.choices))]
    try:
        return [(article,) for article in articles(item.text)]
    except ValueError:  # no headings
        return [(item.text,)]
