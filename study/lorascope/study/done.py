"""A unit's results on the disk: whether they are there, whole, and of which recipe."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import xarray as xr

from lorascope.analyze import open_result, save

from .claim import require_recipe
from .grid import Unit
from .places import information_path, result_path
from .settings import StudySettings

__all__ = ["forget", "is_done", "save_whole", "stored_json"]


def is_done(settings: StudySettings, unit: Unit, recipe: Mapping[str, Any], *, redo: bool = False) -> bool:
    """Whether a unit's results are there, by this recipe.

    Raises
    ------
    ValueError
        If they were made by another recipe, unless they are to be made again; are damaged; or a part is missing.
    """
    path = result_path(settings, unit)
    if not path.exists():
        return False
    if not require_recipe(stored_json(path, "recipe"), recipe, f"`{path}`", redo=redo):
        return False
    estimates = information_path(settings, unit)
    if recipe["measure"]["information"] is not None and not estimates.exists():
        raise ValueError(
            f"`{estimates}` is missing; put it back, or delete `{path}` too, and the study makes both again"
        )
    return True


def forget(settings: StudySettings, unit: Unit) -> None:
    """Delete a unit's results; estimates go first, and never stay beside others' results."""
    information_path(settings, unit).unlink(missing_ok=True)
    result_path(settings, unit).unlink(missing_ok=True)


def stored_json(path: Path, name: str) -> Any:
    """What a file of results says of itself.

    Raises
    ------
    ValueError
        If it can't be read, or isn't one.
    """
    try:
        with open_result(path) as found:
            return json.loads(found.attrs[name])
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        raise ValueError(
            f"`{path}` isn't a unit's results, or is damaged ({' '.join(str(error).split())}); delete it, and "
            "`lorascope study run` makes it again"
        ) from error


def save_whole(result: xr.Dataset, path: Path) -> None:
    """Save, read again, compare, and only then give it its name: what it was made of may be deleted afterwards."""
    unread = path.with_name(f".{path.stem}.unread.nc")
    unread.unlink(missing_ok=True)
    save(result, unread)
    with open_result(unread) as stored:
        texts = {key: value for key, value in result.attrs.items() if isinstance(value, str)}
        is_same = result.equals(stored.load()) and texts.items() <= stored.attrs.items()
    if not is_same:
        unread.unlink()
        raise OSError(f"`{path}` wouldn't hold what was written; is the disk sound?")
    with unread.open("r+b") as file:
        os.fsync(file.fileno())
    unread.replace(path)
