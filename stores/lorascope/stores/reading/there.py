"""Whether anything is where a run is said to be: asked before the libraries that read it are imported."""

from pathlib import Path

from ..errors import StoreError


def require_store(*paths: str | Path) -> None:
    """Raise StoreError if one of these folders holds no Zarr store; what lies under a url isn't looked at."""
    for path in paths:
        if not ("://" in str(path) or (Path(path) / "zarr.json").exists()):
            raise no_store(str(path), nowhere=not Path(path).exists())


def no_store(name: str, *, nowhere: bool) -> StoreError:
    """What is raised where a run should be and no store is."""
    found = "doesn't exist" if nowhere else "holds no Zarr store"
    return StoreError(f"`{name}` {found}; name a run that `lorascope capture` wrote")
