"""Training and test items of a study's units, drawn by seed and written as files that a capture can read."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorascope.capture.samples.items import (
    ChoiceItem,
    TextItem,
    articles,
    item_length,
    pick_articles,
    pick_by_length,
    pick_items,
    shortfall_messages,
)
from lorascope.capture.samples.items import Item as AnyItem
from lorascope.capture.samples.sources import read_items
from lorascope.stores.places.files import atomic_write

from ..settings import Articles, StudySettings, Task

TEST_RUN, PROMPTS_RUN = "main", "prompts"
"""Names of a unit's runs: the first prompt on all items; the other prompts on as many as they get."""
PROBE_ITEMS = 16
"""Held-out items on which a training is watched."""
Item = ChoiceItem | TextItem
Read = Callable[[str], Sequence[AnyItem]]
Key = tuple[str, str, str]
"""(data set, split, id) of an item."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunData:
    """Prompts and items of one run of a unit."""

    prompts: tuple[str, ...]
    items: tuple[Item, ...]
    """In the order of the task's data sets."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskData:
    """Training and test items of a task's units."""

    train: tuple[Item, ...]
    probe: tuple[Item, ...]
    """Test items on which a training is watched."""
    examples: tuple[Item, ...]
    """Items from which prompts draw their examples: the whole training sets."""
    runs: Mapping[str, RunData]
    """Run's name -> what it captures."""
    tested: frozenset[Key]
    """The test items; the others stand for their length alone."""
    prompted: frozenset[Key]
    """Test items that every prompt is put to."""
    lengths: Mapping[Key, tuple[str, int]]
    """Item -> its bucket, such as `1-100`, and its length in the unit of the buckets; of items drawn for a bucket."""
    notes: tuple[str, ...]
    """Sentences on what there wasn't enough of."""


