"""Data sets of the Hugging Face hub, or of a folder with their files: seven known sets, and any other."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from textwrap import shorten
from typing import Any, NamedTuple

from .records import FIELDS

# Names don't begin with "." or "/", and a split has no dots: no data file's path looks like this, nor `s3://` or `C:\`.
_PART = r"[A-Za-z0-9][\w.-]*"
_REFERENCE = re.compile(rf"(?P<name>{_PART}(?:/{_PART}){{0,2}}):(?P<split>\w+)(?:@(?P<folder>.+))?")
CONVERTED = "refs/convert/parquet"
"""Revision with the hub's own conversion of a set published as a script, which `datasets` no longer runs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HubSet:
    """A data set on the Hugging Face hub: its place, and the columns that make questions or one text of its rows."""

    hub: str
    """Name of the repository."""
    config: str | None = None
    """Name of the configuration; None if there is only one."""
    revision: str | None = None
    """Branch or commit; None for the newest."""
    folder: str | None = None
    """Folder of the files in the repository; None if it has the configuration's name."""
    id: str | None = None
    """Column with a row's id; None if rows are numbered."""
    question: str = ""
    choices: tuple[str, ...] = ()
    """One column for each choice, or one column that lists all, as texts or as `text` and `label`."""
    answer: str = ""
    """Column with the label or the number of the right choice."""
    first: int = 0
    """Number of the first choice."""
    text: str = ""
    line: str = "{}"
    """Format of a text in the original file."""
    blank: str = ""
    """Text of the original file for an empty one."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns to read: that of the text, or those of id, question, choices and answer."""
        names = (self.text,) if self.text else (self.id, self.question, *self.choices, self.answer)
        return tuple(filter(None, names))


_ARC = partial(HubSet, hub="allenai/ai2_arc", id="id", question="question", choices=("choices",), answer="answerKey")

KNOWN_SETS = {
    "piqa": HubSet(
        hub="ybisk/piqa",
        revision=CONVERTED,
        folder="plain_text",
        question="goal",
        choices=("sol1", "sol2"),
        answer="label",
    ),
    "arc_easy": _ARC(config="ARC-Easy"),
    "arc_challenge": _ARC(config="ARC-Challenge"),
    "winogrande": HubSet(
        hub="allenai/winogrande",
        config="winogrande_xl",
        question="sentence",
        choices=("option1", "option2"),
        answer="answer",
        first=1,
    ),
    "hellaswag": HubSet(hub="Rowan/hellaswag", folder="data", question="ctx", choices=("endings",), answer="label"),
    # The hub keeps WikiText's blank lines (" \n") as "", and PTB's without the spaces around them.
    "wikitext2": HubSet(hub="Salesforce/wikitext", config="wikitext-2-raw-v1", text="text", blank=" \n"),
    "ptb": HubSet(
        hub="ptb-text-only/ptb_text_only", revision=CONVERTED, folder="penn_treebank", text="sentence", line=" {} \n"
    ),
}
"""Name in lorascope -> the set."""


class Reference(NamedTuple):
    """A split of a data set on the hub or in a folder, named as `NAME:SPLIT` or `NAME:SPLIT@FOLDER`."""

    text: str
    """The reference as it was written."""
    dataset: str
    """Name of the data set in a run."""
    split: str
    source: HubSet
    """The data set; if it isn't one of the seven it has no columns, and without a repository no `hub`."""
    folder: str | None
    """Folder of the files; None for the hub."""


def parse_reference(text: str) -> Reference | None:
    """Parse `NAME:SPLIT` or `NAME:SPLIT@FOLDER`, a split of a data set; None if the text is a file's path.

    It is one if it names an existing file or can only be a path.

    Parameters
    ----------
    text
        `NAME:SPLIT`, where NAME is one of the seven sets, one with another configuration
        (`winogrande/winogrande_l`), or `owner/name` or `owner/name/configuration` of the hub. With `@FOLDER` after it
        the files are read from there, and NAME may be any word.

    Raises
    ------
    ValueError
        If NAME is a single word that names no set, and no folder is given.
    """
    match = _REFERENCE.fullmatch(text)
    if match is None or Path(text).exists():
        return None
    name, split, folder = match["name"], match["split"], match["folder"]
    first, _, rest = name.partition("/")
    if first in KNOWN_SETS and "/" not in rest:
        known = KNOWN_SETS[first]
        return Reference(text, first, split, replace(known, config=rest or known.config), folder)
    owner, _, config = rest.partition("/")
    if not rest and folder is None:
        raise ValueError(
            f"{text!r} is no file, and {name!r} no known data set ({', '.join(KNOWN_SETS)}); give a path in .jsonl, "
            ".parquet or .txt, one of these, or `owner/name:split` of the hub"
        )
    # A data set's name is part of file names, whose parts dots divide.
    dataset = re.sub(r"[./]", "_", rest or name)
    return Reference(
        text, dataset, split, HubSet(hub=f"{first}/{owner}" if rest else "", config=config or None), folder
    )


def require_folder(reference: Reference) -> None:
    """Raise FileNotFoundError if a data set's reference names a folder that doesn't exist."""
    if reference.folder is not None and not Path(reference.folder).is_dir():
        raise FileNotFoundError(f"{reference.text}: folder {reference.folder!r} doesn't exist")


