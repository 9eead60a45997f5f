"""Projected pairs as `.npz`, for estimators of elsewhere: the same numbers that ours get."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lorascope.stores.places.atomic_write import atomic_write

from ..save import refuse_inside_store, require_writable
from .components import ComponentPairs, NoPairs

__all__ = ["refuse_npz", "write_pairs"]


def refuse_npz(path: Path) -> None:
    """Raise unless pairs may be written under this name; see `export_pairs`."""
    if "://" in str(path) or ":/" in path.as_posix()[1:]:
        raise ValueError(f"`export` is {str(path)!r}; pairs go to a folder of this machine")
    if path.suffix != ".npz":
        raise ValueError(f"`export` is {str(path)!r}; its name must end in .npz")
    if path.exists():
        raise FileExistsError(f"`{path}` is there already; name another, or delete it first")
    refuse_inside_store(path, "export")
    require_writable(path)


def write_pairs(path: Path, found: Mapping[str, ComponentPairs | NoPairs], about: dict[str, Any]) -> dict[str, str]:
    """Write the pairs of each component; returns what was left out, and why.

    `numpy.load(path, allow_pickle=False)` reads them: `<component>/x` and `<component>/y`, float64 (n, axis);
    `<component>/sample` and `<component>/token`, int64 (n,). `components` lists what stands before x, y, sample and
    token; `about` is JSON: how pairs were made, and under `left_out` what states couldn't be projected. Raises
    ValueError if none at all could.
    """
    left_out = {name: pairs.why for name, pairs in found.items() if isinstance(pairs, NoPairs)}
    arrays: dict[str, np.ndarray] = {}
    for name, pairs in found.items():
        if isinstance(pairs, ComponentPairs):
            sides = {"x": pairs.pairs.x, "y": pairs.pairs.y, "sample": pairs.pairs.groups_x, "token": pairs.tokens}
            arrays |= {f"{name}/{key}": values for key, values in sides.items()}
    if not arrays:
        first, why = next(iter(left_out.items()))
        raise ValueError(f"no states can be projected; the first are those of {first}: {why}")
    arrays["components"] = np.array([name for name in found if name not in left_out])
    arrays["about"] = np.array(json.dumps({**about, "left_out": left_out}))
    with atomic_write(path) as partial, partial.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]
    return left_out
