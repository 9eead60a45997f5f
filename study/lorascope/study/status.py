"""How far a study has got, told from what lies on the disk alone: without torch, models or data."""

import json
from datetime import datetime
from typing import NamedTuple

from lorascope.analyze import open_result
from lorascope.stores import StoreError, open_run

from .grid import Unit, units_of
from .places import adapter_path, result_path, run_path, unit_folder
from .settings import StudySettings

__all__ = ["UnitStatus", "study_status"]


class UnitStatus(NamedTuple):
    """How far one unit has got."""

    unit: Unit
    state: str
    """`done`, `begun`, `not begun` or `damaged`."""
    detail: str
    """When it was done, or what there is of it."""


def study_status(settings: StudySettings) -> list[UnitStatus]:
    """State of every unit, in the order in which they run."""
    return [_status(settings, unit) for unit in units_of(settings)]


def _status(settings: StudySettings, unit: Unit) -> UnitStatus:
    path = result_path(settings, unit)
    if path.exists():
        try:
            with open_result(path) as found:
                when = datetime.fromisoformat(str(found.attrs["measured"]))
                name = json.loads(found.attrs["unit"])["name"]
        except (OSError, RuntimeError, KeyError, ValueError) as error:
            return UnitStatus(unit, "damaged", f"`{path}` can't be read: {' '.join(str(error).split())}; delete it")
        other = "" if name == unit.name else f", but of unit {name!r}"
        return UnitStatus(unit, "done", f"{when:%Y-%m-%d %H:%M} UTC{other}")
    if not unit_folder(settings, unit).exists():
        return UnitStatus(unit, "not begun", "")
    parts = ["trained" if adapter_path(settings, unit).exists() else "training"]
    for name in ("main", "prompts"):
        if (place := run_path(settings, unit, name)).exists():
            try:
                run = open_run(place)
                parts.append(f"{name}: {int(run.committed_rows.sum())} of {run.n_rows} rows captured")
            except StoreError:
                parts.append(f"{name}: being set up")
    return UnitStatus(unit, "begun", ", ".join(parts))
