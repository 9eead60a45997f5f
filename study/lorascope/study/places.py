"""Where the parts of a study lie."""

from pathlib import Path

from .grid import Unit
from .settings import StudySettings

__all__ = ["adapter_path", "information_path", "result_path", "run_path", "unit_folder"]


def result_path(settings: StudySettings, unit: Unit) -> Path:
    """A unit's results, there once it is done."""
    return settings.results / f"{unit.name}.nc"


def information_path(settings: StudySettings, unit: Unit) -> Path:
    """A unit's estimates of mutual information, if there are any."""
    return settings.results / f"{unit.name}.information.nc"


def unit_folder(settings: StudySettings, unit: Unit) -> Path:
    """What a unit is made of: adapter and runs."""
    return settings.work / unit.name


def adapter_path(settings: StudySettings, unit: Unit) -> Path:
    """A unit's adapter, there once it is trained."""
    return unit_folder(settings, unit) / "adapter" / "weights"


def run_path(settings: StudySettings, unit: Unit, run: str) -> Path:
    """One of a unit's runs."""
    return unit_folder(settings, unit) / run / "run.zarr"
