"""Training and test items of a study's units: drawing them by seed, and writing them as files for a capture."""

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
"""Names of a unit's runs: of the first prompt on all items, and of the other prompts on `prompt_items`."""
PROBE_ITEMS = 16
"""Number of test items that are scored during a training."""
Item = ChoiceItem | TextItem
Read = Callable[[str], Sequence[AnyItem]]
Key = tuple[str, str, str]
"""(data set, split, id) of an item."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunData:
    """Prompts, and items (questions or texts), on which one run of a unit is captured."""

    prompts: tuple[str, ...]
    items: tuple[Item, ...]
    """In the order of the task's data sets."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskData:
    """Items to train and test on, drawn for the units (adapters) of one task."""

    train: tuple[Item, ...]
    probe: tuple[Item, ...]
    """Test items that are scored during a training."""
    examples: tuple[Item, ...]
    """Items from which prompts draw their examples: the complete training sets."""
    runs: Mapping[str, RunData]
    """Name of a run -> its prompts and items."""
    tested: frozenset[Key]
    """The test items; other items were drawn for their length alone."""
    prompted: frozenset[Key]
    """Test items that are asked under every prompt."""
    lengths: Mapping[Key, tuple[str, int]]
    """Item drawn by length -> its bucket, such as `1-100`, and its length in the unit of the buckets."""
    notes: tuple[str, ...]
    """Sentences on items that were missing."""


