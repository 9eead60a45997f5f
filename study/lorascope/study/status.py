"""Progress of a study, read from the disk alone: without torch, models or data."""

from typing import NamedTuple

from lorascope.stores import StoreError, open_run

from .grid import Unit, adapter_path, result_path, run_path, unit_folder, units_of
from .results.units import read_record
from .settings import StudySettings


class UnitStatus(NamedTuple):
    """Progress of one unit."""

    unit: Unit
    state: str
    """`done`, `begun`, `not begun` or `damaged`."""
    detail: str
    """When it was done, or what there is of it."""


def study_status(settings: StudySettings) -> list[UnitStatus]:
    """State of every unit, in the order in which they run."""
    return [UnitStatus(unit, *_state(settings, unit)) for unit in units_of(settings)]


def _state(settings: StudySettings, unit: Unit) -> tuple[str, str]:
    if (path := result_path(settings, unit)).exists():
        try:
            record = read_record(path)
        except ValueError as error:
            return "damaged", str(error)
        other = "" if record.unit.name == unit.name else f", but of unit {record.unit.name!r}"
        return "done", f"{record.measured:%Y-%m-%d %H:%M} UTC{other}"
    if not unit_folder(settings, unit).exists():
        return "not begun", ""
    parts = ["trained" if adapter_path(settings, unit).exists() else "training"]
    for name in ("main", "prompts"):
        if (place := run_path(settings, unit, name)).exists():
            try:
                run = open_run(place)
                parts.append(f"{name}: {int(run.committed_rows.sum())} of {run.n_rows} rows captured")
            except StoreError:
                parts.append(f"{name}: being set up")
    return "begun", ", ".join(parts)
