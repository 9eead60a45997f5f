"""Conversions of GGUF files to safetensors, kept in the user's cache: reading one again is thirty times as fast."""

import hashlib
import json
import os
import shutil
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from lorascope.stores.places.files import atomic_write

SPARE = 2
"""Least free space of the disk for a conversion to be kept, as a multiple of its size."""


def converted_folder(file: Path, dtype: str) -> Path:
    """Return the folder of a GGUF file's conversion to `dtype`, a model like any other; it may not exist yet.

    It lies in `lorascope/models` of the user's cache (`XDG_CACHE_HOME`, by default `~/.cache`). Another size, time or
    inode of the file gives another folder, and so does another version of transformers, which reads GGUF.
    """
    status, reader = file.stat(), ""
    with suppress(PackageNotFoundError):  # without it nothing is loaded, which whoever needs it says
        reader = version("transformers")
    known = (status.st_size, status.st_mtime_ns, status.st_ino, "float32" if dtype == "auto" else dtype, reader)
    key = hashlib.sha256(json.dumps(known).encode()).hexdigest()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "lorascope" / "models" / f"{file.resolve().stem}-{key[:16]}"


def describe_loading(source: str, dtype: str = "auto") -> str:
    """Return a line to print before a model is loaded: its name, and where a GGUF file's conversion lies."""
    file = Path(source).expanduser()
    if file.suffix != ".gguf" or not file.is_file():
        return f"loading {source}"
    folder = converted_folder(file, dtype)
    if folder.is_dir():
        return f"loading {source}, as converted to safetensors in {folder}"
    return f"loading {source}, which is converted to safetensors once, in {folder}"


def keep_conversion(model: Any, tokenizer: Any, folder: Path) -> None:
    """Save a model that was read from a GGUF file in the folder of its conversion, if that can be written.

    It isn't where the disk has too little space, in a process of several that isn't the first, or where it exists.
    """
    if os.environ.get("RANK", "0") != "0":
        return
    with suppress(OSError):  # such as a home that can't be written: the model is in memory, and no worse than before
        folder.parent.mkdir(parents=True, exist_ok=True)
        if shutil.disk_usage(folder.parent).free < SPARE * model.get_memory_footprint():
            return
        with atomic_write(folder) as partial:
            model.save_pretrained(partial)
            tokenizer.save_pretrained(partial)
            # Saving names the architecture, as a GGUF file doesn't: without it, the configuration keeps its hash.
            model.config.architectures = None
            model.config.save_pretrained(partial)
