"""What a step made, on the disk: whole, by which recipe, and how it goes away."""

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
"""File beside what a step made: the recipe that it was made by."""
MOST_SHOWN = 3
"""Differences that an error names before it only counts the rest."""


def claim(folder: Path, recipe: Mapping[str, Any], *, redo: bool) -> None:
    """Make the folder of a step, and note there by what recipe; what another one made there is refused or deleted.

    The note is the first file of a folder: what lies in one without it is nobody's, and deleted.
    """
    marker = folder / MADE_BY
    if marker.is_file() and _agree(json.loads(marker.read_text()), recipe, f"`{folder}`", redo=redo):
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
    """Whether all steps in a unit's folder were done by this recipe, and not for another study."""
    made = [json.loads(marker.read_text()) for marker in folder.glob(f"*/{MADE_BY}")]
    return bool(made) and all(one == {key: recipe.get(key) for key in one} for one in made)


def is_done(settings: StudySettings, unit: Unit, recipe: Mapping[str, Any], *, redo: bool = False) -> bool:
    """Whether a unit's results are there, by this recipe.

    Raises
    ------
    ValueError
        If they were made by another recipe, unless they are to be made again; are damaged; or a part is missing.
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
    if not _agree(stored, recipe, f"`{path}`", redo=redo):
        return False
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


def _agree(stored: Mapping[str, Any], wanted: Mapping[str, Any], what: str, *, redo: bool) -> bool:
    """Whether two recipes agree; a ValueError if they don't, unless what differs is to be made again."""
    found = list(differences(stored, wanted))
    if found and not redo:
        more = f" and {len(found) - MOST_SHOWN} more" if len(found) > MOST_SHOWN else ""
        raise ValueError(
            f"{what} was made with other settings ({'; '.join(found[:MOST_SHOWN])}{more}); put them back, name another "
            "`out`, or give --redo to make it again"
        )
    return not found
