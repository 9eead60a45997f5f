"""Running a study: its units, one after the other."""

from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from typing import NamedTuple

from lorascope.capture.samples.sources import read_items
from lorascope.stores.places.file_lock import HeldError

from ..grid import Unit, grid_units, select_units
from ..settings import StudySettings
from .data import TaskData, draw_items
from .recipe import require_inputs, unit_recipe
from .steps import Models, UnitWork, is_done

StudyProgress = Callable[[int, int, Unit, str, int, int, str], None]
"""Callback of (number of the unit, number of units, unit, step, done, total, thing counted)."""


class Outcome(NamedTuple):
    """Outcome of running one unit (adapter) of a study."""

    unit: Unit
    state: str
    """`made`, `there already`, or `another process works on it`."""
    holder: str = ""
    """The other process, and the time since when it works; empty if unknown."""


def run_study(
    settings: StudySettings,
    report: StudyProgress,
    *,
    only: str | None = None,
    scheduler: str | None = None,
) -> Iterator[Outcome]:
    """Train, capture and measure each unit of a study that has no results; yield an Outcome after each unit.

    `only` and `scheduler` are as in `select_units` and `miub`. Raises ValueError if a setting isn't allowed or results
    were made with other settings, and any error of `finetune`, `capture` and `miub`. After a kill the same call
    continues: a training from its last checkpoint, a capture after its committed rows. Several processes may run one
    study: each skips the units that another works on.
    """
    units = select_units(grid_units(settings), only)
    require_inputs(settings, units)
    models = Models(settings)
    data = draw_all_items(settings, units, models)
    for unit in units:  # raises for any wrong unit before hours of work on others
        is_done(settings, unit, unit_recipe(unit, settings, data[unit]))
    for number, unit in enumerate(units, start=1):
        update = partial(report, number, len(units), unit)
        work = UnitWork(
            unit=unit, settings=settings, data=data[unit], models=models, report=update, scheduler=scheduler
        )
        try:
            yield Outcome(unit, "made" if work.run() else "there already")
        except HeldError as error:
            yield Outcome(unit, "another process works on it", str(error.holder or ""))


def draw_all_items(settings: StudySettings, units: Sequence[Unit], models: Models) -> dict[Unit, TaskData]:
    """Return unit (adapter) -> items to train and test on, drawn once per model, task and number of items."""
    drawn: dict[tuple[str, str, int | None], TaskData] = {}
    data, read = {}, cache(read_items)  # reads each file once
    for unit in units:
        key = (unit.model, unit.task, unit.train_items)
        if key not in drawn:
            tokenizer = lambda unit=unit: models.outline(unit).tokenizer  # noqa: E731
            drawn[key] = draw_items(settings.tasks[unit.task], settings, unit.train_items, tokenizer, read)
        data[unit] = drawn[key]
    return data
