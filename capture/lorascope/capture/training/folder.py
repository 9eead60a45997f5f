"""The folder of a training's checkpoints, without torch."""

from pathlib import Path

WHOLE = "whole.json"
"""File that says that all of a checkpoint is on the disk, with its files' SHA-256."""


def training_folder(out: Path) -> Path:
    """The folder next to an adapter's that holds its checkpoints during the training."""
    return out.with_name(f".{out.name}.training")


def last_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint."""
    whole = [marker.parent for marker in folder.glob(f"checkpoint-*/{WHOLE}")]
    return max(whole, key=lambda path: int(path.name.removeprefix("checkpoint-")), default=None)
