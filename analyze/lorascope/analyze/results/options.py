"""Options of analysis: their values, their defaults, and the names of files, checked before any large import."""

import os
from collections.abc import Mapping
from numbers import Integral
from pathlib import Path
from typing import Literal

from lorascope.stores.errors import StoreError
from lorascope.stores.json_document import read_json

Reduction = Literal["mean", "sum", "last", "answer"]
"""Ways of combining the values of a sample's tokens at a component into one number."""
Unit = Literal["nat", "bit", "sqrt"]
"""Units of js; `sqrt` is the root of nats."""
Residual = Literal["relative", "absolute"]
"""Kinds of residuals that a fit of a scaling law can minimise."""
N_SHUFFLES = 19
"""Default number of shuffles for a null distribution; with it p can be as small as 0.05."""
SAMPLE_KEYS = ("dataset", "split", "prompt", "length")
COMPONENT_KEYS = ("component", "layer", "kind", "rank")
TOKEN_KEYS = ("role", "position", "text")
KEYS = (*SAMPLE_KEYS, *COMPONENT_KEYS, *TOKEN_KEYS)
"""Keys that `group_by` accepts."""
EXPERT = "expert"
"""Key that `experts` accepts with those of `group_by`."""
RUN_KEYS = ("run", "model", "adapter", "rank", "stream", "datasets")
"""Keys of a whole result that `group_runs` accepts."""


def require_whole(name: str, value: object, least: int = 1) -> None:
    """Raise ValueError unless the value of the option `name` is an integer of at least `least`."""
    if not isinstance(value, Integral) or isinstance(value, bool) or value < least:
        raise ValueError(f"`{name}` is {value!r}; give a whole number of at least {least}")


RESULT_FORMATS = {".zarr": "Zarr", ".nc": "NetCDF"}
"""Suffix of the file name of a result -> its format."""
TABLE_FORMATS = {".csv": "CSV", ".parquet": "Parquet", ".json": "JSON", **RESULT_FORMATS}
"""Suffix of the file name of a table -> its format."""
PAIR_FORMATS = {".npz": "NumPy"}
"""Suffix of the file name of exported pairs -> its format."""


def is_result(path: str) -> bool:
    """Return whether a path is that of a saved result and not of a run, by its suffix or its root attributes."""
    if path.endswith(".nc"):
        return True
    try:
        attributes = read_json(Path(path, "zarr.json"))["attributes"]
        return "format" not in attributes and any(
            name in attributes for name in ("digest", "chunks_digest", "lorascope")
        )
    except (OSError, StoreError, LookupError, TypeError):
        return False


def refuse_target(target: Path, formats: Mapping[str, str] = RESULT_FORMATS, *, option: str = "out") -> Path:
    """Return `target`; raise if its suffix isn't in `formats`, it exists, or it can't be created."""
    if target.suffix not in formats:
        endings = [f"{suffix} ({name})" for suffix, name in formats.items()]
        named = " or ".join(filter(None, (", ".join(endings[:-1]), endings[-1])))
        raise ValueError(f"`{option}` is {str(target)!r}; its name must end in {named}")
    if target.exists():
        raise FileExistsError(f"`{target}` is there already; name another, or delete it first")
    refuse_unwritable(target, option)
    return target


def refuse_unwritable(target: Path, option: str) -> None:
    """Raise unless `target`, the value of this option, can be created: on this machine, and not inside a store."""
    if "://" in str(target) or ":/" in target.as_posix()[1:]:
        raise ValueError(f"`{option}` is {str(target)!r}; a result goes to a folder of this machine")
    folders = Path(os.path.abspath(target)).parents  # resolves `..`, which may lead out of a store
    inside = next((folder for folder in folders if (folder / "zarr.json").exists()), None)
    if inside is not None:
        raise ValueError(f"`{option}` is {str(target)!r}, inside the store `{inside}`; name a place outside of it")
    parent = next(folder for folder in folders if folder.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        what = "can't be written to" if parent.is_dir() else "is a file"
        raise PermissionError(f"`{target}` can't be made: `{parent}` {what}; name another place")
