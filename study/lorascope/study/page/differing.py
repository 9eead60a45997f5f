"""In what units of a study differ that should be one."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..results.units import UnitResult

__all__ = ["differing"]

MOST_NAMED = 3
"""Units that a sentence names before it only counts the rest."""
MAY_DIFFER = {"rank", "seed", "states", "states_share", "prompt", "share", "shared_layers", "share_from"}
"""Settings of training and capture that the grid decides, or that shape no number; prompts have names."""


def differing(units: Sequence[UnitResult]) -> list[str]:
    """A sentence on each library, device, model, stage and set of items by which units differ, beside the grid's."""
    found: dict[str, dict[str, dict[str, None]]] = {}  # what -> value -> units
    for unit in units:
        for what, value in _shaping(unit):
            found.setdefault(what, {}).setdefault(value, {})[unit.name] = None
    return [
        f"{what}: {'; '.join(f'{value} in {_join(list(names))}' for value, names in by_value.items())}"
        for what, by_value in found.items()
        if len(by_value) > 1
    ]


def _shaping(unit: UnitResult) -> Iterator[tuple[str, str]]:
    """What shapes a unit's numbers, and its value, which is one in all units for which this is asked."""
    for run in unit.runs.values():
        provenance = _mapping(run.get("provenance"))
        device = _mapping(provenance.get("device"))
        yield from ((str(name), str(version)) for name, version in _mapping(provenance.get("libraries")).items())
        yield from ((f"device {name}", str(device.get(name))) for name in ("type", "name"))
        weights = _mapping(provenance.get("model")).get("sha256")
        yield f"weights of {unit.model} share{unit.share}", _short(weights)
    alike = f"{unit.task} {unit.model} share{unit.share} d{unit.train_items or 'all'}"
    for step, recipe in unit.recipe.items():
        for name, value in _mapping(recipe).items():
            if name == "config":
                own = {key: one for key, one in sorted(_mapping(value).items()) if key not in MAY_DIFFER}
                yield (
                    f"settings of {step} {unit.task}",
                    ", ".join(f"{key} {one}" for key, one in own.items()) or "defaults",
                )
            elif name != "information":
                yield f"{name} of {step} {alike}", _short(value)


def _short(value: Any) -> str:
    """The beginning of a hash, or of the hash of what is too long to be shown."""
    text = value if isinstance(value, str) else hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
    return text[:12]


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _join(names: Sequence[str]) -> str:
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(names[:MOST_NAMED]) + more
