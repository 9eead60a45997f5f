"""Sources of items: files, data sets of the hub, and data in memory."""

import reprlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from io import TextIOWrapper
from pathlib import Path
from typing import Any

from lorascope.stores.places.files import open_regular, read_regular
from lorascope.stores.size import format_size

from .hub import Reference, parse_reference, read_rows, require_folder
from .items import Item, TextItem
from .records import FIELDS, KNOWN_FORMATS, TOKEN_FIELDS, parse_records

MAX_FILE_BYTES = 2**30
"""Maximum bytes of a file of data or prompts, and of a Parquet file's rows in memory."""
FILE_TYPES = (".jsonl", ".parquet", ".txt")
_BATCH_ROWS = 1024


def read_items(source: str | Path | Iterable[Any], *, name: str | None = None) -> list[Item]:
    """Read the items of a file, a data set of the Hugging Face hub, or data in memory, in order.

    Parameters
    ----------
    source
        `<dataset>[.<split>].jsonl` or `.parquet`: one item per line or row, all in one of the formats below.
        `<dataset>[.<split>].txt`: one plain text. Texts are UTF-8.
        `NAME:SPLIT` or `NAME:SPLIT@FOLDER`: see `parse_reference` and `read_rows`; an existing file has precedence.
        A list of dictionaries, a `datasets.Dataset` or `IterableDataset`, or another iterable of dictionaries; a
        DataLoader gives one per batch, with `input_ids` (row, position).
    name
        `<dataset>[.<split>]` of the items; by default the file's name, or the name in a `Dataset`, or `data`.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the name has another ending, there are no items, or a line isn't as described; names file, line and field.
    OSError, ImportError
        See `read_rows`.

    Notes
    -----
    An item has `messages`; `prompt` and `completion`, both as texts or both as messages; `text`; `question`, `choices`
    (2 to 26 texts) and `answer` (index into `choices`, from 0); or `input_ids`, with `attention_mask` and `labels`.
    With messages there may be `tools` and `chat_template_kwargs` for the chat template. If `id` is missing, it is file
    and line (`chats.jsonl:3`), or name and number. Other fields, blank lines and blank texts are ignored.
    """
    if not isinstance(source, str | Path):
        return _memory_items(source, name)
    reference = parse_reference(str(source))
    if reference is not None:
        return _hub_items(reference, name)
    require_data(source)
    path = Path(source)
    dataset, split = _split_name(name or path.stem)
    if path.suffix == ".parquet":
        rows = ((f"row {n}", f"{path.name}:{n}", row) for n, row in enumerate(_parquet_rows(path)))
        return _parse_items(rows, str(path), dataset, split, "file")
    text = read_text(path, "data file", "one in .jsonl, .parquet or .txt")
    if not text.strip():
        raise ValueError(f"{path}: the file is empty; give a data file with items or text")
    if path.suffix == ".txt":
        return [TextItem(id=path.stem, dataset=dataset, split=split, text=text)]
    # Not splitlines: it would also break at U+2028 and U+0085, which JSON allows within a string.
    lines = enumerate(text.split("\n"), start=1)
    numbered = ((f"line {n}", f"{path.name}:{n}", line) for n, line in lines if line.strip())
    return _parse_items(numbered, str(path), dataset, split, "file")


def require_data(path: str | Path) -> None:
    """Raise an error, as `read_items` does, if data don't exist or a .jsonl file's first line isn't an item.

    The hub isn't asked.
    """
    reference = parse_reference(str(path))
    if reference is not None:
        require_folder(reference)
        return
    if Path(path).suffix not in FILE_TYPES:
        raise ValueError(
            f"data file is {str(path)!r}; its name must end in .jsonl or .parquet (items) or .txt (plain text)"
        )
    if not Path(path).exists():
        raise FileNotFoundError(f"data file {str(path)!r} doesn't exist; name one in .jsonl, .parquet or .txt")
    if Path(path).suffix == ".jsonl":
        with suppress(UnicodeDecodeError), open_regular(Path(path), at_most=MAX_FILE_BYTES) as file:
            lines = enumerate(TextIOWrapper(file, encoding="utf-8-sig"), start=1)
            first = next(((f"line {n}", str(n), line) for n, line in lines if line.strip()), None)
            parse_records([first] if first else [], source=str(path), dataset="", split="")


def read_item_files(setting: str, paths: Sequence[str]) -> dict[str, list[Item]]:
    """Read all data files of a setting; return file -> items, and raise ValueError if two hold the same item.

    Raises
    ------
    ValueError
        If a file is named twice, or two files contain the same item.
    FileNotFoundError, ValueError, OSError, ImportError
        See `read_items`.
    """
    if len(set(paths)) < len(paths):
        raise ValueError(f"`{setting}` names a file twice: {list(paths)}")
    files = {path: read_items(path) for path in paths}
    owners: dict[tuple[str, str, str], str] = {}
    for path, items in files.items():
        for item in items:
            first = owners.setdefault((item.dataset, item.split, item.id), path)
            if first != path:
                raise ValueError(f"item {item.id!r} of {item.dataset!r} stands in both {first!r} and {path!r}")
    return files


