"""Fine-tuning: a LoRA adapter on every linear layer of attention and FFN.

MIUB is the Jensen-Shannon divergence of softmax(base) and softmax(base + delta), summed over components.
"""

import dataclasses
import json
import math
import os
import shutil
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd  # type: ignore[import-untyped]
import torch

from lorascope.stores.places.file_lock import file_lock
from lorascope.stores.progress import Progress

from ..config import FinetuneConfig
from ..models.adapter import adapter_identity
from ..models.model import model_identity
from ..models.training_record import RECORD
from ..samples.encode import encode_items
from ..samples.encoded import EncodedSample
from ..samples.items import Item
from ..samples.scoring import score
from ..settling.inputs import require_unused
from ..settling.provenance import data_fingerprint, device_description, library_versions
from .callback import MiubCallback, stated_context
from .checkpoints import resume
from .trainer import TrainingStep, new_adapter, seed_and_restore, train

MACHINE = ("name", "threads", "instructions")
"""Fields of a device's description that may differ when a training is resumed: another machine may continue it."""


class Evaluation(NamedTuple):
    """Scores of a model on held-out samples: cross-entropy and accuracy."""

    ce: float
    """Mean over samples of the cross-entropy of the right answer (or the text), nats per token."""
    accuracy: float | None
    """Share of questions whose right choice is the likeliest; None if there are only texts."""
    accuracy_per_token: float | None
    """Share of questions whose right choice has the highest log-likelihood per token; None if there are only texts."""
    n_samples: int
    """Number of samples."""


class FinetuneResult(NamedTuple):
    """Result of `finetune`: the adapter's folder, optimiser steps, held-out scores, seconds and MIUB."""

    path: Path
    """Folder of the adapter."""
    steps: tuple[TrainingStep, ...]
    """The optimiser steps, in order."""
    before: Evaluation | None
    """Scores without the adapter; None without held-out samples."""
    after: Evaluation | None
    """Scores with the trained adapter; None without held-out samples."""
    train_seconds: float
    """Seconds of the training's steps and MIUB measurements, without time lost by a stop."""
    miub: dict[str, Any] | None
    """MIUB on held-out samples during the training, as in `finetune.json`; None if it wasn't measured."""


