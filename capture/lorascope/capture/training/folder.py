"""The folder of a training's checkpoints; this module doesn't import torch."""

from pathlib import Path

WHOLE = "whole.json"
"""Name of the file that shows that a checkpoint is complete, with the SHA-256 of its files."""


def training_folder(out: Path) -> Path:
    """Return the folder, next to the adapter's folder `out`, that contains checkpoints during the training."""
    return out.with_name(f".{out.name}.training")


def last_checkpoint(folder: Path) -> Path | None:
    """Return the folder of the newest complete checkpoint; None if no checkpoint is complete."""
    whole = [marker.parent for marker in folder.glob(f"checkpoint-*/{WHOLE}")]
    return max(whole, key=lambda path: int(path.name.removeprefix("checkpoint-")), default=None)