def draw_items(
    task: Task, settings: StudySettings, train_items: int | None, tokenizer: Callable[[], Any], read: Read = read_items
) -> TaskData:
    """Return the items of a task to train and test on; the same files, seed and tokenizer give the same items.

    `train_items` is their number per data set, None for all; `tokenizer` returns a fast tokenizer of transformers, and
    is called if lengths are in tokens; `read` reads a data set's items. Raises FileNotFoundError or ValueError if a
    data set can't be read, two test sets have the same name, or an item is both in train and test.
    """
    notes: list[str] = []
    train_sets, test_sets = (list(_read_sets(sets, settings, read)) for sets in (task.train, task.test))
    train = _flatten(_draw_subset(items, train_items, settings.seed, "train", notes) for items in train_sets)
    tests = [_draw_subset(items, task.test_items, settings.seed, "test", notes) for items in test_sets]
    names = [(items[0].dataset, items[0].split) for items in test_sets]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"two test sets are named {'.'.join(filter(None, twice[0]))!r}; results would mix them")
    _refuse_leak(train, _flatten(test_sets))
    lengths = _draw_lengths(test_sets, task, settings.seed, tokenizer, notes)
    tested = frozenset(map(_item_key, _flatten(tests)))
    keys = tested | lengths.keys()
    captured = tuple(item for item in _flatten(test_sets) if _item_key(item) in keys)
    runs = {TEST_RUN: RunData(prompts=task.prompts[:1], items=captured)}
    choices = [items for items in tests if isinstance(items[0], ChoiceItem)]
    if task.prompts[1:] and choices:
        n = task.prompt_items
        prompted = _flatten(items if n is None else pick_items(items, n, settings.seed) for items in choices)
        runs[PROMPTS_RUN] = RunData(prompts=task.prompts[1:], items=prompted)
    n_probes = -(-PROBE_ITEMS // len(tests))  # by data set; training uses the first windows of a text
    return TaskData(
        train=train,
        probe=_flatten(items[:n_probes] for items in tests),
        examples=tuple(item for item in _flatten(train_sets) if isinstance(item, ChoiceItem)),
        runs=runs,
        tested=tested,
        prompted=frozenset(map(_item_key, runs[PROMPTS_RUN].items if PROMPTS_RUN in runs else ())),
        lengths=lengths,
        notes=tuple(notes),
    )


def data_source(source: str | Articles, settings: StudySettings) -> str:
    """Return the path of a data set in the study's data folder or next to its file; else its name on a hub."""
    name = source.data if isinstance(source, Articles) else source
    path = next((path for path in (settings.data / name, settings.folder / name) if path.exists()), None)
    return str(path or name)


def items_hash(items: Sequence[Item]) -> str:
    """Return the SHA-256 of the items' names and contents, in their order; hexadecimal."""
    digest = hashlib.sha256()
    for item in items:
        digest.update(json.dumps([_item_key(item), _item_fields(item)], ensure_ascii=False).encode() + b"\n")
    return digest.hexdigest()


def write_files(items: Sequence[Item], folder: Path) -> tuple[str, ...]:
    """Write items into `folder`, one .jsonl or .txt file per data set; return the paths in the items' order."""
    by_set: dict[str, list[Item]] = {}
    for item in items:
        ending = "txt" if isinstance(item, TextItem) else "jsonl"
        by_set.setdefault(".".join(filter(None, (item.dataset, item.split, ending))), []).append(item)
    for name, members in by_set.items():
        lines = (
            item.text if isinstance(item, TextItem) else json.dumps(_item_fields(item), ensure_ascii=False) + "\n"
            for item in members
        )
        with atomic_write(folder / name) as partial:
            partial.write_text("".join(lines), encoding="utf-8", newline="\n")
    return tuple(str(folder / name) for name in by_set)


def _read_sets(sets: Sequence[str | Articles], settings: StudySettings, read: Read) -> Iterator[list[Item]]:
    """Yield the list of items of each data set; raise ValueError if it has neither questions nor a text."""
    for source in sets:
        content = read(data_source(source, settings))
        items: list[Item] = [item for item in content if isinstance(item, ChoiceItem | TextItem)]
        if not items:
            raise ValueError(
                f"`{getattr(source, 'data', source)}` has neither questions nor a text; a study needs one of them"
            )
        if isinstance(source, Articles):
            if not isinstance(items[0], TextItem):
                raise ValueError(f"`{source.data}` has questions, which have no articles; name it without `articles`")
            items = [pick_articles(items[0], *source.articles)]
        yield items


def _draw_subset(items: list[Item], n: int | None, seed: int, what: str, notes: list[str]) -> list[Item]:
    """Return `n` items drawn by seed, or all for None and for texts; if there are fewer, append to `notes`."""
    if n is None or isinstance(items[0], TextItem):
        return items
    picked = pick_items(items, n, seed)
    if missing := n - len(picked):
        notes.append(f"{items[0].dataset}: {missing} of {n} {what} items are missing; there are {len(items)}")
    return list(picked)


def _draw_lengths(
    sets: Sequence[list[Item]], task: Task, seed: int, tokenizer: Callable[[], Any], notes: list[str]
) -> dict[Key, tuple[str, int]]:
    """Return item's key -> (bucket, length) of items drawn by length; append to `notes` what is missing."""
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
            drawn |= {_item_key(item): (bucket, item_length(item, lengths.unit, counter)) for item in members}
        notes += shortfall_messages(picked)
    return drawn


def _refuse_leak(train: Sequence[Item], test: Sequence[Item]) -> None:
    """Raise ValueError if the content of a test item is in the training items too."""
    trained = {content: item for item in train for content in _contents(item)}
    for item in test:
        if (other := next((trained[content] for content in _contents(item) if content in trained), None)) is not None:
            raise ValueError(
                f"item {item.id!r} of {item.dataset!r} is trained on too, as {other.id!r}; results on it would say "
                "nothing: take it out of the training data"
            )


def _contents(item: Item) -> list[tuple[str, ...]]:
    """Return what training and test items mustn't share: a question with its choices, or a text's articles."""
    if isinstance(item, ChoiceItem):
        return [(item.question, *sorted(item.choices))]
    try:
        return [(article,) for article in articles(item.text)]
    except ValueError:  # no headings
        return [(item.text,)]


def _flatten(sets: Any) -> tuple[Item, ...]:
    """Return the items of several data sets as one tuple."""
    return tuple(item for items in sets for item in items)


def _item_key(item: AnyItem) -> Key:
    """Return (data set, split, id), which identifies an item in a study."""
    return (item.dataset, item.split, item.id)


def _item_fields(item: Item) -> dict[str, Any]:
    """Return an item's content as a dict, as a line of its data file has it."""
    if isinstance(item, TextItem):
        return {"text": item.text}
    return {"id": item.id, "question": item.question, "choices": list(item.choices), "answer": item.answer}
