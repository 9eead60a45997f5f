"""The units of a study: every setting of its grid, with every task."""

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .settings import StudySettings

__all__ = ["Unit", "chosen_units", "units_of"]

LONGEST_NAME = 200
"""Letters that a unit's name may have: file systems take 255, and files beside its results have longer names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """One adapter of a study: trained, captured and measured on its own."""

    model: str
    """As the study's file names it."""
    share: int
    rank: int
    seed: int
    task: str
    train_items: int | None
    """Training items a data set; None for all."""
    name: str
    """Its place among results: what tells it from the study's other units, in letters, digits and `-`."""


def units_of(settings: StudySettings) -> list[Unit]:
    """Units in the order of the file, each once: models and shares change last, so that each is loaded once.

    Raises
    ------
    ValueError
        If models or units have names that can't be told apart, or that are too long for a file.
    """
    keys: dict[tuple[str, int, int, int, str, int | None], None] = {}
    for part in settings.grid:
        product = itertools.product(part.model or settings.model, part.share, part.rank, part.seed)
        for setting, task in itertools.product(product, part.tasks or settings.tasks):
            for n in part.train_items or (settings.tasks[task].train_items,):
                keys[*setting, task, n] = None
    labels = _labels(sorted({key[0] for key in keys}))
    counts = {task: len({key[5] for key in keys if key[4] == task}) for task in settings.tasks}
    units = []
    for model, share, rank, seed, task, n in keys:
        items = ("dall" if n is None else f"d{n}") if counts[task] > 1 else ""
        name = "-".join(filter(None, (labels[model], f"share{share}", f"r{rank}", f"s{seed}", items, task)))
        units.append(Unit(model=model, share=share, rank=rank, seed=seed, task=task, train_items=n, name=name))
    _refuse_names(units)
    order = list(dict.fromkeys(unit.model for unit in units))
    return sorted(units, key=lambda unit: (order.index(unit.model), unit.share))


def chosen_units(units: Sequence[Unit], only: str | None) -> list[Unit]:
    """The units that `i/n` means: every n-th from the i-th on, counted from 1; all for None.

    Raises
    ------
    ValueError
        If it isn't two whole numbers with 1 <= i <= n.
    """
    if only is None:
        return list(units)
    first, _, parts = only.partition("/")
    if not (first.isdecimal() and parts.isdecimal() and 1 <= int(first) <= int(parts)):
        raise ValueError(f"`only` is {only!r}; give i/n with i from 1 to n, such as 2/8")
    return list(units[int(first) - 1 :: int(parts)])


def _refuse_names(units: Sequence[Unit]) -> None:
    """Raise a ValueError unless every unit has a file of its own, also where capitals don't count."""
    seen: dict[str, Unit] = {}
    for unit in units:
        if len(unit.name) > LONGEST_NAME:
            raise ValueError(f"unit {unit.name!r} has {len(unit.name)} letters; give its model or task a shorter name")
        other = seen.setdefault(unit.name.casefold(), unit)
        if other is not unit:
            raise ValueError(
                f"task {other.task!r} of {other.model!r} and task {unit.task!r} of {unit.model!r} both make a unit "
                f"{unit.name!r}; rename a task or a folder"
            )


def _labels(models: Sequence[str]) -> dict[str, str]:
    """A short name for each model; none where there is one model."""
    if len(models) == 1:
        return {models[0]: ""}
    labels = {model: re.sub(r"[^A-Za-z0-9._]", "-", Path(model).name) for model in models}
    for label in labels.values():
        same = [other for other, theirs in labels.items() if theirs == label]
        if len(same) > 1:
            raise ValueError(f"models {same[0]!r} and {same[1]!r} have one name, {label!r}; rename a folder")
    return labels