def read_text(path: Path, what: str, alternatives: str) -> str:
    """Return a UTF-8 file's text with Unix line ends; errors call the file `what` and name `alternatives`."""
    try:
        text = read_regular(path, at_most=MAX_FILE_BYTES).decode("utf-8-sig")  # some editors begin a file with a mark
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{what} {str(path)!r} doesn't exist; name {alternatives}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: byte {error.start} isn't UTF-8; save the file as UTF-8") from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _split_name(name: str) -> tuple[str, str]:
    """Return (data set, split) of a name `<dataset>[.<split>]`; a missing split is an empty text."""
    dataset, split, *_ = [*name.split("."), ""]
    return dataset, split


def _parse_items(
    records: Iterable[tuple[str, str, Any]], source: str, dataset: str, split: str, what: str
) -> list[Item]:
    """Return the items of records (`parse_records`); raise ValueError, naming the source, if they have no items."""
    items = parse_records(records, source=source, dataset=dataset, split=split)
    if not items:
        raise ValueError(f"{source}: the {what} holds no items; give one that isn't empty")
    return items


def _hub_items(reference: Reference, name: str | None) -> list[Item]:
    """Read the items of a data set's split from the hub or a folder; `name` replaces the names of set and split."""
    rows = ((f"row {number}", str(number), row) for number, row in enumerate(read_rows(reference)))
    dataset, split = _split_name(name) if name else (reference.dataset, reference.split)
    return _parse_items(rows, reference.text, dataset, split, "split")


def _parquet_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Yield a Parquet file's rows as dictionaries of the known columns; raise ValueError if it can't be read."""
    import pyarrow as pa  # type: ignore[import-untyped]
    import pyarrow.parquet as pq  # type: ignore[import-untyped]

    n_bytes = 0
    with open_regular(path, at_most=MAX_FILE_BYTES) as file:
        try:
            parquet = pq.ParquetFile(file)
            columns = parquet.schema_arrow.names
            if not set(columns) & set(FIELDS):
                names = reprlib.repr(columns)[1:-1]
                raise ValueError(f"the format isn't known: the columns are {names}; known are {KNOWN_FORMATS}")
            known = [column for column in columns if column in FIELDS]
            for batch in parquet.iter_batches(_BATCH_ROWS, columns=known):
                n_bytes += batch.nbytes
                if n_bytes > MAX_FILE_BYTES:  # a small file may unpack to any number of bytes
                    raise ValueError(f"its rows take more than {format_size(MAX_FILE_BYTES)}; give it in parts")
                yield from batch.to_pylist()
        except (pa.ArrowException, OSError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"{path}: it can't be read as Parquet: {reason}") from error


def _memory_items(source: Iterable[Any], name: str | None) -> list[Item]:
    """Return the items of an iterable of dictionaries, such as a `Dataset` or DataLoader; ValueError for other data."""
    if isinstance(source, Mapping) or not isinstance(source, Iterable):
        keys = f" with the keys {reprlib.repr(list(source))[1:-1]}" if isinstance(source, Mapping) else ""
        raise ValueError(
            f"the data is a {type(source).__name__}{keys}; give a path, a list of dictionaries, one split of a "
            "data set, or a DataLoader"
        )
    if name:
        dataset, split = _split_name(name)
    else:  # the name in a `datasets.Dataset`
        own_name = getattr(getattr(source, "info", None), "dataset_name", None)
        dataset, split = own_name if isinstance(own_name, str) else "data", str(getattr(source, "split", None) or "")
    records = (record for element in source for record in _unbatched_records(element))
    numbered = ((f"item {number}", f"{dataset}:{number}", record) for number, record in enumerate(records))
    return _parse_items(numbered, dataset, dataset, split, "data")


def _unbatched_records(element: Any) -> Iterator[Any]:
    """Yield the records in one element of the data: a dictionary's rows if it is a batch, else itself."""
    if isinstance(element, str):
        raise ValueError(f"the data gives the text {reprlib.repr(element)}; give one dictionary per item, or per batch")
    if not isinstance(element, Mapping):
        yield element
        return
    # Tensors and arrays of any library become lists.
    record = {key: value.tolist() if hasattr(value, "tolist") else value for key, value in element.items()}
    ids = record.get("input_ids")
    if not (isinstance(ids, list) and ids and isinstance(ids[0], list)):
        yield record
        return
    columns = {key: record[key] for key in ("id", *TOKEN_FIELDS) if record.get(key) is not None}
    for key, rows in columns.items():
        if not isinstance(rows, list) or len(rows) != len(ids):
            raise ValueError(f"a batch of {len(ids)} `input_ids` has {reprlib.repr(rows)} as `{key}`; give one per row")
    for row in zip(*columns.values(), strict=True):
        yield dict(zip(columns, row, strict=True))
