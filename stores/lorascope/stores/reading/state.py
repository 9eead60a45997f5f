"""State of a run from its root alone, and deletion of a run that was never completely set up."""

import re
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from ..errors import StoreError
from ..format.layout import DIGEST_ARRAYS, GROUPS
from ..format.spec import FORMAT, READ_VERSIONS
from ..places.file_lock import may_be_running, parse_holder
from ..places.place import Place, open_place
from .root import read_root

WRITER_ATTRIBUTE = "set_up_by"
"""Root attribute with the process that sets up a run, until that is done."""

RunState = Literal["absent", "torn", "unfinished", "finished"]


def _setup_key(optional_groups: Any = ()) -> re.Pattern[str]:
    """Return the pattern of the keys that are written while a run with these optional groups is set up."""
    listed = optional_groups if isinstance(optional_groups, list) else []
    groups = "|".join((*GROUPS, *(re.escape(name) for name in listed if isinstance(name, str))))
    return re.compile(rf"(({groups})(/[A-Za-z0-9_.\-]+)*/)?(zarr\.json|c(\.\d+)+)")


def run_state(path: str | Path | Place) -> RunState:
    """Return whether the run at `path` is `absent`, `torn` (not set up completely), `unfinished` or `finished`.

    Returns
    -------
    str
        `absent`: no folder, an empty one, or only unfinished files of an interrupted writer; `torn`: a run that is
        being set up, or was interrupted then; `unfinished`: rows may be missing; `finished`.

    Raises
    ------
    StoreError
        If something else is there, or a run of an unknown version.
    """
    place = open_place(path)
    attributes = root_attributes(place)
    if attributes is None:
        return "absent"
    require_known_version(place, attributes)
    if "static_digest" not in attributes:
        return "torn"
    return "finished" if attributes.get("finished") is True else "unfinished"


def clear_torn(path: str | Path | Place) -> None:
    """Delete a run that was interrupted while it was set up, before any row; if that is interrupted, call again.

    Raises
    ------
    StoreError
        If it isn't such a run, its folder has other files too, or it is in an object store, which has no locks, and the
        process that sets it up may still be running: then nothing is deleted.
    """
    place = open_place(path)
    state = run_state(place)
    if state != "torn":
        raise StoreError(f"`{place.name}` was not interrupted while it was set up but is {state}; nothing was deleted")
    if place.remote:
        _require_writer_ended(place)
    keys = list(place.keys())
    setup_key = _setup_key((root_attributes(place) or {}).get("optional_groups"))
    digests = tuple(f"{path}/c." for path in DIGEST_ARRAYS)
    foreign = [key for key in keys if not setup_key.fullmatch(key) or key.startswith(digests)]
    if foreign:
        raise StoreError(
            f"`{place.name}` holds {foreign[0]!r}, which isn't part of a run being set up; nothing was "
            "deleted: look at it"
        )
    place.delete([*place.temporary_files(), *(key for key in keys if key != "zarr.json")])
    place.flush("")
    place.delete(["zarr.json"])  # last: until then the folder is known to be a run


def _require_writer_ended(place: Place) -> None:
    """Raise StoreError unless the process that set up this run is known to have ended, or is this one."""
    holder = parse_holder((root_attributes(place) or {}).get(WRITER_ATTRIBUTE))
    if holder is None or may_be_running(holder):
        who = holder or "a process that left no name"
        raise StoreError(
            f"`{place.name}` is being set up by {who}, which may still be at it; wait for it, or if it has ended, "
            f"delete all below `{place.name}` (as with `aws s3 rm --recursive`) and give the command again"
        )


def require_known_version(place: Place, attributes: Mapping[str, Any]) -> None:
    """Raise StoreError unless these are root attributes of a run of a known format version."""
    if attributes.get("format") != FORMAT:
        raise StoreError(
            f"`{place.name}` is a Zarr group but no lorascope run: `format` is {attributes.get('format')!r}, not "
            f"{FORMAT!r}"
        )
    version = attributes.get("format_version")
    if type(version) is not int or version not in READ_VERSIONS:
        raise StoreError(
            f"`{place.name}` has format version {version!r}; this lorascope reads versions "
            f"{', '.join(map(str, READ_VERSIONS))}: upgrade it"
        )


def root_attributes(place: Place) -> Mapping[str, Any] | None:
    """Return the root attributes of the run at a place; None if nothing exists there.

    Raises StoreError if something else is there.
    """
    if isinstance(place.path, Path):
        existing = next(path for path in (place.path.absolute(), *place.path.absolute().parents) if path.exists())
        if not existing.is_dir():
            below = "is a file" if existing == place.path.absolute() else f"lies below `{existing}`, a file"
            raise StoreError(f"`{place.name}` {below}; name a run's folder, or for a new run one that is new or empty")
    try:
        return read_root(place).attributes
    except FileNotFoundError:
        _require_empty(place)
        return None


def _require_empty(place: Place) -> None:
    """Raise StoreError if a place without a root `zarr.json` has any other file."""
    keys = place.keys()
    first = next(keys, None)
    if first is None:
        return
    if all(map(_setup_key().fullmatch, chain([first], keys))):
        raise StoreError(
            f"`{place.name}` holds parts of a run ({first!r}) without its root 'zarr.json', as where a run was deleted "
            "while it was written; put that file back, or delete what is left, and the same command starts again"
        ) from None
    inside = sorted(root.parent for root in place.path.glob("*/zarr.json")) if isinstance(place.path, Path) else []
    if inside:
        raise StoreError(
            f"`{place.name}` isn't a run but holds `{inside[0]}`; name that one, or a new folder"
        ) from None
    raise StoreError(
        f"`{place.name}` isn't empty and holds no run; name a new folder, or empty this one first"
    ) from None
