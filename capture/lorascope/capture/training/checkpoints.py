"""Checkpoints of a training: a stopped training continues from the last one and ends with the same weights."""

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
from lorascope.stores.places.files import atomic_write, flush_to_disk, full_disk_error
from lorascope.stores.progress import Progress
from lorascope.stores.visible import visible

from ..settling.provenance import require_same_identity
from .folder import WHOLE, last_checkpoint, training_folder

SECONDS = 300.0
"""Seconds of training between two checkpoints."""
RECIPE = "recipe.json"
"""Name of the file that describes the training of a folder."""


class Checkpoints(TrainerCallback):
    """Trainer callback that asks for a checkpoint every five minutes, keeps the newest, and reports progress."""

    def __init__(self, folder: Path, last: Path | None, seconds: float) -> None:
        """Keep checkpoints in `folder`; the training continues from `last`, after `seconds` of steps so far."""
        self.folder = folder
        """Folder of the checkpoints: Trainer's `output_dir`."""
        self.last = last
        """The checkpoint from which the training continues; None for a new training."""
        self.seconds = seconds
        """Seconds of all steps so far, with the steps before the training was stopped."""
        self.progress: Progress | None = None
        """Function that is called after each step with the steps done, the number of all steps, and the loss."""
        self._counted = self._saved = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Start the clock; if the training was resumed, report the steps already done."""
        self._counted = self._saved = time.perf_counter()
        if self.progress is not None and state.global_step:
            self.progress(state.global_step, state.max_steps)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Ask Trainer for a checkpoint if the last one is five minutes old, except after the last step.

        After it, Trainer would add a step to the checkpoint.
        """
        self._count_time()
        if state.global_step < state.max_steps and self._counted - self._saved >= SECONDS:
            control.should_save = True

    def on_log(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Report a step with its loss to `progress` when Trainer logs the loss."""
        if self.progress is not None and "loss" in more["logs"]:
            self.progress(state.global_step, state.max_steps, f"steps, loss {more['logs']['loss']:.4g}")

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Add the time of the last steps to `self.seconds`."""
        self._count_time()

    @contextmanager
    def saving(self, step: int) -> Iterator[None]:
        """Mark the checkpoint written within the context as complete once it is on the disk; delete older ones.

        If it can't be written, as on a full disk, the training continues without it, with a warning.
        """
        folder = self.folder / f"checkpoint-{step}"
        try:
            yield
            for file in folder.iterdir():
                flush_to_disk(file)
            _write_json(folder / WHOLE, {"seconds": self.seconds, "files": _digests(folder)})
            flush_to_disk(self.folder)
        except (OSError, RuntimeError, SafetensorError) as error:
            shutil.rmtree(folder, ignore_errors=True)
            reason = visible(" ".join(str(error).split()))
            warnings.warn(
                f"no checkpoint after step {step}: {reason}; stopped now, the training continues from an earlier one",
                RuntimeWarning,
                stacklevel=2,
            )
        else:
            for other in self.folder.glob("checkpoint-*"):
                if other != folder:
                    (other / WHOLE).unlink(missing_ok=True)  # first, so that a half deleted one doesn't count
                    shutil.rmtree(other, ignore_errors=True)
        self._count_time()
        self._saved = self._counted

    def _count_time(self) -> None:
        """Add the seconds since the last call to `self.seconds`."""
        now = time.perf_counter()
        self.seconds += now - self._counted
        self._counted = now


@contextmanager
def resume(out: Path, recipe: Mapping[str, Any]) -> Iterator[Checkpoints]:
    """Yield the checkpoints of the training of `out`, new or stopped before; StoreError if that was another one.

    They are deleted afterwards, unless the training is stopped after its first checkpoint without diverging.
    """
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
        _write_json(folder / RECIPE, recipe)
    else:
        advice = "repeat the command that began it, or delete that folder to begin again"
        what = f"the training that was stopped in {str(folder)!r} was another"
        require_same_identity(_read_json(folder / RECIPE), recipe, what, advice)
        seconds = _checked_seconds(last)
        for other in folder.glob("checkpoint-*"):
            if other != last:  # half written, or half deleted
                shutil.rmtree(other)
    try:
        yield Checkpoints(folder, last, seconds)
    except BaseException as error:
        newest = last_checkpoint(folder)
        full = full_disk_error(error, out, "nothing of it is left" if newest is None else f"`{newest}` is left")
        if isinstance(error, FloatingPointError) or newest is None:
            shutil.rmtree(folder, ignore_errors=True)
        if full is not None:
            raise full from error
        raise
    shutil.rmtree(folder, ignore_errors=True)


def _checked_seconds(checkpoint: Path) -> float:
    """Return the seconds of training up to a checkpoint; raise ValueError if one of its files has changed."""
    whole, digests = _read_json(checkpoint / WHOLE), _digests(checkpoint)
    expected, seconds = whole.get("files"), whole.get("seconds")
    if not isinstance(expected, dict) or not isinstance(seconds, float):
        raise _damage_error(checkpoint / WHOLE, "it isn't what was written")
    for name in sorted({*digests, *expected}):
        if digests.get(name) != expected.get(name):
            raise _damage_error(checkpoint / name, "it isn't what was written")
    return seconds


def _read_json(file: Path) -> dict[str, Any]:
    """Return the JSON object in a file of a stopped training; raise ValueError with advice if it can't be read."""
    try:
        return dict(read_json(file))
    except (OSError, TypeError, ValueError) as error:
        raise _damage_error(file, str(error)) from error


def _damage_error(file: Path, reason: str) -> ValueError:
    """Return a ValueError that says why a stopped training can't continue from a file, and what to delete."""
    folder = next(parent for parent in file.parents if parent.name.endswith(".training"))
    return ValueError(
        f"a training was stopped, but {str(file)!r} can't be used to continue it: {reason}; delete {str(folder)!r}, "
        "and it begins again"
    )


def _write_json(file: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON object to a file, all of it or nothing, and flush it to the disk."""
    with atomic_write(file, flush=True) as partial:
        partial.write_text(json.dumps(content, indent=1), encoding="utf-8")


def _digests(folder: Path) -> dict[str, str]:
    """Return file name -> SHA-256 of every file of a checkpoint except the one that lists them."""
    digests = {}
    for file in folder.iterdir():
        if file.name != WHOLE and file.is_file():
            with file.open("rb") as stream:
                digests[file.name] = hashlib.file_digest(stream, "sha256").hexdigest()
    return digests
