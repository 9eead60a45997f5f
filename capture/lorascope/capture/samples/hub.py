"""Rows of a data set on the Hugging Face hub, or of a folder with such a set's files, by the library `datasets`."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from textwrap import shorten
from typing import Any, NamedTuple

from .hub_sets import KNOWN_SETS, HubSet

__all__ = ["Reference", "hub_source", "parse_reference", "read_rows"]

# Names don't begin with "." or "/", and a split has no dots: no data file's path looks like this, nor `s3://` or `C:\`.
_PART = r"[A-Za-z0-9][\w.-]*"
_REFERENCE = re.compile(rf"(?P<name>{_PART}(?:/{_PART}){{0,2}}):(?P<split>\w+)(?:@(?P<folder>.+))?")
CHOICE_COLUMNS = ("id", "question", "choices", "answer")
TEXT_COLUMN = "text"


class Reference(NamedTuple):
    """A split of a data set, as `NAME:SPLIT` or `NAME:SPLIT@FOLDER` names it."""

    text: str
    """The reference as it was written."""
    dataset: str
    """Name of the data set in a run."""
    split: str
    known: HubSet | None
    """The set, where it is one of the seven."""
    hub: str
    """Repository on the hub; "" for a folder whose set isn't known."""
    config: str | None
    """Configuration asked for; None for the only one."""
    folder: str | None
    """Folder of the files; None for the hub."""


def parse_reference(text: str) -> Reference | None:
    """The split that a text names; None if it is that of a file, or can only be a path.

    Parameters
    ----------
    text
        `NAME:SPLIT`, where NAME is one of the seven sets, one with another configuration
        (`winogrande/winogrande_l`), or `owner/name` or `owner/name/configuration` of the hub. With `@FOLDER` behind it
        the files are taken from there, and NAME may be any word.

    Raises
    ------
    ValueError
        If NAME is a single word that names no set, and no folder is given.
    """
    found = _REFERENCE.fullmatch(text)
    if found is None or Path(text).exists():
        return None
    name, split, folder = found["name"], found["split"], found["folder"]
    first, _, rest = name.partition("/")
    if first in KNOWN_SETS and "/" not in rest:
        known = KNOWN_SETS[first]
        return Reference(text, first, split, known, known.hub, rest or known.config, folder)
    owner, _, config = rest.partition("/")
    if not rest and folder is None:
        raise ValueError(
            f"{text!r} is no file, and {name!r} no known data set ({', '.join(KNOWN_SETS)}); give a path in .jsonl or "
            ".txt, one of these, or `owner/name:split` of the hub"
        )
    # A data set's name is part of file names, whose parts dots divide.
    dataset = re.sub(r"[./]", "_", rest or name)
    return Reference(text, dataset, split, None, f"{first}/{owner}" if rest else "", config or None, folder)


def hub_source(path: str) -> dict[str, str | None] | None:
    """Where the data of this name comes from, as JSON values; None for a file."""
    found = parse_reference(path)
    if found is None:
        return None
    revision = None if found.folder or not found.known else found.known.revision
    place = {"hub": found.hub, "config": found.config, "revision": revision}
    return {**place, "split": found.split, "folder": found.folder}


def read_rows(reference: Reference) -> list[dict[str, Any]]:
    """Fields of a split's items, in the order of its rows: id, question, choices and answer, or id and text.

    Nothing that comes with the data is executed.

    Raises
    ------
    ImportError
        If `datasets` isn't installed.
    OSError
        If the hub can't be reached, or there is no such set or folder.
    ValueError
        If there is no such split, its columns are others than those that are read, or its answers aren't published.

    Notes
    -----
    In the seven sets, white space around questions and choices is removed and nothing else changed; a row's id is its
    own, or `dataset-split-N`, N counting from 0. WikiText-2 and PTB become one text, that of the original file. In
    other sets `id`, `question`, `choices` and `answer` are taken as they stand, or each `text` that isn't blank.
    """
    table, known = _load(reference), reference.known
    if known is None:
        return _other_rows(reference, table)
    _require_columns(reference, table, known.columns)
    if known.text is not None:
        text = known.text(_texts(reference, table, *known.columns))
        return [{"id": f"{reference.dataset}.{reference.split}", "text": text}]
    rows = table.select_columns(list(known.columns))
    return [_known_row(reference, known, number, row) for number, row in enumerate(rows)]


