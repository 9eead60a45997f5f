"""Checkpoints of a training: one that was stopped goes on from the last of them, and ends as if it had never been."""

import hashlib
import json
import os
import shutil
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError
from transformers import TrainerCallback

from lorascope.stores.places.atomic_write import atomic_write

from ..resume import require_same

__all__ = ["Checkpoint", "Checkpoints", "begin", "going_on", "training_folder"]

SECONDS = 300.0
"""Wall time of training after which the next step ends in a checkpoint."""
RECIPE, WHOLE = "recipe.json", "whole.json"
"""Files that say what training a folder is of, and that all of a checkpoint is on the disk, with its files' SHA-256."""


class Checkpoint(NamedTuple):
    """All that a training needs to go on."""

    path: Path
    step: int
    """Optimiser steps done."""
    seconds: float
    """Wall time that they took."""


def training_folder(out: Path) -> Path:
    """The folder beside an adapter where its checkpoints lie while it trains."""
    return out.with_name(f".{out.name}.training")


@contextmanager
def going_on(out: Path) -> Iterator[Path]:
    """The folder of a training's checkpoints; it stays when it is stopped and has one, unless it diverged."""
    folder = training_folder(out)
    try:
        yield folder
    except BaseException as error:
        is_ours = (folder / RECIPE).is_file()
        if is_ours and (isinstance(error, FloatingPointError) or _last(folder) is None):
            shutil.rmtree(folder, ignore_errors=True)
        raise
    shutil.rmtree(folder, ignore_errors=True)


def begin(folder: Path, recipe: Mapping[str, Any]) -> Checkpoint | None:
    """Make the folder of a training, or find what it may go on from.

    Raises
    ------
    FileExistsError
        If something else is there.
    StoreError
        If a training of other settings, data, base weights or libraries was stopped there.
    ValueError
        If the checkpoint isn't what was written.
    """
    _refuse_foreign(folder)
    last = _last(folder)
    if last is None:  # nothing to lose
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
        _write(folder / RECIPE, recipe)
        return None
    advice = "repeat the command that began it, or delete that folder to begin anew"
    what = f"the training that was stopped in {str(folder)!r} was another"
    require_same(_read(folder / RECIPE), recipe, what, advice)
    checkpoint = _checked(last)
    for other in folder.glob("checkpoint-*"):
        if other != last:  # half written, or half deleted
            shutil.rmtree(other)
    return checkpoint


class Checkpoints(TrainerCallback):
    """Has Trainer write a checkpoint every so often, and keeps the newest that is whole.

    Parameters
    ----------
    folder
        Where they go: Trainer's `output_dir`.
    last
        The one that the training goes on from.
    """

    def __init__(self, folder: Path, last: Checkpoint | None = None) -> None:
        self.folder = folder
        self.last = last
        self.seconds = 0.0 if last is None else last.seconds
        """Wall time of the steps when it was last told, with those before it was stopped."""
        self._told = self._saved = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Begin to count."""
        self._told = self._saved = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Ask for one when it is time; not after the last step, from which Trainer would take one more."""
        self._count()
        if state.global_step < state.max_steps and self._told - self._saved >= SECONDS:
            control.should_save = True

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Count to the end."""
        self._count()

    @contextmanager
    def saving(self, step: int) -> Iterator[None]:
        """What is written in here counts once all of it is on the disk, and only then do older ones go.

        Where it can't be written, as on a full disk, the training goes on without it, and says so.
        """
        folder = self.folder / f"checkpoint-{step}"
        try:
            yield
            _settle(folder, step, self.seconds)
        except (OSError, RuntimeError, SafetensorError) as error:
            shutil.rmtree(folder, ignore_errors=True)
            reason = " ".join(str(error).split())
            warnings.warn(
                f"no checkpoint after step {step}: {reason}; stopped now, the training would go on from the one before",
                RuntimeWarning,
                stacklevel=2,
            )
        else:
            for other in self.folder.glob("checkpoint-*"):
                if other != folder:
                    (other / WHOLE).unlink(missing_ok=True)  # first: half of it must not count
                    shutil.rmtree(other, ignore_errors=True)
        self._count()
        self._saved = self._told

    def _count(self) -> None:
        now = time.perf_counter()
        self.seconds += now - self._told
        self._told = now


def _last(folder: Path) -> Path | None:
    """The newest checkpoint that says that it is whole."""
    return max(
        (marker.parent for marker in folder.glob(f"checkpoint-*/{WHOLE}")),
        key=lambda path: int(path.name.removeprefix("checkpoint-")),
        default=None,
    )


def _settle(folder: Path, step: int, seconds: float) -> None:
    """Put a checkpoint onto the disk, and say in it what it is."""
    for file in folder.iterdir():
        _flush(file)
    _write(folder / WHOLE, {"step": step, "seconds": seconds, "files": _digests(folder)})
    _flush(folder.parent)


def _checked(folder: Path) -> Checkpoint:
    """A checkpoint whose files are those that were written."""
    whole = _read(folder / WHOLE)
    wanted, step, seconds = (whole.get(key) for key in ("files", "step", "seconds"))
    if not isinstance(wanted, dict) or type(step) is not int or type(seconds) is not float:
        raise _damaged(folder / WHOLE, "it isn't what was written")
    found = _digests(folder)
    for name in sorted({*found, *wanted}):
        if found.get(name) != wanted.get(name):
            raise _damaged(folder / name, "it isn't what was written")
    return Checkpoint(folder, step, seconds)


def _refuse_foreign(folder: Path) -> None:
    names = {file.name for file in folder.iterdir()} if folder.is_dir() else set()
    is_ours = folder.is_dir() and (RECIPE in names or all(name.startswith(f".{RECIPE}.") for name in names))
    if (folder.exists() or folder.is_symlink()) and not is_ours:
        raise FileExistsError(
            f"{str(folder)!r} is where a training keeps its checkpoints, but something else is there; move it away, or "
            "name another `out`"
        )


def _read(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise _damaged(file, str(error)) from error
    if not isinstance(content, dict):
        raise _damaged(file, f"it holds a {type(content).__name__}, not an object")
    return content


def _damaged(file: Path, reason: str) -> ValueError:
    folder = next(parent for parent in file.parents if parent.name.endswith(".training"))
    return ValueError(
        f"a training was stopped, but {str(file)!r} can't be used to go on with it: {reason}; delete {str(folder)!r}, "
        "and it begins anew"
    )


def _write(file: Path, content: Mapping[str, Any]) -> None:
    with atomic_write(file, flush=True) as partial:
        partial.write_text(json.dumps(content, indent=1), encoding="utf-8")


def _flush(path: Path) -> None:
    """Put a file, or a folder's names, onto the disk."""
    if path.is_dir() and os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file of a checkpoint but the one that tells them, in hexadecimal; of a folder none."""
    files = sorted(file for file in folder.iterdir() if file.name != WHOLE)
    return {file.name: _digest(file) if file.is_file() else "" for file in files}


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
