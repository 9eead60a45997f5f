"""Checkpoints of a training: one that was stopped goes on from the last of them, and ends as if it had never been."""

import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from transformers import TrainerCallback

from .resume import require_same

__all__ = ["Checkpoint", "Checkpoints", "begin", "going_on", "last_checkpoint", "training_folder"]

SECONDS = 300.0
"""Wall time of training from one checkpoint to the next, and so the most of it that a kill costs."""
RECIPE, WHOLE = "recipe.json", "whole.json"
"""Files of the training that made a folder's checkpoints, and of a checkpoint all of which is on the disk."""


class Checkpoint(NamedTuple):
    """All that a training needs to go on."""

    path: Path
    step: int
    """Optimiser steps done."""
    seconds: float
    """Wall time that they took."""


def training_folder(out: str | Path) -> Path:
    """Where the checkpoints of an adapter lie while it trains: beside it."""
    out = Path(out).absolute()
    return out.with_name(f".{out.name}.training")


def last_checkpoint(folder: Path) -> Checkpoint | None:
    """The newest one that is whole; None if there is none."""
    found = [_checkpoint(marker) for marker in folder.glob(f"checkpoint-*/{WHOLE}")]
    return max(found, key=lambda checkpoint: checkpoint.step, default=None)


def begin(folder: Path, recipe: Mapping[str, Any]) -> Checkpoint | None:
    """Make the folder of a training, or find what it may go on from.

    Raises
    ------
    StoreError
        If a training of other settings, data, base weights or libraries was stopped there.
    """
    marker = folder / RECIPE
    if last_checkpoint(folder) is None:  # nothing to lose
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        marker.write_text(json.dumps(recipe, indent=1), encoding="utf-8")
        return None
    stored = json.loads(marker.read_text(encoding="utf-8"))
    advice = "repeat the command that began it, or delete that folder to begin anew"
    require_same(stored, recipe, f"the training that was stopped in {str(folder)!r} was another", advice)
    return last_checkpoint(folder)


@contextmanager
def going_on(out: str | Path) -> Iterator[Path]:
    """The folder of a training's checkpoints, which stays when it is stopped and has one, unless it diverged."""
    folder = training_folder(out)
    try:
        yield folder
    except BaseException as error:
        if isinstance(error, FloatingPointError) or last_checkpoint(folder) is None:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    shutil.rmtree(folder)


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
        """Wall time of the training when it was last told, with that before it was stopped."""
        self._told = self._saved = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Begin to count."""
        self._told = self._saved = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Ask for one when it is time; not after the last step, from which Trainer would take one more."""
        self._count()
        if state.global_step < state.max_steps and self._told - self._saved >= SECONDS:
            control.should_save = True

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Only what is on the disk counts, and only then do older ones go."""
        folder = self.folder / f"checkpoint-{state.global_step}"
        for file in folder.iterdir():
            _flush(file)
        partial = folder / f".{WHOLE}.partial"
        partial.write_text(json.dumps({"step": state.global_step, "seconds": self.seconds}), encoding="utf-8")
        _flush(partial)
        partial.rename(folder / WHOLE)
        for other in self.folder.glob("checkpoint-*"):
            if other != folder:
                (other / WHOLE).unlink(missing_ok=True)  # first: half of it must not count
                shutil.rmtree(other)
        self._count()
        self._saved = self._told

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Count to the end."""
        self._count()

    def _count(self) -> None:
        now = time.perf_counter()
        self.seconds += now - self._told
        self._told = now


def _checkpoint(marker: Path) -> Checkpoint:
    found = json.loads(marker.read_text(encoding="utf-8"))
    return Checkpoint(marker.parent, found["step"], found["seconds"])


def _flush(file: Path) -> None:
    with file.open("r+b") as stream:
        os.fsync(stream.fileno())