def finetune(
    model: Any,
    tokenizer: Any,
    items_train: Sequence[Item],
    out: str | Path,
    config: FinetuneConfig,
    *,
    items_eval: Sequence[Item] | None = None,
    progress: Progress | None = None,
) -> FinetuneResult:
    """Train a LoRA adapter and save it as a PEFT folder; return losses and held-out scores, in nats per token.

    Parameters
    ----------
    model
        A causal language model of transformers without adapters. It is trained on its current device. Afterwards the
        model is as before.
    tokenizer
        Its fast tokenizer.
    items_train
        Items to train on. The loss is on the tokens of the right answer, of a completion, or of the assistant in a
        chat; for texts on every token except a window's first.
    out
        The adapter's folder, new or empty.
    config
        Settings of the training.
    items_eval
        Held-out items, scored before and after the training. MIUB is measured on a few of them.
    progress
        Called after each optimiser step with the number of steps done, the number of all steps, and its loss as a text;
        and without a loss when a training is resumed.

    Raises
    ------
    FileExistsError
        If `out` exists and isn't an empty folder, or another process trains it.
    StoreError
        If a training of other settings, data, base weights or libraries was stopped there.
    ValueError
        If the model has an adapter already, no linear layers, or no stated context and `max_length` isn't given; or
        if items can't be encoded (see `encode_items`); or if MIUB is to be measured without held-out items; or the
        checkpoint of a stopped training was changed.
    FloatingPointError
        If the loss or a trained weight isn't finite.

    Notes
    -----
    AdamW without weight decay (`transformers.Trainer`, whose defaults hold for what `FinetuneConfig` doesn't name:
    betas 0.9 and 0.999, eps 1e-8, gradients clipped to norm 1), learning rate falling linearly to 0. A loss is the
    mean over the target tokens of its batch. The base stays frozen; the adapter's weights are float32. The global
    random state is left as it was. On a CPU the same seed, data and number of threads give the same weights.

    The folder holds `adapter_config.json` and `adapter_model.safetensors` as PEFT writes them, and `finetune.json`:
    settings, library versions, losses, scores, and which base model it was, with how its layers share weights. It
    appears under its name only when complete.

    Every five minutes a checkpoint is written to `.{name}.training` next to `out`. If the training is stopped, call it
    again with the same arguments: it continues from the checkpoint and ends with the same weights, losses and scores;
    on the same CPU with as many threads, bit for bit. The checkpoint is deleted when the training ends or diverges.
    """
    place = Path(os.path.abspath(out))
    require_unused(place)
    if hasattr(model, "peft_config"):
        raise ValueError("the model has an adapter already; give the base model, loaded without it")
    if config.miub_every is not None and not items_eval:
        raise ValueError(
            f"`miub_every` is {config.miub_every}, but there are no held-out items to measure MIUB on; give some, or "
            "leave it out"
        )
    max_length = config.max_length or stated_context(model)
    encode = partial(encode_items, tokenizer=tokenizer, max_length=max_length, window_tokens=config.window_tokens)
    train_samples, eval_samples = encode(items_train), None if items_eval is None else encode(items_eval)
    with file_lock(place), seed_and_restore(model, config.seed):
        require_unused(place)  # another process may have made it meanwhile
        # Frozen as in the training: whether weights require gradients affects the last digits of scores.
        model.eval().requires_grad_(False)
        base = model_identity(model, str(getattr(model, "name_or_path", "")))
        recipe = _recipe(config, base, train_samples, eval_samples, next(model.parameters()).device)
        with resume(place, recipe) as checkpoints:
            checkpoints.progress = progress
            before = _evaluate(model, eval_samples, config)
            with new_adapter(model, config) as peft_model:
                probe = None
                if eval_samples is not None and config.miub_every is not None:
                    probe = MiubCallback(_samples_of_each(eval_samples, config.miub_samples), every=config.miub_every)
                steps, settings, miub = train(peft_model, train_samples, checkpoints, config, probe)
                _refuse_non_finite(peft_model, steps)
                after = _evaluate(peft_model.eval(), eval_samples, config)
                adapter = checkpoints.folder / "adapter"
                if adapter.exists():  # of an attempt that was killed while it saved
                    shutil.rmtree(adapter)
                # Else PEFT asks the hub whether the base model's vocabulary was resized.
                peft_model.save_pretrained(adapter, save_embedding_layers=False)
            result = FinetuneResult(Path(out), steps, before, after, checkpoints.seconds, miub)
            record = _record_content(result, recipe, settings, train_samples)
            record |= {"model": base, "adapter_sha256": adapter_identity(adapter)["sha256"]}
            (adapter / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
            adapter.rename(place)
    return result


def _evaluate(model: Any, samples: Sequence[EncodedSample] | None, config: FinetuneConfig) -> Evaluation | None:
    """Return cross-entropy and accuracy of the model on held-out samples; None without samples."""
    if samples is None:
        return None
    scores = score(model, samples, batch_tokens=config.score_batch_tokens)
    hits = [correct[correct >= 0] for correct in (scores.correct, scores.correct_per_token)]
    accuracy, per_token = (float(np.mean(known)) if len(known) else None for known in hits)
    return Evaluation(float(scores.ce.mean()), accuracy, per_token, n_samples=len(samples))


def _samples_of_each(samples: Sequence[EncodedSample], n: int) -> list[EncodedSample]:
    """Return n samples, taken from the start of each data set in turn; all if there are fewer."""
    codes, _ = pd.factorize(np.array([sample.dataset for sample in samples], object))
    turns = pd.Series(codes).groupby(codes).cumcount()
    return [samples[index] for index in np.lexsort((codes, turns))[:n]]


def _refuse_non_finite(model: torch.nn.Module, steps: Sequence[TrainingStep]) -> None:
    """Raise FloatingPointError if a loss or a trained weight isn't finite."""
    for number, step in enumerate(steps, start=1):
        if not math.isfinite(step.loss):
            raise FloatingPointError(f"the loss of step {number} is {step.loss!r}; give a lower `learning_rate`")
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and not parameter.isfinite().all():
            raise FloatingPointError(f"the trained weight {name!r} isn't finite; give a lower `learning_rate`")


def _recipe(
    config: FinetuneConfig,
    base: Mapping[str, Any],
    samples: Sequence[EncodedSample],
    held_out: Sequence[EncodedSample] | None,
    device: torch.device,
) -> dict[str, Any]:
    """Return all that affects a training's numbers, as JSON values; equal for two attempts at the same training."""
    versions = library_versions()
    return {
        "config": dataclasses.asdict(config),
        "model": {key: value for key, value in base.items() if key != "name"},
        "data": data_fingerprint(samples),
        "held_out": data_fingerprint(held_out) if held_out else None,
        "libraries": {name: versions[name] for name in ("lorascope", "torch", "transformers", "peft", "accelerate")},
        "device": {key: value for key, value in device_description(device).items() if key not in MACHINE},
        "mixed_precision": os.environ.get("ACCELERATE_MIXED_PRECISION", "no"),  # which Trainer obeys
    }


def _record_content(
    result: FinetuneResult, recipe: Mapping[str, Any], settings: dict[str, Any], samples: Sequence[EncodedSample]
) -> dict[str, Any]:
    """Return the content of `finetune.json`: settings, data, libraries, steps, scores, seconds and MIUB."""
    return {
        "config": recipe["config"],
        "trainer": settings,
        "data": sorted({f"{sample.dataset}.{sample.split}".strip(".") for sample in samples}),
        "n_samples": len(samples),
        "n_target_tokens": int(sum(sample.is_target.sum() for sample in samples)),
        "libraries": recipe["libraries"],
        "steps": [step._asdict() for step in result.steps],
        "before": result.before and result.before._asdict(),
        "after": result.after and result.after._asdict(),
        "train_seconds": result.train_seconds,
        "miub": result.miub,
    }
