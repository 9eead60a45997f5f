"""What the units of a study train and test on: items drawn by seed, and written as files that a capture can read."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from lorascope.capture.samples.items import ChoiceItem, Item, TextItem, read_items
from lorascope.capture.samples.lengths import (
    LengthPick,
    item_length,
    missing_words,
    pick_articles,
    pick_by_length,
    pick_items,
)

from .leaks import refuse_leak, refuse_same_name
from .settings import Articles, Lengths, StudySettings, Task

__all__ = ["PROMPTS_RUN", "TEST_RUN", "RunData", "TaskData", "draw", "items_hash", "write_files"]

TEST_RUN, PROMPTS_RUN = "main", "prompts"
"""Names of a unit's runs: the first prompt on all items; the other prompts on as many as they get."""
PROBE_ITEMS = 16
"""Held-out items on which a training is watched."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunData:
    """What one run of a unit captures."""

    prompts: tuple[str, ...]
    items: tuple[Item, ...]
    """In the order of the task's data sets."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskData:
    """What a task's units train and test on."""

    train: tuple[Item, ...]
    probe: tuple[Item, ...]
    """Test items on which a training is watched."""
    examples: tuple[Item, ...]
    """What prompts draw their examples from: the whole training sets."""
    runs: Mapping[str, RunData]
    """Run's name -> what it captures."""
    tested: frozenset[tuple[str, str, str]]
    """(data set, split, id) of the test items; the others stand for their length alone."""
    prompted: frozenset[tuple[str, str, str]]
    """Of those that every prompt was put to."""
    buckets: Mapping[tuple[str, str, str], str]
    """(data set, split, id) -> its bucket, such as `1-100`; what isn't here was drawn for no bucket."""
    lengths: Mapping[tuple[str, str, str], int]
    """(data set, split, id) -> its length in the unit of the buckets."""
    notes: tuple[str, ...]
    """Sentences on what there wasn't enough of."""


def draw(task: Task, settings: StudySettings, train_items: int | None, tokenizer: Callable[[], Any]) -> TaskData:
    """Items of a task, the same for the same files, seed and tokenizer.

    Parameters
    ----------
    train_items
        Training items a data set; None for all.
    tokenizer
        Gives a fast tokenizer of transformers; called where lengths are in tokens.

    Raises
    ------
    FileNotFoundError, ValueError
        If a data set can't be read, two of one name are tested on, or an item stands both in train and test.
    """
    notes: list[str] = []
    pool = list(_read(task.train, settings))
    train = [_picked(items, train_items, settings.seed, "train", notes) for items in pool]
    whole = list(_read(task.test, settings))
    refuse_same_name(whole)
    tests = [_picked(read, task.test_items, settings.seed, "test", notes) for read in whole]
    refuse_leak([item for items in train for item in items], [item for items in whole for item in items])
    buckets: dict[tuple[str, str, str], str] = {}
    lengths: dict[tuple[str, str, str], int] = {}
    if task.lengths is not None:
        for items in whole:
            _draw_lengths(items, task.lengths, settings.seed, tokenizer, buckets, lengths, notes)
    tested = frozenset(_key(item) for items in tests for item in items)
    wanted = tested | buckets.keys()
    main = tuple(item for items in whole for item in items if _key(item) in wanted)
    runs = {TEST_RUN: RunData(prompts=task.prompts[:1], items=main)}
    choices = [items for items in tests if isinstance(items[0], ChoiceItem)]
    prompted: frozenset[tuple[str, str, str]] = frozenset()
    if task.prompts[1:] and choices:
        n = task.prompt_items
        few = [items if n is None else pick_items(items, n, settings.seed) for items in choices]
        prompted = frozenset(_key(item) for items in few for item in items)
        runs[PROMPTS_RUN] = RunData(prompts=task.prompts[1:], items=tuple(item for items in few for item in items))
    return TaskData(
        train=tuple(item for items in train for item in items),
        probe=_probe(tests),
        examples=tuple(item for items in pool for item in items if isinstance(item, ChoiceItem)),
        runs=runs,
        tested=tested,
        prompted=prompted,
        buckets=buckets,
        lengths=lengths,
        notes=tuple(notes),
    )


