"""Data items: multiple-choice questions and plain texts, read from files or data sets of the hub."""

import json
import reprlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorascope.stores.json_document import distinct
from lorascope.stores.places.regular_file import read_regular

from .hub import parse_reference, read_rows, require_folder

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
MAX_FILE_BYTES = 2**30
"""Bytes of the largest file of data or prompts, which is read whole."""
MAX_ID = 1000
"""Characters of an item's name, which messages repeat."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChoiceItem:
    """A question with its possible answers, one of which is right."""

    id: str
    """Name of the item, unique within its data set."""
    dataset: str
    split: str
    """Name of the split, "" if there is none."""
    question: str
    """The question without its choices."""
    choices: tuple[str, ...]
    """The answers' texts (choice,), 2 to 26 of them."""
    answer: int
    """Index of the right choice."""

    def __post_init__(self) -> None:
        _require_id(self.id)
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
class TextItem:
    """A plain text for language modelling."""

    id: str
    dataset: str
    split: str
    text: str
    """The text as it stands in the file."""

    def __post_init__(self) -> None:
        _require_id(self.id)
        _require_text("text", self.text)


Item = ChoiceItem | TextItem


def read_items(path: str | Path) -> list[ChoiceItem] | list[TextItem]:
    """Items of a data file or a data set of the hub, in its order.

    Parameters
    ----------
    path
        `<dataset>[.<split>].jsonl`: one JSON object a line with `id`, `question`, `choices` (list of 2 to 26 texts)
        and `answer` (index into `choices`, from 0); other fields and blank lines are passed over.
        `<dataset>[.<split>].txt`: one plain text. Both in UTF-8.
        `NAME:SPLIT` or `NAME:SPLIT@FOLDER`: see `parse_reference` and `read_rows`; a file of that name goes first.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the name ends otherwise, the file holds no items, or a line isn't as described; names file, line and field.
    OSError, ImportError
        See `read_rows`.

    Notes
    -----
    Data set and split are the first and second part of the file's name: `arc_easy.test.jsonl` is split `test` of
    `arc_easy`. Choices get letters by position, whatever labels the file gives.
    """
    reference = parse_reference(str(path))
    if reference is not None:
        rows = read_rows(reference)
        if not rows:
            raise ValueError(f"{reference.text}: the split holds no items; give one that isn't empty")
        if "text" in rows[0]:
            return [TextItem(dataset=reference.dataset, split=reference.split, **row) for row in rows]
        places = ((f"row {number}", row) for number, row in enumerate(rows))
        return _choice_items(places, source=reference.text, dataset=reference.dataset, split=reference.split)
    require_data(path)
    path = Path(path)
    dataset, split = [*path.stem.split("."), ""][:2]
    text = read_text(path, "data file", "one in .jsonl or .txt")
    if not text.strip():
        raise ValueError(f"{path}: the file is empty; give a data file with items or text")
    if path.suffix == ".txt":
        return [TextItem(id=path.stem, dataset=dataset, split=split, text=text)]
    # Not splitlines: it would also break at U+2028 and U+0085, which JSON allows within a string.
    lines = enumerate(text.split("\n"), start=1)
    numbered = ((f"line {number}", line) for number, line in lines if line.strip())
    return _choice_items(numbered, source=str(path), dataset=dataset, split=split)


def require_data(path: str | Path) -> None:
    """Raise as `read_items` does where there is no such file, folder or known data set; the hub isn't asked."""
    reference = parse_reference(str(path))
    if reference is not None:
        require_folder(reference)
        return
    if Path(path).suffix not in (".jsonl", ".txt"):
        raise ValueError(f"data file is {str(path)!r}; its name must end in .jsonl (questions) or .txt (plain text)")
    if not Path(path).exists():
        raise FileNotFoundError(f"data file {str(path)!r} doesn't exist; name one in .jsonl or .txt")


def read_item_files(setting: str, paths: Sequence[str]) -> dict[str, list[Item]]:
    """Items of all the files that a setting names, by file.

    Raises
    ------
    ValueError
        If a file is named twice, or an item stands in two files.
    FileNotFoundError, ValueError, OSError, ImportError
        See `read_items`.
    """
    if len(set(paths)) < len(paths):
        raise ValueError(f"`{setting}` names a file twice: {list(paths)}")
    files: dict[str, list[Item]] = {path: [*read_items(path)] for path in paths}
    owners: dict[tuple[str, str, str], str] = {}
    for path, items in files.items():
        for item in items:
            first = owners.setdefault((item.dataset, item.split, item.id), path)
            if first != path:
                raise ValueError(f"item {item.id!r} of {item.dataset!r} stands in both {first!r} and {path!r}")
    return files


def read_text(path: Path, what: str, wanted: str) -> str:
    """Text of a UTF-8 file; errors call it `what`, and say which files are `wanted` instead of one that isn't there."""
    try:
        text = read_regular(path, at_most=MAX_FILE_BYTES).decode("utf-8-sig")  # some editors begin a file with a mark
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{what} {str(path)!r} doesn't exist; name {wanted}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: byte {error.start} isn't UTF-8; save the file as UTF-8") from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _choice_items(records: Iterable[tuple[str, Any]], *, source: str, dataset: str, split: str) -> list[ChoiceItem]:
    """Items of records (JSON lines or rows), each with its place, whose ids must differ; errors name both."""
    items: list[ChoiceItem] = []
    places: dict[str, str] = {}
    for place, record in records:
        try:
            item = ChoiceItem(dataset=dataset, split=split, **_fields(record))
            if item.id in places:
                raise ValueError(f"`id` is {item.id!r}, as in {places[item.id]}; ids must be unique within a file")
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{source}, {place}: {error}") from error
        places[item.id] = place
        items.append(item)
    return items


def _is_text(value: Any) -> bool:
    if not isinstance(value, str):
        return False
    try:
        value.encode()  # JSON can spell half of a surrogate pair, which is no character and which no tokenizer takes
    except UnicodeEncodeError:
        return False
    return True


_FIELDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "id": (_is_text, "a string of characters"),
    "question": (_is_text, "a string of characters"),
    "choices": (lambda value: isinstance(value, list) and all(map(_is_text, value)), "a list of strings of characters"),
    # bool is an int to Python, but no index to whoever wrote the file.
    "answer": (lambda value: type(value) is int, "a whole number, counted from 0"),
}
"""What each field of an item must be, and how that is said."""


def _fields(record: Any) -> dict[str, Any]:
    """Fields of a JSON line or a row, their types checked."""
    if isinstance(record, str):
        try:
            record = json.loads(record, object_pairs_hook=distinct)
        except json.JSONDecodeError as error:
            raise ValueError(f"not JSON ({error}); give one object a line") from error
        if not isinstance(record, dict):
            raise ValueError(
                f"the line holds {reprlib.repr(record)}; give an object with the fields {', '.join(_FIELDS)}"
            )
    for name, (accepts, description) in _FIELDS.items():
        if name not in record:
            raise ValueError(f"`{name}` is missing; give {description}")
        if not accepts(record[name]):
            raise ValueError(f"`{name}` is {reprlib.repr(record[name])}; give {description}")
    return {name: record[name] for name in _FIELDS} | {"choices": tuple(record["choices"])}


def _require_id(name: str) -> None:
    _require_text("id", name)
    if len(name) > MAX_ID:
        raise ValueError(f"`id` is {reprlib.repr(name)}, of {len(name)} characters; give at most {MAX_ID}")


def _require_text(name: str, text: str) -> None:
    if not text.strip():
        raise ValueError(f"`{name}` is {text!r}; give a text that isn't empty")
