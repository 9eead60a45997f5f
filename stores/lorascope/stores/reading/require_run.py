"""Check paths of runs before the libraries that read runs are imported."""

from pathlib import Path
from typing import TypeVar

from ..errors import StoreError
from ..json_document import read_json

APath = TypeVar("APath", bound=str | Path)
MARK = "tokens/zarr.json"
"""File that every run has, and that shows that a folder without a root was one."""


def require_store(path: APath) -> APath:
    """Return the path of the run at `path`, or of the only run in it; raises StoreError if it holds no Zarr store."""
    run = find_run_path(path)
    if not ("://" in str(run) or (Path(run) / "zarr.json").exists()):
        raise no_run_error(path)
    return run


def find_run_path(path: APath) -> APath:
    """Return `path`, or the path of the only run inside if it is a local folder and not a run itself.

    Raises
    ------
    StoreError
        If the folder contains several runs.
    """
    folder = Path(str(path).removeprefix("file://"))
    if "://" in str(folder) or not folder.is_dir() or (folder / "zarr.json").exists():
        return path
    runs = [run for run in sorted(folder.iterdir()) if _is_run_folder(run)]
    if len(runs) > 1:
        raise StoreError(f"`{path}` holds {len(runs)} runs: {', '.join(f'`{run.name}`' for run in runs)}; name one")
    return type(path)(runs[0]) if runs else path


def _is_run_folder(folder: Path) -> bool:
    """Return whether a folder is a run of lorascope and not another Zarr group, such as a result."""
    if not (folder / "zarr.json").is_file():
        return False

    from ..format.spec import FORMAT

    try:
        document = read_json(folder / "zarr.json")
    except (StoreError, OSError):
        return False
    attributes = document.get("attributes") if isinstance(document, dict) else None
    return isinstance(attributes, dict) and attributes.get("format") == FORMAT


def no_run_error(path: str | Path) -> StoreError:
    """Return the StoreError that says what a local path without a run is instead: nothing, a file or which folder."""
    folder, name_one = Path(str(path).removeprefix("file://")), "name a run that `lorascope capture` wrote"
    if not folder.exists():
        return StoreError(f"`{path}` doesn't exist; {name_one}")
    if not folder.is_dir():
        return StoreError(f"`{path}` is a file, and a run is a folder; {name_one}")
    inner = sorted(folder.iterdir())
    for place in (folder, *inner):
        if (place / MARK).is_file() and not (place / "zarr.json").exists():
            return lost_root_error(str(place))
    if not inner:
        return StoreError(f"`{path}` is an empty folder; {name_one}")
    runs = sorted({root.parent.parent for root in folder.glob("*/*/zarr.json") if _is_run_folder(root.parent)})
    if runs:
        places = ", ".join(f"`{run}`" for run in runs[:3]) + " ..." * (len(runs) > 3)
        return StoreError(f"`{path}` holds no run itself; there is one in {places}: name that")
    return StoreError(f"`{path}` and the folders in it are no runs; {name_one}")


def lost_root_error(name: str) -> StoreError:
    """Return the StoreError about a run whose root metadata are gone."""
    return StoreError(
        f"`{name}` holds a run without its root 'zarr.json', and the other files can't replace it; put it back from a "
        "copy of this run, or capture again into a new folder"
    )
