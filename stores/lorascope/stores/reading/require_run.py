"""Check paths of runs before the libraries that read runs are imported."""

from pathlib import Path
from typing import TypeVar

from ..errors import StoreError
from ..json_document import read_json

APath = TypeVar("APath", bound=str | Path)


def require_store(path: APath) -> APath:
    """Return the path of the run at `path`, or of the only run in it; raises StoreError if it holds no Zarr store."""
    run = find_run_path(path)
    if not ("://" in str(run) or (Path(run) / "zarr.json").exists()):
        raise no_store_error(str(path), nowhere=not Path(path).exists())
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


def no_store_error(name: str, *, nowhere: bool) -> StoreError:
    """Return the StoreError about a path that should be a run but has no Zarr store.

    `nowhere`: whether nothing exists at the path.
    """
    problem = "doesn't exist" if nowhere else "holds no Zarr store"
    return StoreError(f"`{name}` {problem}; name a run that `lorascope capture` wrote")
