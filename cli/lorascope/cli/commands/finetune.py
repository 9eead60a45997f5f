"""`lorascope finetune`."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from lorascope.capture import FinetuneConfig, load_model, read_items
from lorascope.capture import finetune as finetune_model
from lorascope.capture.finetune import refuse_used

from ..quiet import quiet_libraries
from ..screen import progress_bar, say

__all__ = ["finetune"]


def finetune(
    *,
    model: str,
    data: tuple[str, ...],
    out: Path,
    held_out: tuple[str, ...] = (),
    device: str = "cpu",
    dtype: str = "auto",
    config: Annotated[FinetuneConfig, Parameter(name="*")] = FinetuneConfig(),  # noqa: B008 (frozen)
) -> None:
    """Train a LoRA adapter on every linear layer of attention and FFN; the base stays frozen.

    The loss is on the answers only. Learning rate, batch and optimiser are those of arXiv 2501.03152.

    Parameters
    ----------
    model
        The base model: a hub id, a local folder, or a .gguf file.
    data
        Files to train on: JSON Lines of multiple-choice items, or plain text.
    out
        Folder of the adapter, new or empty.
    held_out
        Files to score before and after.
    device
        Where to train: cpu, cuda, cuda:1 ...
    dtype
        Type of the frozen base: auto (the checkpoint's own), float32, float16 or bfloat16.
    """
    quiet_libraries()
    refuse_used(out)  # before minutes of loading
    train = [item for path in data for item in read_items(path)]
    evaluate = [item for path in held_out for item in read_items(path)]
    loaded, tokenizer = load_model(model, dtype=dtype, device=device)
    with progress_bar("finetune") as update:
        result = finetune_model(loaded, tokenizer, train, out, config, items_eval=evaluate or None, progress=update)
    for name, scores in (("before", result.before), ("after", result.after)):
        if scores is not None:
            accuracy = "" if scores.accuracy is None else f", accuracy {scores.accuracy:.3f}"
            say(f"{name}: CE {scores.ce:.4f} nat/token{accuracy} on {scores.n_samples} held-out samples")
    say(f"adapter: {result.path} after {result.train_seconds:.0f} s of training")