def draw(
    task: Task, settings: StudySettings, train_items: int | None, tokenizer: Callable[[], Any], read: Read = read_items
) -> TaskData:
    """Items of a task, the same for the same files, seed and tokenizer.

    Parameters
    ----------
    train_items
        Training items a data set; None for all.
    tokenizer
        Gives a fast tokenizer of transformers; called where lengths are in tokens.
    read
        Reads the items of a data set; one that remembers them serves several tasks.

    Raises
    ------
    FileNotFoundError, ValueError
        If a data set can't be read, two of one name are tested on, or an item stands both in train and test.
    """
    notes: list[str] = []
    pool, whole = (list(_read(sets, settings, read)) for sets in (task.train, task.test))
    train = _flat(_pick(items, train_items, settings.seed, "train", notes) for items in pool)
    tests = [_pick(items, task.test_items, settings.seed, "test", notes) for items in whole]
    names = [(items[0].dataset, items[0].split) for items in whole]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"two test sets are named {'.'.join(filter(None, twice[0]))!r}; results would mix them")
    _refuse_leak(train, _flat(whole))
    lengths = _draw_lengths(whole, task, settings.seed, tokenizer, notes)
    tested = frozenset(map(_key, _flat(tests)))
    chosen = tested | lengths.keys()
    runs = {TEST_RUN: RunData(prompts=task.prompts[:1], items=tuple(x for x in _flat(whole) if _key(x) in chosen))}
    choices = [items for items in tests if isinstance(items[0], ChoiceItem)]
    if task.prompts[1:] and choices:
        n = task.prompt_items
        few = _flat(items if n is None else pick_items(items, n, settings.seed) for items in choices)
        runs[PROMPTS_RUN] = RunData(prompts=task.prompts[1:], items=few)
    each = -(-PROBE_ITEMS // len(tests))  # a text would be cut into many windows, of which training takes the first
    return TaskData(
        train=train,
        probe=_flat(items[:each] for items in tests),
        examples=tuple(item for item in _flat(pool) if isinstance(item, ChoiceItem)),
        runs=runs,
        tested=tested,
        prompted=frozenset(map(_key, runs[PROMPTS_RUN].items if PROMPTS_RUN in runs else ())),
        lengths=lengths,
        notes=tuple(notes),
    )


def data_source(source: str | Articles, settings: StudySettings) -> str:
    """A data set's file, in the study's folder of data or that of its YAML file, or its name on a hub."""
    name = source.data if isinstance(source, Articles) else source
    path = next((path for path in (settings.data / name, settings.folder / name) if path.exists()), None)
    return str(path or name)


def items_hash(items: Sequence[Item]) -> str:
    """SHA-256 over all that items say, in their order; hexadecimal."""
    digest = hashlib.sha256()
    for item in items:
        digest.update(json.dumps([_key(item), _fields(item)], ensure_ascii=False).encode() + b"\n")
    return digest.hexdigest()


def write_files(items: Sequence[Item], folder: Path) -> tuple[str, ...]:
    """Write items as data files, one a data set, and return their paths in the order of the items."""
    by_set: dict[str, list[Item]] = {}
    for item in items:
        ending = "txt" if isinstance(item, TextItem) else "jsonl"
        by_set.setdefault(".".join(filter(None, (item.dataset, item.split, ending))), []).append(item)
    for name, members in by_set.items():
        lines = (
            item.text if isinstance(item, TextItem) else json.dumps(_fields(item), ensure_ascii=False) + "\n"
            for item in members
        )
        with atomic_write(folder / name) as partial:
            partial.write_text("".join(lines), encoding="utf-8", newline="\n")
    return tuple(str(folder / name) for name in by_set)


def _read(sets: Sequence[str | Articles], settings: StudySettings, read: Read) -> Iterator[list[Item]]:
    """Items of each data set."""
    for source in sets:
        content = read(data_source(source, settings))
        items: list[Item] = [item for item in content if isinstance(item, ChoiceItem | TextItem)]
        if not items:
            raise ValueError(
                f"`{getattr(source, 'data', source)}` holds neither questions nor a text, which a study is of"
            )
        if isinstance(source, Articles):
            if not isinstance(items[0], TextItem):
                raise ValueError(f"`{source.data}` holds questions, which have no articles; name it without `articles`")
            items = [pick_articles(items[0], *source.articles)]
        yield items


def _pick(items: list[Item], n: int | None, seed: int, what: str, notes: list[str]) -> list[Item]:
    if n is None or isinstance(items[0], TextItem):
        return items
    picked = pick_items(items, n, seed)
    if missing := n - len(picked):
        notes.append(f"{items[0].dataset}: {missing} of {n} {what} items are missing; there are {len(items)}")
    return list(picked)


def _draw_lengths(
    sets: Sequence[list[Item]], task: Task, seed: int, tokenizer: Callable[[], Any], notes: list[str]
) -> dict[Key, tuple[str, int]]:
    """Buckets of the items that are drawn for their length, and their lengths."""
    drawn: dict[Key, tuple[str, int]] = {}
    if (lengths := task.lengths) is None:
        return drawn
    for items in sets:
        choices = [item for item in items if isinstance(item, ChoiceItem)]
        if not choices:
            notes.append(f"{items[0].dataset}: texts have no buckets of length")
            continue
        counter = tokenizer() if lengths.unit == "tokens" else None
        picked = pick_by_length(
            choices, buckets=lengths.buckets, unit=lengths.unit, n=lengths.items, seed=seed, tokenizer=counter
        )
        for (shortest, longest), members in picked.items.items():
            bucket = f"{shortest}-{longest}"
            drawn |= {_key(item): (bucket, item_length(item, lengths.unit, counter)) for item in members}
        notes += shortfall_messages(picked)
    return drawn


def _refuse_leak(train: Sequence[Item], test: Sequence[Item]) -> None:
    """Raise a ValueError if a test item is trained on."""
    trained = {content: item for item in train for content in _contents(item)}
    for item in test:
        if (other := next((trained[content] for content in _contents(item) if content in trained), None)) is not None:
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


def _flat(sets: Any) -> tuple[Item, ...]:
    return tuple(item for items in sets for item in items)


def _key(item: AnyItem) -> Key:
    return (item.dataset, item.split, item.id)


def _fields(item: Item) -> dict[str, Any]:
    if isinstance(item, TextItem):
        return {"text": item.text}
    return {"id": item.id, "question": item.question, "choices": list(item.choices), "answer": item.answer}
