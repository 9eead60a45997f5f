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
"""Size of the largest document that is parsed; a run of a thousand components has 3 MB of metadata."""
MAX_CONTAINERS = 2**20
"""Most objects and lists in a document; even an empty one takes about 70 bytes of memory."""


def read_json(path: Path) -> Any:
    """Return the parsed value of the JSON file at `path`, which must be a regular file of at most 32 MiB.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    StoreError
        If it isn't a regular file, or what `parse_json` refuses.
    """
    return parse_json(read_regular(path, at_most=MAX_BYTES), str(path))


def parse_json(content: bytes, name: str) -> Any:
    """Return the parsed value of a JSON document, given as bytes; errors call it by its `name`.

    Raises
    ------
    StoreError
        If it isn't JSON in UTF-8, is larger or nested deeper than any document of ours, has a key twice in an object,
        or contains half of a surrogate pair.
    """
    if len(content) > MAX_BYTES or content.count(b"{") + content.count(b"[") > MAX_CONTAINERS:
        size = format_size(len(content))
        raise StoreError(f"`{name}`, {size} of JSON, is more than this reader accepts; check that it's the right file")
    try:
        document = json.loads(content, object_pairs_hook=object_with_unique_keys)
        if b"\\ud" in content.lower():  # JSON can contain half of a surrogate pair, which can't be written to a file
            json.dumps(document, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise StoreError(f"`{name}` holds half of a character ({error.reason}); write it again") from error
    except RecursionError as error:
        raise StoreError(f"`{name}` is nested too deep; write it again") from error
    except ValueError as error:  # also bytes that aren't text
        raise StoreError(f"`{name}` isn't JSON: {error}; copy or write it again") from error
    return document


def object_with_unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object's (key, value) pairs as a dict; raises ValueError if a key occurs twice.

    Readers would differ on the value of such a key.
    """
    document = dict(pairs)
    if len(document) < len(pairs):
        twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"{reprlib.repr(twice)} is twice in one object")
    return document


MAX_TENSOR_FILE_BYTES = 2**40
"""Size of the largest file of tensors that is opened; only its header is read."""


def read_tensor_header(path: Path) -> tuple[dict[str, Any], int]:
    """Return the header of a safetensors file, {tensor: `dtype`, `shape`, `data_offsets`}, and its length in bytes.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    StoreError
        If it isn't a regular file, or its header is longer than the file or isn't a JSON object.

    Notes
    -----
    The file has the JSON's length in 8 bytes, the JSON, then all tensors, so the first tensor begins at the returned
    length. Whether the offsets fit the file is checked by `safe_open`.
    """
    with open_regular(path, at_most=MAX_TENSOR_FILE_BYTES) as file:
        n_bytes = int.from_bytes(file.read(8), "little")
        content = file.read(min(n_bytes, MAX_BYTES))
        if len(content) < max(n_bytes, 2):
            raise StoreError(
                f"{str(path)!r} is damaged: it announces {n_bytes} bytes of header, but has {len(content)}; "
                "copy or save the adapter again"
            )
    header = parse_json(content, f"{path}, header")
    if not isinstance(header, dict):
        raise StoreError(f"{str(path)!r} is damaged: its header isn't a JSON object; copy or save the adapter again")
    return {key: facts for key, facts in header.items() if key != "__metadata__"}, 8 + n_bytes
