"""Data items: multiple-choice questions and plain texts, read from files or data sets of the hub."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from .hub import Reference, parse_reference, read_rows

__all__ = ["ChoiceItem", "Item", "TextItem", "read_items"]

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True, slots=True, kw_only=True)
class ChoiceItem:
    """A question with its possible answers, one of which is right."""

    id: str
    """Name of the item, unique within its data set."""
    dataset: str
    """Name of the data set."""
    split: str
    """Name of the split, "" if there is none."""
    question: str
    """The question without its choices."""
    choices: tuple[str, ...]
    """The answers' texts (choice,), 2 to 26 of them."""
    answer: int
    """Index of the right choice."""

    def __post_init__(self) -> None:
        _require_text("id", self.id)
        _require_text("question", self.question)
        if not 2 <= len(self.choices) <= len(LETTERS):
            raise ValueError(f"`choices` has {len(self.choices)} texts: {self.choices!r}; give 2 to {len(LETTERS)}")
        for index, choice in enumerate(self.choices):
            _require_text(f"choices[{index}]", choice)
        if not 0 <= self.answer < len(self.choices):
            raise ValueError(
                f"`answer` is {self.answer!r}; with {len(self.choices)} choices give 0 to {len(self.choices) - 1}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class TextItem:
    """A plain text for language modelling."""

    id: str
    """Name of the text, unique within its data set."""
    dataset: str
    """Name of the data set."""
    split: str
    """Name of the split, "" if there is none."""
    text: str
    """The text as it stands in the file."""

    def __post_init__(self) -> None:
        _require_text("id", self.id)
        _require_text("text", self.text)


Item = ChoiceItem | TextItem
_Record = TypeVar("_Record")


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
        return _read_hub_items(reference)
    path = Path(path)
    if path.suffix == ".jsonl":
        return _read_choice_items(path)
    if path.suffix == ".txt":
        return _read_text_items(path)
    raise ValueError(f"data file is {str(path)!r}; its name must end in .jsonl (multiple choice) or .txt (plain text)")


def _read_text_items(path: Path) -> list[TextItem]:
    text = _decode(path)
    if not text.strip():
        raise ValueError(f"{path}: the file holds no text; give a data file that isn't empty")
    dataset, split = _dataset_and_split(path)
    return [TextItem(id=path.stem, dataset=dataset, split=split, text=text)]


def _read_choice_items(path: Path) -> list[ChoiceItem]:
    dataset, split = _dataset_and_split(path)
    places = ((f"line {number}", line) for number, line in _numbered_lines(_decode(path)))
    items = _choice_items(places, _fields, source=str(path), dataset=dataset, split=split)
    if not items:
        raise ValueError(f"{path}: the file holds no items; give a data file that isn't empty")
    return items


def _read_hub_items(reference: Reference) -> list[ChoiceItem] | list[TextItem]:
    dataset, split, rows = read_rows(reference)
    if not rows:
        raise ValueError(f"{reference.text}: the split holds no items; give one that isn't empty")
    if "text" in rows[0]:
        return [TextItem(dataset=dataset, split=split, **row) for row in rows]
    places = ((f"row {number}", row) for number, row in enumerate(rows))
    return _choice_items(places, _checked, source=reference.text, dataset=dataset, split=split)


def _choice_items(
    records: Iterable[tuple[str, _Record]],
    fields: Callable[[_Record], dict[str, Any]],
    *,
    source: str,
    dataset: str,
    split: str,
) -> list[ChoiceItem]:
    """Items of records, each with its place, whose ids must differ; errors name source and place."""
    items: list[ChoiceItem] = []
    places: dict[str, str] = {}
    for place, record in records:
        try:
            item = ChoiceItem(dataset=dataset, split=split, **fields(record))
            if item.id in places:
                raise ValueError(f"`id` is {item.id!r}, as in {places[item.id]}; ids must be unique within a file")
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{source}, {place}: {error}") from error
        places[item.id] = place
        items.append(item)
    return items


def _decode(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")  # some editors begin a file with a mark
    except FileNotFoundError as error:
        raise FileNotFoundError(f"data file {str(path)!r} doesn't exist; name one in .jsonl or .txt") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: byte {error.start} isn't UTF-8; save the file as UTF-8") from error


def _numbered_lines(text: str) -> Iterator[tuple[int, str]]:
    # Not splitlines: it would also break at U+2028 and U+0085, which JSON allows within a string.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield number, line


def _dataset_and_split(path: Path) -> tuple[str, str]:
    dataset, *others = path.stem.split(".")
    return dataset, others[0] if others else ""


class _Field(NamedTuple):
    """What a field of a JSON line must be."""

    accepts: Callable[[Any], bool]
    description: str


def _is_text(value: Any) -> bool:
    # JSON can spell half of a surrogate pair, which is no character and which no tokenizer takes.
    return isinstance(value, str) and not any("\ud800" <= character <= "\udfff" for character in value)


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))


_FIELDS = {
    "id": _Field(_is_text, "a string of characters"),
    "question": _Field(_is_text, "a string of characters"),
    "choices": _Field(_is_texts, "a list of strings of characters"),
    # bool is an int to Python, but no index to whoever wrote the file.
    "answer": _Field(lambda value: type(value) is int, "a whole number, counted from 0"),
}


def _fields(line: str) -> dict[str, Any]:
    """Fields of one JSON line."""
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON ({error}); give one object a line") from error
    if not isinstance(record, dict):
        raise ValueError(f"the line holds {record!r}; give an object with the fields {', '.join(_FIELDS)}")
    return _checked(record)


def _checked(record: Mapping[str, Any]) -> dict[str, Any]:
    """Its fields, their types checked."""
    for name, field in _FIELDS.items():
        if name not in record:
            raise ValueError(f"`{name}` is missing; give {field.description}")
        if not field.accepts(record[name]):
            raise ValueError(f"`{name}` is {record[name]!r}; give {field.description}")
    return {name: record[name] for name in _FIELDS} | {"choices": tuple(record["choices"])}


def _require_text(name: str, text: str) -> None:
    if not text.strip():
        raise ValueError(f"`{name}` is {text!r}; give a text that isn't empty")