def items_hash(items: Sequence[Item]) -> str:
    """SHA-256 over items, in hexadecimal: of all that they say, in their order."""
    digest = hashlib.sha256()
    for item in items:
        digest.update(json.dumps([_key(item), _fields(item)], ensure_ascii=False).encode() + b"\n")
    return digest.hexdigest()


def write_files(items: Sequence[Item], folder: Path) -> tuple[str, ...]:
    """Write items as data files, one a data set, and return their paths in the order of the items.

    Notes
    -----
    Files are replaced whole, so that a process which reads one never sees a part of it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    by_set: dict[str, list[Item]] = {}
    for item in items:
        by_set.setdefault(".".join(filter(None, (item.dataset, item.split))), []).append(item)
    paths = []
    for name, members in by_set.items():
        is_text = isinstance(members[0], TextItem)
        path = folder / f"{name}.{'txt' if is_text else 'jsonl'}"
        lines = (json.dumps(_fields(item), ensure_ascii=False) for item in members)
        text = "".join(item.text for item in members if isinstance(item, TextItem)) if is_text else "\n".join(lines)
        partial = path.with_name(f".{path.name}.partial")
        partial.write_text(text if is_text else text + "\n", encoding="utf-8", newline="\n")
        partial.replace(path)
        paths.append(str(path))
    return tuple(paths)


def data_path(name: str, settings: StudySettings) -> str:
    """Where a data set of the study lies: in its folder of data, or beside its file, or it is known by name."""
    places = (settings.data / name, settings.folder / name)
    return next((str(path) for path in places if path.exists()), name)


def _read(sets: Sequence[str | Articles], settings: StudySettings) -> Iterator[list[Item]]:
    for one in sets:
        path = data_path(one.data if isinstance(one, Articles) else one, settings)
        items = [*_items(path, _stamp(path))]
        if isinstance(one, Articles):
            if not isinstance(items[0], TextItem):
                raise ValueError(f"`{one.data}` holds questions, which have no articles; name it without `articles`")
            items = [pick_articles(items[0], *one.articles)]
        yield items


@cache
def _items(path: str, stamp: tuple[int, int] | None) -> tuple[Item, ...]:
    """Read once, and again where the file isn't the same any more."""
    return tuple(read_items(path))


def _stamp(path: str) -> tuple[int, int] | None:
    """When a file was written, and its size; None for what a hub knows by name."""
    if not Path(path).is_file():
        return None
    about = Path(path).stat()
    return about.st_mtime_ns, about.st_size


def _picked(items: list[Item], n: int | None, seed: int, what: str, notes: list[str]) -> list[Item]:
    if n is None or isinstance(items[0], TextItem):
        return items
    picked = pick_items(items, n, seed)
    if missing := n - len(picked):
        notes.append(f"{items[0].dataset}: {missing} of {n} {what} items are missing; there are {len(items)}")
    return list(picked)


def _draw_lengths(
    items: Sequence[Item],
    lengths: Lengths,
    seed: int,
    tokenizer: Callable[[], Any],
    buckets: dict[tuple[str, str, str], str],
    counted: dict[tuple[str, str, str], int],
    notes: list[str],
) -> None:
    choices = [item for item in items if isinstance(item, ChoiceItem)]
    if not choices:
        notes.append(f"{items[0].dataset}: texts have no buckets of length")
        return
    given = tokenizer() if lengths.unit == "tokens" else None
    picked: LengthPick = pick_by_length(
        choices, buckets=lengths.buckets, unit=lengths.unit, n=lengths.items, seed=seed, tokenizer=given
    )
    for (shortest, longest), members in picked.items.items():
        for item in members:
            buckets[_key(item)] = f"{shortest}-{longest}"
            counted[_key(item)] = item_length(item, lengths.unit, given)
    notes += missing_words(picked)


def _probe(tests: Sequence[Sequence[Item]]) -> tuple[Item, ...]:
    """The first items of each set; a text would be cut into many windows, of which training looks at the first."""
    each = -(-PROBE_ITEMS // len(tests))
    return tuple(item for items in tests for item in items[:each])


def _key(item: Item) -> tuple[str, str, str]:
    return (item.dataset, item.split, item.id)


def _fields(item: Item) -> dict[str, Any]:
    if isinstance(item, TextItem):
        return {"text": item.text}
    return {"id": item.id, "question": item.question, "choices": list(item.choices), "answer": item.answer}
