"""Options of analysis: their values, their defaults, and the names of files, checked before any large import."""

import os
from collections.abc import Mapping
from numbers import Integral
from pathlib import Path
from typing import Literal

Reduction = Literal["mean", "sum", "last", "answer"]
"""Reductions of a sample's tokens to one number at a component."""
Unit = Literal["nat", "bit", "sqrt"]
"""Units of js; `sqrt` is the root of nats."""
Residual = Literal["relative", "log", "absolute"]
"""Differences that a fit of a scaling law makes small."""
N_SHUFFLES = 19
"""Shuffles of the null by default: p can be 0.05."""
SAMPLE_KEYS = ("dataset", "split", "prompt", "length")
COMPONENT_KEYS = ("component", "layer", "kind", "rank")
TOKEN_KEYS = ("role", "position", "text")
KEYS = (*SAMPLE_KEYS, *COMPONENT_KEYS, *TOKEN_KEYS)
"""Keys by which `group_by` takes a result apart."""
RUN_KEYS = ("run", "model", "adapter", "rank", "stream", "datasets")
"""Keys that tell several results apart."""


def require_whole(name: str, value: object, least: int = 1) -> None:
    """Raise ValueError unless an option is a whole number of at least so much."""
    if not isinstance(value, Integral) or isinstance(value, bool) or value < least:
        raise ValueError(f"`{name}` is {value!r}; give a whole number of at least {least}")


RESULTS = {".zarr": "Zarr", ".nc": "NetCDF"}
"""Endings of result names, and their formats."""
TABLES = {".csv": "CSV", ".parquet": "Parquet", ".json": "JSON", **RESULTS}
"""Endings of table names, and their formats."""
PAIRS = {".npz": "NumPy"}
"""Endings of names of exported pairs, and their formats."""


def refuse_target(target: Path, formats: Mapping[str, str] = RESULTS, *, option: str = "out") -> Path:
    """The name itself; raises unless a file or folder of these formats may be made under it."""
    if target.suffix not in formats:
        endings = [f"{suffix} ({name})" for suffix, name in formats.items()]
        named = " or ".join(filter(None, (", ".join(endings[:-1]), endings[-1])))
        raise ValueError(f"`{option}` is {str(target)!r}; its name must end in {named}")
    if target.exists():
        raise FileExistsError(f"`{target}` is there already; name another, or delete it first")
    refuse_elsewhere(target, option)
    return target


def refuse_elsewhere(target: Path, option: str) -> None:
    """Raise, naming the option, unless this is a place of this machine outside of stores where things can be made."""
    if "://" in str(target) or ":/" in target.as_posix()[1:]:
        raise ValueError(f"`{option}` is {str(target)!r}; a result goes to a folder of this machine")
    folders = Path(os.path.abspath(target)).parents  # without the `..` that may lead out of a store
    inside = next((folder for folder in folders if (folder / "zarr.json").exists()), None)
    if inside is not None:
        raise ValueError(f"`{option}` is {str(target)!r}, inside the store `{inside}`; name a place outside of it")
    parent = next(folder for folder in folders if folder.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        what = "can't be written to" if parent.is_dir() else "is a file"
        raise PermissionError(f"`{target}` can't be made: `{parent}` {what}; name another place")
