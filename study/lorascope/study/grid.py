"""The units of a study: every setting of its grid with every task, and the paths of each unit's files."""

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field

from .settings import StudySettings

INFORMATION = ".information.nc"
"""Ending of the file with a unit's estimates of mutual information."""
LONGEST_NAME = 200
"""Most letters of a unit's name: file systems allow 255, and names of its files are longer."""
Count = Annotated[int, Field(strict=True, ge=1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """One adapter of a study, of one model, rank, seed and task: trained, captured and measured on its own."""

    model: str
    """Name in the study's file."""
    share: Count
    rank: Count
    seed: Annotated[int, Field(strict=True, ge=0)]
    task: str
    train_items: Count | None = None
    """Training items per data set; None for all."""
    name: Annotated[str, Field(pattern=rf"^[A-Za-z0-9._-]{{1,{LONGEST_NAME}}}$")]
    """Unique name in the study, such as `share1-r8-s0-choice`; its files are named by it."""


def grid_units(settings: StudySettings) -> list[Unit]:
    """Return all units (adapters to train) of a study's grid, each once, ordered by model and weight sharing.

    Raises ValueError if two units would have the same name, or a name is too long for a file.
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
        # File systems may ignore case.
        if (other := units.get(name.casefold())) is not None:
            raise ValueError(
                f"task {other.task!r} of {other.model!r} and task {task!r} of {model!r} both make a unit {name!r}; "
                "rename a task or a folder"
            )
        units[name.casefold()] = Unit(
            model=model, share=share, rank=rank, seed=seed, task=task, train_items=n, name=name
        )
    return sorted(units.values(), key=lambda unit: (models.index(unit.model), unit.share))


def select_units(units: Sequence[Unit], only: str | None) -> list[Unit]:
    """Return every n-th unit (adapter) from the i-th, for `only` = 'i/n' with i from 1, or all units for None.

    Raises ValueError for another text.
    """
    if only is None:
        return list(units)
    first, _, parts = only.partition("/")
    if not (first.isdecimal() and parts.isdecimal() and 1 <= int(first) <= int(parts)):
        raise ValueError(f"`only` is {only!r}; give i/n with i from 1 to n, such as 2/8")
    return list(units[int(first) - 1 :: int(parts)])


def result_path(settings: StudySettings, unit: Unit) -> Path:
    """Return the path of the NetCDF file with the complete results of a unit (one adapter)."""
    return settings.results / f"{unit.name}.nc"


def information_path(settings: StudySettings, unit: Unit) -> Path:
    """Return the path of the NetCDF file with the mutual information estimated for a unit (one adapter)."""
    return settings.results / f"{unit.name}{INFORMATION}"


def unit_folder(settings: StudySettings, unit: Unit) -> Path:
    """Return the folder in which the adapter of a study's unit is trained and its runs are captured."""
    return settings.work / unit.name


def adapter_path(settings: StudySettings, unit: Unit) -> Path:
    """Return the folder of a unit's trained adapter, which exists once training is complete."""
    return unit_folder(settings, unit) / "adapter" / "weights"


def run_path(settings: StudySettings, unit: Unit, run: str) -> Path:
    """Return the path of a captured run of a unit (one adapter): `main` (first prompt) or `prompts` (the others)."""
    return unit_folder(settings, unit) / run / "run.zarr"
