"""`lorascope finetune`."""

from functools import partial
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from lorascope.capture.config import FinetuneConfig
from lorascope.capture.models.gguf import describe_loading
from lorascope.capture.settling.early import read_small_data
from lorascope.capture.settling.inputs import require_training_inputs

from ..screen import aside, describe_training, progress_bar, quiet_libraries, report_when_stopped, say


def finetune(
    *,
    model: str,
    data: tuple[str, ...],
    out: Path,
    held_out: tuple[str, ...] = (),
    device: str = "auto",
    dtype: str = "auto",
    share: int = 1,
    shared_layers: int = 16,
    share_from: Literal["first", "mean"] = "first",
    config: Annotated[FinetuneConfig, Parameter(name="*")] = FinetuneConfig(),  # noqa: B008 (frozen)
) -> None:
    """Train a LoRA adapter on every linear layer of attention and FFN.

    The base stays frozen. The same command continues a training that was stopped.

    Parameters
    ----------
    model
        The base model: a hub id, a local folder, or a .gguf file.
    data
        Training data: files (.jsonl, .parquet, .txt), or data sets such as `piqa:train`; docs/data.md names formats.
    out
        Folder of the adapter, new or empty.
    held_out
        Data to score before and after the training, in the same formats.
    device
        Device of the training: auto (a GPU if there is one), cpu, cuda, cuda:1 ...
    dtype
        Type of the frozen base: auto (the checkpoint's own), float32, float16 or bfloat16.
    share
        Number of neighbouring layers that share one set of base weights; 1 for the model as it is.
    shared_layers
        Number of last layers that are put into such groups; a multiple of `--share`.
    share_from
        Weights of a group: those of its first layer, or the mean over its layers.
    """
    require_training_inputs(model=model, data=(*data, *held_out), out=out)
    for path in (*data, *held_out):  # each alone: files may have items in common
        read_small_data([path])
    say(describe_loading(model, dtype), to=aside)

    with report_when_stopped(partial(describe_training, out)):
        from lorascope.capture import finetune as finetune_model
        from lorascope.capture import load_model, read_items

        quiet_libraries()
        train = [item for path in data for item in read_items(path)]
        evaluate = [item for path in held_out for item in read_items(path)]
        loaded, tokenizer = load_model(
            model, dtype=dtype, device=device, share=share, shared_layers=shared_layers, share_from=share_from
        )
        with progress_bar("finetune") as update:
            result = finetune_model(loaded, tokenizer, train, out, config, items_eval=evaluate or None, progress=update)
    for name, scores in (("before", result.before), ("after", result.after)):
        if scores is not None:
            accuracy = "" if scores.accuracy is None else f", accuracy {scores.accuracy:.3f}"
            say(f"{name}: CE {scores.ce:.4f} nat/token{accuracy} on {scores.n_samples} held-out samples")
    if result.miub is not None:
        last, n_samples = result.miub["steps"][-1], len(result.miub["samples"])
        cost = f"measuring it took {100 * result.miub['share']:.0f} % of the training"
        say(f"MIUB: {last['miub']:.4g} nat after step {last['step']}, on {n_samples} held-out samples; {cost}")
    say(f"adapter: {result.path} after {result.train_seconds:.0f} s of training")
