"""The units of a study: every setting of its grid, with every task; and where the parts of each lie."""

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field

from .settings import StudySettings

INFORMATION = ".information.nc"
"""Ending of files of estimates, beside a unit's results."""
LONGEST_NAME = 200
"""Letters that a unit's name may have: file systems take 255, and files beside its results have longer names."""
Count = Annotated[int, Field(strict=True, ge=1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """One adapter of a study: trained, captured and measured on its own."""

    model: str
    """Name in the study's file."""
    share: Count
    rank: Count
    seed: Annotated[int, Field(strict=True, ge=0)]
    task: str
    train_items: Count | None = None
    """Training items a data set; None for all."""
    name: Annotated[str, Field(pattern=rf"^[A-Za-z0-9._-]{{1,{LONGEST_NAME}}}$")]
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
    models = list(dict.fromkeys(key[0] for key in keys))
    labels = {model: re.sub(r"[^A-Za-z0-9._]", "-", Path(model).name) for model in models}
    counts = {task: len({key[5] for key in keys if key[4] == task}) for task in settings.tasks}
    units: dict[str, Unit] = {}
    for model, share, rank, seed, task, n in keys:
        items = ("dall" if n is None else f"d{n}") if counts[task] > 1 else ""
        label = labels[model] if len(models) > 1 else ""
        name = "-".join(filter(None, (label, f"share{share}", f"r{rank}", f"s{seed}", items, task)))
        if len(name) > LONGEST_NAME:
            raise ValueError(f"unit {name!r} has {len(name)} letters; give its model or task a shorter name")
        # Every unit has a file of its own, also where capitals don't count.
        if (other := units.get(name.casefold())) is not None:
            raise ValueError(
                f"task {other.task!r} of {other.model!r} and task {task!r} of {model!r} both make a unit {name!r}; "
                "rename a task or a folder"
            )
        units[name.casefold()] = Unit(
            model=model, share=share, rank=rank, seed=seed, task=task, train_items=n, name=name
        )
    return sorted(units.values(), key=lambda unit: (models.index(unit.model), unit.share))


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


def result_path(settings: StudySettings, unit: Unit) -> Path:
    """A unit's results, there once it is done."""
    return settings.results / f"{unit.name}.nc"


def information_path(settings: StudySettings, unit: Unit) -> Path:
    """A unit's estimates of mutual information, if there are any."""
    return settings.results / f"{unit.name}{INFORMATION}"


def unit_folder(settings: StudySettings, unit: Unit) -> Path:
    """Folder of a unit's adapter and runs."""
    return settings.work / unit.name


def adapter_path(settings: StudySettings, unit: Unit) -> Path:
    """A unit's adapter, there once it is trained."""
    return unit_folder(settings, unit) / "adapter" / "weights"


def run_path(settings: StudySettings, unit: Unit, run: str) -> Path:
    """One of a unit's runs."""
    return unit_folder(settings, unit) / run / "run.zarr"
