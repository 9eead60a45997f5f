"""What was made of a unit, on the disk: whole, by which recipe, and how it goes away."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import xarray as xr

from lorascope.analyze import open_result
from lorascope.capture.resume import differences
from lorascope.stores.places.atomic_write import atomic_write

from ..grid import Unit
from ..places import information_path, result_path
from ..settings import StudySettings

__all__ = ["claim", "discard", "is_done", "is_made_by", "save_whole"]

MADE_BY = "recipe.json"
"""File of a unit's folder: the recipe that all in it was made by."""
MOST_SHOWN = 3
"""Differences that an error names before it only counts the rest."""


def claim(folder: Path, recipe: Mapping[str, Any]) -> None:
    """Make a unit's folder, and note there by what recipe; what another recipe made there is refused.

    The note is the first file of a folder: what lies in one without it is nobody's, and deleted.

    Raises
    ------
    ValueError
        If it was made by another recipe.
    """
    marker = folder / MADE_BY
    if marker.is_file():
        _require_same(json.loads(marker.read_text()), recipe, folder)
        return
    discard(folder)
    with atomic_write(marker) as partial:
        partial.write_text(json.dumps(recipe, indent=1))


def discard(folder: Path) -> None:
    """Delete a folder: killed meanwhile, no part of it is left under its name."""
    gone = folder.with_name(f".{folder.name}.discarded")
    if gone.exists():
        shutil.rmtree(gone)
    if folder.exists():
        folder.rename(gone)
        shutil.rmtree(gone)


def is_made_by(folder: Path, recipe: Mapping[str, Any]) -> bool:
    """Whether a unit's folder was made by this recipe, and not for another study."""
    marker = folder / MADE_BY
    return marker.is_file() and json.loads(marker.read_text()) == recipe


def is_done(settings: StudySettings, unit: Unit, recipe: Mapping[str, Any]) -> bool:
    """Whether a unit's results are there, by this recipe.

    Raises
    ------
    ValueError
        If they were made by another recipe, are damaged, or a part is missing.
    """
    path, estimates = result_path(settings, unit), information_path(settings, unit)
    if not path.exists():
        return False
    try:
        with open_result(path) as found:
            stored = json.loads(found.attrs["recipe"])
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        raise ValueError(
            f"`{path}` isn't a unit's results, or is damaged ({' '.join(str(error).split())}); delete it, and "
            "`lorascope study run` makes it again"
        ) from error
    _require_same(stored, recipe, path)
    if recipe["measure"]["information"] is not None and not estimates.exists():
        raise ValueError(
            f"`{estimates}` is missing; put it back, or delete `{path}` too, and the study makes both again"
        )
    return True


def save_whole(result: xr.Dataset, path: Path) -> None:
    """Save, read again, compare, and only then give it its name: what it was made of may be deleted afterwards."""
    with atomic_write(path, flush=True) as partial:
        result.to_netcdf(partial, engine="netcdf4")
        with xr.open_dataset(partial, engine="netcdf4", cache=False) as stored:
            texts = {key: value for key, value in result.attrs.items() if isinstance(value, str)}
            if not (result.equals(stored.load()) and texts.items() <= stored.attrs.items()):
                raise OSError(f"`{path}` wouldn't hold what was written; is the disk sound?")


def _require_same(stored: Mapping[str, Any], wanted: Mapping[str, Any], path: Path) -> None:
    if found := list(differences(stored, wanted)):
        more = f" and {len(found) - MOST_SHOWN} more" if len(found) > MOST_SHOWN else ""
        raise ValueError(
            f"`{path}` was made with other settings ({'; '.join(found[:MOST_SHOWN])}{more}); put them back, name "
            "another `out`, or delete it"
        )