def hub_source(path: str) -> dict[str, str | None] | None:
    """Return a data set's repository, configuration, revision, split and folder as JSON values; None for a file."""
    reference = parse_reference(path)
    if reference is None:
        return None
    source = reference.source
    place = {"hub": source.hub, "config": source.config, "revision": None if reference.folder else source.revision}
    return {**place, "split": reference.split, "folder": reference.folder}


def read_rows(reference: Reference) -> list[dict[str, Any]]:
    """Read a split of a data set; return each row's fields (id, question, choices, ...) as a dictionary, in order.

    A known set gives id, question, choices and answer of each row, or one text.

    Nothing that comes with the data is executed.

    Raises
    ------
    ImportError
        If `datasets` isn't installed.
    OSError
        If the hub can't be reached, or there is no such set or folder.
    ValueError
        If there is no such split, a column is missing, or the answers aren't published.

    Notes
    -----
    In the seven sets, white space around questions and choices is removed and nothing else is changed; a row's id is
    its own, or `dataset-split-N` with N counted from 0. WikiText-2 and PTB become one text, that of the original file.
    Other sets give the columns that `read_items` knows, unchanged.
    """
    table, known = _load_split(reference), reference.source
    if not known.columns:
        columns = [name for name in table.column_names if name in FIELDS]
        return list(table.select_columns(columns or table.column_names))
    _require_columns(reference, table, known.columns)
    if known.text:
        lines = (known.line.format(text or known.blank) for text in _checked_texts(reference, table, known.text))
        return [{"id": f"{reference.dataset}.{reference.split}", "text": "".join(lines)}]
    rows = enumerate(table.select_columns(list(known.columns)))
    return [_question_fields(reference, number, row) for number, row in rows]


def _question_fields(reference: Reference, number: int, row: Mapping[str, Any]) -> dict[str, Any]:
    """Return id, question, choices and answer of a known data set's row; ValueError if it has no answer.

    Values that aren't texts are checked when the item is made.
    """
    known, place = reference.source, f"{reference.text}, row {number}"
    try:
        choices = [row[column] for column in known.choices]
        if len(choices) == 1:
            (choices,) = choices
        labels = [str(known.first + index) for index in range(len(choices))]
        if isinstance(choices, dict):  # ARC's: a few items number their choices 1 to 4 where others have letters
            labels, choices = choices["label"], choices["text"]
            if len({*labels}) != len(labels) or len(labels) != len(choices):
                raise TypeError("each text needs a label of its own")
    except (TypeError, LookupError) as error:
        raise ValueError(f"{place}: {shorten(repr(row), 160)} isn't a row of {reference.dataset!r}") from error
    answer = str(row[known.answer])
    if answer not in labels:
        raise ValueError(f"{place}: no answer is given; take a split with published answers")
    texts = [row[known.question], *(choices if isinstance(choices, list) else ())]
    question, *stripped = (text.strip() if isinstance(text, str) else text for text in texts)
    name = known.id and row[known.id]
    return {
        "id": name or f"{reference.dataset}-{reference.split}-{number}",
        "question": question,
        "choices": stripped or choices,
        "answer": labels.index(answer),
    }


def _checked_texts(reference: Reference, table: Any, column: str) -> Iterator[str]:
    """Yield the texts of a table's column; raise ValueError if one is missing.

    A missing text would become the word None or a blank line.
    """
    for number, text in enumerate(table[column]):
        if not isinstance(text, str):
            raise ValueError(f"{reference.text}, row {number}: `{column}` is {text!r}; give a string of characters")
        yield text


def _require_columns(reference: Reference, table: Any, names: Sequence[str]) -> None:
    """Raise ValueError if the data set's table lacks one of these columns."""
    missing = [name for name in names if name not in table.column_names]
    if missing:
        existing = ", ".join(table.column_names)
        raise ValueError(f"{reference.text}: the columns are {existing}; needed are {', '.join(names)}")


def _load_split(reference: Reference) -> Any:
    """Load a data set's split from the hub or a folder as a table of `datasets`, without running the set's code."""
    import datasets  # type: ignore[import-untyped]

    source, path = reference.source, reference.source.hub
    options: dict[str, Any] = {"name": source.config, "revision": source.revision}
    if reference.folder is not None:
        folder = Path(reference.folder)
        require_folder(reference)
        # A configuration's files are in their own folder: only these are read, not another configuration's.
        inner = folder / (source.config or source.folder or "")
        path, options = str((inner if inner.is_dir() else folder).resolve()), {}
    elif Path(path).is_dir():  # `datasets` would read it instead of the hub
        written = f"{reference.text}@{path}"
        raise ValueError(f"{reference.text}: {path!r} is also a folder here; to read it, write `{written}`")
    had_bars = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        splits = datasets.load_dataset(path, **options)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        # The library's own message about a file that it can't read gives no reason.
        cause = error.__cause__ if isinstance(error, datasets.exceptions.DatasetGenerationError) else error
        message = f"{reference.text}: {' '.join(str(cause or error).split())}"
        if isinstance(error, OSError) and not reference.folder:
            message += f"; without the hub give a folder: `{reference.text}@FOLDER`"
        raise (OSError if isinstance(error, OSError) else ValueError)(message) from error
    finally:
        if had_bars:
            datasets.enable_progress_bars()
    if reference.split not in splits:
        raise ValueError(f"{reference.text}: there is no split {reference.split!r}; there are {', '.join(splits)}")
    return splits[reference.split]
