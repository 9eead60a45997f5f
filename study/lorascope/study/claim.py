"""Whose a folder of a study's work is: the recipe that stands in it; and how it goes away, as a whole."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lorascope.capture.resume import differences

__all__ = ["claim", "discard", "is_made_by", "require_recipe"]

MADE_BY = "recipe.json"
"""File beside what a step made: the recipe that it was made by."""
SHOWN = 3


def claim(folder: Path, recipe: Mapping[str, Any], *, redo: bool) -> None:
    """Make the folder of a step, and note there by what recipe; what another one made there is refused or deleted.

    The note is the first file of a folder: what lies in one without it is of nobody, and deleted.
    """
    marker = folder / MADE_BY
    if not marker.is_file() or not require_recipe(json.loads(marker.read_text()), recipe, f"`{folder}`", redo=redo):
        discard(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if not marker.is_file():
        partial = marker.with_name(f".{MADE_BY}.partial")
        partial.write_text(json.dumps(recipe, indent=1))
        partial.replace(marker)


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


def require_recipe(stored: Mapping[str, Any], wanted: Mapping[str, Any], what: str, *, redo: bool) -> bool:
    """Whether two recipes agree.

    Raises
    ------
    ValueError
        If they don't, unless what differs is to be made again.
    """
    found = list(differences(stored, wanted))
    if found and not redo:
        more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        raise ValueError(
            f"{what} was made with other settings ({'; '.join(found[:SHOWN])}{more}); put them back, name another "
            "`out`, or give --redo to make it again"
        )
    return not found
