"""Header of a file of safetensors, as far as it can be trusted before any of them is read."""

from pathlib import Path
from typing import Any

from .errors import StoreError
from .json_document import MAX_BYTES, parse_json
from .places.regular_file import open_regular

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
