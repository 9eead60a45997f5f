"""In what units of a study differ that should be the same."""

import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .reading import UnitResult

__all__ = ["differing"]

MOST_NAMED = 3
GRID = {"rank", "seed"}
MAY_DIFFER = {"states", "states_share", "prompt", "share", "shared_layers", "share_from"}
"""Settings of a capture that the grid decides, or that shape no number; prompts have names."""
SHOWN = 12
"""Characters of a hash."""


def differing(units: Sequence[UnitResult]) -> list[str]:
    """A sentence on each library, device, setting, model and set of items by which units differ, beside the grid's."""
    parts: dict[str, list[tuple[str, Mapping[str, str]]]] = {}
    for unit in units:
        own: dict[str, dict[str, str]] = {}
        for scope, said_of in _shaping(unit):
            known = own.setdefault(scope, {})
            for name, value in said_of.items():  # of each of its runs
                known[name] = value if known.get(name, value) == value else f"{known[name]} and {value}"
        for scope, known in own.items():
            parts.setdefault(scope, []).append((unit.name, known))
    said = []
    for scope, members in parts.items():
        for name in dict.fromkeys(name for _, values in members for name in values):
            found: dict[str, list[str]] = {}
            for unit_name, values in members:
                found.setdefault(values.get(name, "unsaid"), []).append(unit_name)
            if len(found) > 1:
                words = [f"{value} in {_listed(list(dict.fromkeys(names)))}" for value, names in found.items()]
                said.append(f"{name}{f' of {scope}' if scope else ''}: {'; '.join(words)}")
    return said


def _shaping(unit: UnitResult) -> Iterator[tuple[str, dict[str, str]]]:
    """Name and value of what is the same in all units of a scope; "" for all of them."""
    train = _mapping(unit.recipe.get("train"))
    model = f"{unit.model} share{unit.share}"
    for run in unit.runs.values():
        provenance = _mapping(run.get("provenance"))
        device = _mapping(provenance.get("device"))
        yield "", {str(name): str(version) for name, version in _mapping(provenance.get("libraries")).items()}
        yield "", {f"device {name}": str(device[name]) for name in ("type", "name") if name in device}
        yield model, {"weights": _short(_mapping(provenance.get("model")).get("sha256"))}
    yield "", {"model's type": str(train.get("dtype", ""))}
    config = _mapping(train.get("config"))
    yield unit.task, {f"training {name}": str(value) for name, value in config.items() if name not in GRID}
    yield f"{unit.task} d{unit.train_items or 'all'}", {"training items": _short(train.get("items"))}
    yield unit.model, {"files": _short(train.get("model"))}
    yield model, {"sharing": str(train.get("sharing"))}
    for name in unit.runs:
        recipe = _mapping(unit.recipe.get(name))
        config = _mapping(recipe.get("config"))
        scope = f"{unit.task} {name}"
        yield scope, {f"capture {key}": str(value) for key, value in config.items() if key not in MAY_DIFFER}
        yield scope, {key: _short(recipe.get(key)) for key in ("templates", "examples")}
        yield f"{scope} {unit.model}", {"test items": _short(recipe.get("items"))}  # lengths may be in tokens


def _short(value: Any) -> str:
    """The beginning of a hash, or of the hash of what is too long to be shown."""
    if isinstance(value, str):
        return value[:SHOWN]
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:SHOWN]


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(itertools.islice(names, MOST_NAMED))
    return shown + (f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else "")