def _known_row(reference: Reference, known: HubSet, number: int, row: Mapping[str, Any]) -> dict[str, Any]:
    assert known.question is not None
    try:
        question, choices, answer = known.question(row)
    except (TypeError, LookupError) as error:
        said = shorten(repr(row), 160)
        raise ValueError(f"{reference.text}, row {number}: {said} isn't a row of {reference.dataset!r}") from error
    if answer is None:
        raise ValueError(f"{reference.text}, row {number}: no answer is given; take a split with published answers")
    name = row.get("id") or f"{reference.dataset}-{reference.split}-{number}"
    # What is no text, or no list of texts, is left to the check of items.
    texts = [question, *choices] if isinstance(choices, list) else [question]
    question, *stripped = (text.strip() if isinstance(text, str) else text for text in texts)
    return {"id": name, "question": question, "choices": stripped or choices, "answer": answer}


def _other_rows(reference: Reference, table: Any) -> list[dict[str, Any]]:
    if TEXT_COLUMN in table.column_names and "choices" not in table.column_names:
        texts = enumerate(_texts(reference, table, TEXT_COLUMN))
        return [{"id": str(number), "text": text} for number, text in texts if text.strip()]
    _require_columns(reference, table, CHOICE_COLUMNS)
    return list(table.select_columns(list(CHOICE_COLUMNS)))


def _texts(reference: Reference, table: Any, column: str) -> Iterator[str]:
    """The column's texts, checked: a missing one would be read as the word None, or as a blank line."""
    for number, text in enumerate(table[column]):
        if not isinstance(text, str):
            raise ValueError(f"{reference.text}, row {number}: `{column}` is {text!r}; give a string of characters")
        yield text


def _require_columns(reference: Reference, table: Any, wanted: Sequence[str]) -> None:
    missing = [name for name in wanted if name not in table.column_names]
    if missing:
        text = "" if reference.known else f", or `{TEXT_COLUMN}`"
        found = ", ".join(table.column_names)
        raise ValueError(f"{reference.text}: the columns are {found}; needed are {', '.join(wanted)}{text}")


def _load(reference: Reference) -> Any:
    """The split as a table of `datasets`, which runs no code of the set's own unless it is asked to."""
    import datasets  # type: ignore[import-untyped]

    path, options = _place(reference)
    had_bars = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        splits = datasets.load_dataset(path, **options)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        # The library's own sentence about a file that it can't read says no more than that.
        told = error.__cause__ if isinstance(error, datasets.exceptions.DatasetGenerationError) else error
        message = f"{reference.text}: {' '.join(str(told or error).split())}"
        if isinstance(error, OSError) and not reference.folder:
            message += f"; without the hub give a folder: `{reference.text}@FOLDER`"
        raise (OSError if isinstance(error, OSError) else ValueError)(message) from error
    finally:
        if had_bars:
            datasets.enable_progress_bars()
    if reference.split not in splits:
        raise ValueError(f"{reference.text}: there is no split {reference.split!r}; there are {', '.join(splits)}")
    return splits[reference.split]


def _place(reference: Reference) -> tuple[str, dict[str, Any]]:
    """What `load_dataset` is given: a repository or a folder, and options."""
    known = reference.known
    if reference.folder is None:
        if Path(reference.hub).is_dir():  # `datasets` would read it without a word
            folder_name = f"{reference.text}@{reference.hub}"
            raise ValueError(
                f"{reference.text}: {reference.hub!r} is also a folder here; to read it, write `{folder_name}`"
            )
        return reference.hub, {"name": reference.config, "revision": known.revision if known else None}
    folder = Path(reference.folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{reference.text}: folder {reference.folder!r} doesn't exist")
    # A configuration's files lie in a folder of their own: read alone, they can't be mixed with another's.
    inner = folder / (reference.config or (known.folder if known else None) or "")
    return str((inner if inner.is_dir() else folder).resolve()), {}
