"""Sizes of a run's parts, in memory and on disk."""

import math
from pathlib import PurePosixPath
from typing import NamedTuple

from lorascope.stores import Run
from lorascope.stores.format.layout import NEUTRAL, is_kept_with_states

PARTS = (
    *("base", "adapted", "factor", "lora_B", "delta", "js", "reductions", "changes", "importance", "replies"),
    *("nulls", "experts", "vocabulary", "unembedding", "tables"),
)
"""Parts of a store in the order in which they are listed; `tables` has all that no other part has."""
STORED_MEASURES = ("delta_norm", "swallowed", "kl", "ablation")
"""Measures of an adapter that capture took, counted as the part `reductions`; see `measuring/sources.py`."""


class Size(NamedTuple):
    """Bytes of one part of a store, such as `base` or `js`, in memory and on disk."""

    part: str
    raw_bytes: int
    """Bytes that its committed values take in memory."""
    stored_bytes: int
    """Bytes that its files take on disk."""


def sizes(run: Run) -> list[Size]:
    """Return the bytes of each part of a run, in memory and on disk, and last those of the whole run.

    Its neutral texts are a run of their own and don't count.
    """
    raw: dict[str, int] = {}
    committed = run.committed.values
    for path, array in run.arrays.items():
        share = 1.0
        if array.by_row:  # the array has values for some tokens only
            holds_values = committed & run.with_states.values if is_kept_with_states(path) else committed
            share = int(holds_values.sum()) / run.n_tokens
        raw[_part_of_path(path)] = raw.get(_part_of_path(path), 0) + round(
            math.prod(array.shape) * array.dtype.itemsize * share
        )
    stored: dict[str, int] = {}
    for path, n_bytes in run.place.sizes():
        if path.startswith(f"{NEUTRAL}/"):
            continue
        stored[_part_of_path(path)] = stored.get(_part_of_path(path), 0) + n_bytes
    parts = [Size(part, raw.get(part, 0), stored.get(part, 0)) for part in PARTS if raw.get(part) or stored.get(part)]
    return [*parts, Size("whole run", sum(raw.values()), sum(stored.values()))]


def _part_of_path(path: str) -> str:
    """Return which part of a store (such as `base`, `js` or `tables`) a path inside it belongs to."""
    names = PurePosixPath(path).parts
    name = names[2] if names[0] in {"states", "adapters"} and len(names) > 2 else names[0]
    name = "reductions" if name in STORED_MEASURES else {"lora_bias": "lora_B"}.get(name, name)
    return name if name in PARTS else "tables"
