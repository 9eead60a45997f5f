"""Read JSON, and headers of safetensors files, that somebody else wrote: whole and in bounded memory, or not at all."""

import json
import reprlib
from collections import Counter
from pathlib import Path
from typing import Any

from .errors import StoreError
from .places.files import open_regular, read_regular
from .size import format_size

MAX_BYTES = 32 * 2**20
"""Bytes of the largest document that is parsed; a run of a thousand components has some 3 MB of metadata."""
MAX_CONTAINERS = 2**20
"""Objects and lists in it, each of which takes some 70 bytes in memory however small it is in the file."""


def read_json(path: Path) -> Any:
    """Value that the JSON file at `path` holds.

    Raises
    ------
    FileNotFoundError
        If there is none.
    StoreError
        If it isn't a regular file, or as `parse_json`.
    """
    return parse_json(read_regular(path, at_most=MAX_BYTES), str(path))


def parse_json(content: bytes, name: str) -> Any:
    """Value that JSON holds.

    Raises
    ------
    StoreError
        If it isn't JSON in UTF-8, is larger or nested deeper than any document of ours, has a key twice in an object,
        or spells half a character; the message calls it by its `name`.
    """
    if len(content) > MAX_BYTES or content.count(b"{") + content.count(b"[") > MAX_CONTAINERS:
        raise StoreError(f"`{name}`, {format_size(len(content))} of JSON, holds more than is read; look at what it is")
    try:
        document = json.loads(content, object_pairs_hook=distinct)
        if b"\\ud" in content.lower():  # JSON can spell half of a surrogate pair, which no file can hold
            json.dumps(document, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise StoreError(f"`{name}` holds half of a character ({error.reason}); write it again") from error
    except RecursionError as error:
        raise StoreError(f"`{name}` is nested too deep; write it again") from error
    except ValueError as error:  # also bytes that aren't text
        raise StoreError(f"`{name}` isn't JSON: {error}; copy or write it again") from error
    return document


def distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object of these keys and values; raises ValueError if a key comes twice, since readers differ on it."""
    document = dict(pairs)
    if len(document) < len(pairs):
        twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"{reprlib.repr(twice)} is twice in one object")
    return document


MAX_FILE_BYTES = 2**40
"""Bytes of the largest file that is opened; nothing of it is read but the header."""


def read_tensor_header(path: Path) -> tuple[dict[str, Any], int]:
    """Name of each tensor -> its `dtype`, `shape` and `data_offsets`; and the byte at which the first of them begins.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    StoreError
        If it isn't a regular file, or its header is longer than the file, or no JSON object.

    Notes
    -----
    The format is that of safetensors: the header's length in 8 bytes, JSON, then all tensors. Whether the offsets fit
    the file is for `safe_open` to say.
    """
    with open_regular(path, at_most=MAX_FILE_BYTES) as file:
        n_bytes = int.from_bytes(file.read(8), "little")
        content = file.read(min(n_bytes, MAX_BYTES))
        if len(content) < max(n_bytes, 2):
            raise StoreError(
                f"{str(path)!r} is damaged: it announces {n_bytes} bytes of header, of which {len(content)} can be "
                "read; copy or save the adapter again"
            )
    header = parse_json(content, f"{path}, header")
    if not isinstance(header, dict):
        raise StoreError(f"{str(path)!r} is damaged: its header is no object; copy or save the adapter again")
    return {key: facts for key, facts in header.items() if key != "__metadata__"}, 8 + n_bytes
