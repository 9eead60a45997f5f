"""Checkpoints of a training: after a stop it continues from the last one, and ends with the same weights."""

import hashlib
import json
import shutil
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers import TrainerCallback

from lorascope.stores.json_document import read_json
from lorascope.stores.places.files import atomic_write, flush_to_disk
from lorascope.stores.progress import Progress
from lorascope.stores.visible import visible

from ..settling.resume import require_same
from .folder import WHOLE, last_checkpoint, training_folder

SECONDS = 300.0
"""Wall time of training after which the next step ends in a checkpoint."""
RECIPE = "recipe.json"
"""File that says what training a folder is of."""


class Checkpoints(TrainerCallback):
    """Write a checkpoint every five minutes, keep the newest whole one, and report progress."""

    def __init__(self, folder: Path, last: Path | None, seconds: float) -> None:
        self.folder = folder
        """Where they go: Trainer's `output_dir`."""
        self.last = last
        """The checkpoint that the training continues from."""
        self.seconds = seconds
        """Wall time of all steps so far, with those before the training was stopped."""
        self.progress: Progress | None = None
        """Called after each step with the number of steps done and of all, and the loss."""
        self._counted = self._saved = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Begin to count."""
        self._counted = self._saved = time.perf_counter()
        if self.progress is not None and state.global_step:
            self.progress(state.global_step, state.max_steps)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Ask for a checkpoint when it is time; not after the last step, from which Trainer would take one more."""
        self._count()
        if state.global_step < state.max_steps and self._counted - self._saved >= SECONDS:
            control.should_save = True

    def on_log(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Report a step, whose loss Trainer logs right after it."""
        if self.progress is not None and "loss" in more["logs"]:
            self.progress(state.global_step, state.max_steps, f"steps, loss {more['logs']['loss']:.4g}")

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Count to the end."""
        self._count()

    @contextmanager
    def saving(self, step: int) -> Iterator[None]:
        """Write a checkpoint in this block; it counts once it is on the disk, and only then older ones are deleted.

        Where it can't be written, as on a full disk, the training continues without it, with a warning.
        """
        folder = self.folder / f"checkpoint-{step}"
        try:
            yield
            for file in folder.iterdir():
                flush_to_disk(file)
            _write(folder / WHOLE, {"seconds": self.seconds, "files": _digests(folder)})
            flush_to_disk(self.folder)
        except (OSError, RuntimeError, SafetensorError) as error:
            shutil.rmtree(folder, ignore_errors=True)
            reason = visible(" ".join(str(error).split()))
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
        self._saved = self._counted

    def _count(self) -> None:
        now = time.perf_counter()
        self.seconds += now - self._counted
        self._counted = now


@contextmanager
def resume(out: Path, recipe: Mapping[str, Any]) -> Iterator[Checkpoints]:
    """The checkpoints of a training; they stay if the training is stopped after the first one, unless it diverged."""
    folder = training_folder(out)
    names = {file.name for file in folder.iterdir()} if folder.is_dir() else set()
    is_ours = folder.is_dir() and (RECIPE in names or all(name.startswith(f".{RECIPE}.") for name in names))
    if (folder.exists() or folder.is_symlink()) and not is_ours:
        raise FileExistsError(
            f"{str(folder)!r} is where a training keeps its checkpoints, but something else is there; move it away, or "
            "name another `out`"
        )
    last, seconds = last_checkpoint(folder), 0.0
    if last is None:  # nothing to lose
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
        _write(folder / RECIPE, recipe)
    else:
        advice = "repeat the command that began it, or delete that folder to begin anew"
        what = f"the training that was stopped in {str(folder)!r} was another"
        require_same(_read(folder / RECIPE), recipe, what, advice)
        seconds = _checked_seconds(last)
        for other in folder.glob("checkpoint-*"):
            if other != last:  # half written, or half deleted
                shutil.rmtree(other)
    try:
        yield Checkpoints(folder, last, seconds)
    except BaseException as error:
        if isinstance(error, FloatingPointError) or last_checkpoint(folder) is None:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    shutil.rmtree(folder, ignore_errors=True)


def _checked_seconds(checkpoint: Path) -> float:
    """Wall time up to a checkpoint, whose files are those that were written."""
    whole, digests = _read(checkpoint / WHOLE), _digests(checkpoint)
    expected, seconds = whole.get("files"), whole.get("seconds")
    if not isinstance(expected, dict) or not isinstance(seconds, float):
        raise _damaged(checkpoint / WHOLE, "it isn't what was written")
    for name in sorted({*digests, *expected}):
        if digests.get(name) != expected.get(name):
            raise _damaged(checkpoint / name, "it isn't what was written")
    return seconds


def _read(file: Path) -> dict[str, Any]:
    try:
        return dict(read_json(file))
    except (OSError, TypeError, ValueError) as error:
        raise _damaged(file, str(error)) from error


def _damaged(file: Path, reason: str) -> ValueError:
    folder = next(parent for parent in file.parents if parent.name.endswith(".training"))
    return ValueError(
        f"a training was stopped, but {str(file)!r} can't be used to continue it: {reason}; delete {str(folder)!r}, "
        "and it begins anew"
    )


def _write(file: Path, content: Mapping[str, Any]) -> None:
    with atomic_write(file, flush=True) as partial:
        partial.write_text(json.dumps(content, indent=1), encoding="utf-8")


def _digests(folder: Path) -> dict[str, str]:
    """SHA-256, in hexadecimal, of every file of a checkpoint but the one that lists them."""
    digests = {}
    for file in folder.iterdir():
        if file.name != WHOLE and file.is_file():
            with file.open("rb") as stream:
                digests[file.name] = hashlib.file_digest(stream, "sha256").hexdigest()
    return digests
