"""A study from end to end: its units, one after the other."""

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import NamedTuple

from lorascope.capture.samples.sources import read_items
from lorascope.stores.places.file_lock import HeldError

from ..grid import Unit, chosen_units, units_of
from ..settings import StudySettings
from .data import TaskData, draw
from .inputs import require_inputs
from .recipe import recipe_of
from .steps import Models, UnitWork, is_done

StudyReport = Callable[[int, int, Unit, str, int, int, str], None]
"""Called with (number of the unit, units in all, unit, step, done, total, what is counted)."""


class Outcome(NamedTuple):
    """Result of one unit."""

    unit: Unit
    did: str
    """`made`, `there already`, or `another process works on it`."""
    who: str = ""
    """The other process, and since when; empty if unknown."""


def run_study(
    settings: StudySettings,
    report: StudyReport,
    *,
    only: str | None = None,
    scheduler: str | None = None,
) -> Iterator[Outcome]:
    """Do what is missing of a study; yields after each unit.

    Parameters
    ----------
    report
        Called on the way.
    only
        `i/n`: of the study's units every n-th from the i-th on.
    scheduler
        Where MIUB and mutual information are computed: see `miub`.

    Raises
    ------
    ValueError
        If a setting isn't allowed, or a unit's results were made with other settings.
    Everything that `finetune`, `capture` and `miub` raise.

    Notes
    -----
    Killed anywhere, the same call goes on: a training from its last checkpoint, a capture after its committed rows.
    Several processes may run one study: each passes over the units that another works on.
    """
    units = chosen_units(units_of(settings), only)
    require_inputs(settings, units)
    models = Models(settings)
    data = draw_all(settings, units, models)
    for unit in units:  # whatever is wrong with one of them is said before hours of work on others
        is_done(settings, unit, recipe_of(unit, settings, data[unit]))
    for number, unit in enumerate(units, start=1):

        def update(step: str, done: int, total: int, counted: str, number: int = number, unit: Unit = unit) -> None:
            report(number, len(units), unit, step, done, total, counted)

        work = UnitWork(
            unit=unit, settings=settings, data=data[unit], models=models, report=update, scheduler=scheduler
        )
        try:
            yield Outcome(unit, "made" if work.run() else "there already")
        except HeldError as error:
            yield Outcome(unit, "another process works on it", str(error.holder or ""))


def draw_all(settings: StudySettings, units: Sequence[Unit], models: Models) -> dict[Unit, TaskData]:
    """Draw the items of each unit, once a task, number of items and model: before any work."""
    drawn: dict[tuple[str, str, int | None], TaskData] = {}
    data, read = {}, cache(read_items)  # each file once, and nothing of it is kept afterwards
    for unit in units:
        key = (unit.model, unit.task, unit.train_items)
        if key not in drawn:
            task = settings.tasks[unit.task]
            tokenizer = lambda unit=unit: models.outline(unit).tokenizer  # noqa: E731
            drawn[key] = draw(task, settings, unit.train_items, tokenizer, read)
        data[unit] = drawn[key]
    return data
