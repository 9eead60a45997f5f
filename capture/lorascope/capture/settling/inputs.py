"""Checks of a stage's inputs and of its output's place, without heavy imports, so that commands check first."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorascope.stores.errors import StoreError
from lorascope.stores.format.layout import IN_RUN

from ..config import CaptureConfig
from ..models.source import adapter_weights_file, locate_model, require_adapter_settings, require_widths
from ..samples.prompt import read_template
from ..samples.reply_prompts import read_reply_prompts
from ..samples.sources import require_data

IN_MEMORY = "(in memory)"
"""End of the names of inputs that were in memory, not in files."""

if TYPE_CHECKING:
    from lorascope.stores import Run


def require_inputs(
    config: CaptureConfig,
    *,
    model_given: bool = False,
    data_given: bool = False,
    weights: bool = True,
    writes: bool = True,
) -> None:
    """Raise an error unless a capture's model, adapters and data exist, and its run can be written to `out`.

    Parameters
    ----------
    config
        A capture's settings.
    model_given
        Whether the model is loaded already, so that its files and its adapters' needn't exist.
    data_given
        Whether the data is read already, so that its files needn't exist.
    weights
        Whether the model's weights must exist.
    writes
        Whether a run is to be written to `out`.

    Raises
    ------
    FileNotFoundError, ValueError
        If a model, file of data, prompt or example doesn't exist, isn't of the kind that its name says, or was only in
        memory.
    AdapterError
        If a folder lacks one of the two files of an adapter.
    StoreError
        If `out` contains something other than a run.
    """
    named = {} if model_given else {"model": (config.model,), "adapter": config.adapter}
    named |= {} if data_given else {"data": config.data}
    if lost := [f"`{name}`" for name, texts in named.items() if any(text.endswith(IN_MEMORY) for text in texts)]:
        raise ValueError(
            f"{', '.join(lost)} of this capture was in memory; name files with the same content, or pass what "
            "`capture` was given (`reforward(path, k, model=..., tokenizer=..., data=...)`)"
        )
    if writes:
        require_writable(config.out)
    read_reply_prompts(config.replies)
    prompts = [read_template(name) for name in config.prompt]
    shows_examples = any(prompt.shows_examples for prompt in prompts)
    files = [path for path in config.data if not (data_given or path.endswith(IN_RUN))]
    for path in (*files, *(config.examples if shows_examples else ())):
        require_data(path)
    if isinstance(config.neutral, str):
        try:
            require_data(config.neutral)
        except (FileNotFoundError, ValueError) as error:
            kind = FileNotFoundError if isinstance(error, FileNotFoundError) else ValueError
            raise kind(f"`neutral` is a number of texts or a file of texts, but {error}") from error
    if not model_given:
        model, options = locate_model(config.model, dtype=config.dtype, weights=weights)
        for folder in config.adapters.values():
            require_adapter_settings(Path(folder))
            adapter_weights_file(Path(folder))
            if weights and "gguf_file" not in options:  # `plan` lists all problems
                require_widths(Path(model), Path(folder))
    if writes and "://" not in config.out:  # an object store is asked once, by the capture itself
        from lorascope.stores.reading.state import run_state  # and Zarr, which takes half a second

        run_state(config.out)


def require_training_inputs(*, model: str, data: Iterable[str], out: Path) -> None:
    """Raise an error unless a fine-tuning's model and data exist, and `out` is new or empty; see `require_inputs`."""
    require_unused(out)
    for path in data:
        require_data(path)
    locate_model(model)


def require_writable(out: str) -> None:
    """Raise ValueError if a run can't be written to `out`: a folder without permission, or inside another store."""
    local = out.removeprefix("file://")
    if "://" in local:
        return
    place = Path(local).absolute()
    parent = next(folder for folder in (place, *place.parents) if folder.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        what = "can't be written to" if parent.is_dir() else "is a file"
        raise ValueError(f"`out` is {out!r}, but `{parent}` {what}; name another place")
    if inside := [folder for folder in place.parents if (folder / "zarr.json").exists()]:
        raise ValueError(f"`out` is {out!r}, inside the store `{inside[0]}`; name a place outside of it")


def require_unused(out: Path) -> None:
    """Raise FileExistsError unless this folder is new or empty, so that an adapter can be written into it."""
    if out.is_symlink() or (out.exists() and not (out.is_dir() and not any(out.iterdir()))):
        # Its record says too little about the training to compare it with this one.
        what = ": the adapter of a training that is complete" if (out / "finetune.json").is_file() else ""
        raise FileExistsError(f"`out` is {str(out)!r}, which is there already{what}; give a new or empty folder")


def settings_of_run(run: "Run", overrides: Mapping[str, Any]) -> CaptureConfig:
    """Return the settings that a run was captured with, changed by `overrides`; StoreError if they aren't known."""
    provenance = dict(run.attributes.get("provenance") or {})
    settings = provenance.get("settings")
    if not isinstance(settings, dict):
        raise StoreError(f"`{run.path}` doesn't say how it was captured, so that nothing can be computed again")
    if any(step.get("how") == "pull" for step in provenance.get("copied", [])):
        raise StoreError(f"`{run.path}` was pulled from another run and is a part of it; compute that one again")
    known = {field.name for field in fields(CaptureConfig)}
    stored = {name: tuple(value) if isinstance(value, list) else value for name, value in settings.items()}
    unknown = sorted(stored.keys() - known)
    if unknown:
        raise StoreError(f"`{run.path}` was captured with settings that this lorascope doesn't know: {unknown}")
    return CaptureConfig(**{"changes": "none", **stored, **overrides})  # older runs have no changes
