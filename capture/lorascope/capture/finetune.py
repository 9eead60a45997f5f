"""Fine-tuning: a LoRA adapter on every linear layer of attention and FFN."""

import dataclasses
import json
import math
import os
import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.pytorch_utils import Conv1D

from lorascope.stores.places.alone import alone

from .adapters.adapter import adapter_identity
from .adapters.training import RECORD
from .callback import MiubCallback
from .checkpoints import Checkpoints, begin, going_on
from .config import FinetuneConfig
from .curve import MiubCurve, few_of_each, miub_curve
from .models.model import context_length, model_identity
from .provenance import data_fingerprint, device_description
from .samples.batches import pad
from .samples.encode import EncodedSample, encode_items
from .samples.items import Item
from .samples.scoring import score

__all__ = ["Evaluation", "FinetuneResult", "TrainingStep", "finetune", "lora_targets"]

IGNORED = -100
"""The label that transformers' losses pass over."""

MACHINE = ("name", "threads", "instructions")
"""What of a device's description may change while a training is stopped."""

Progress = Callable[[int, int], None]


class TrainingStep(NamedTuple):
    """One optimiser step."""

    loss: float
    """Mean negative log-likelihood of the batch's target tokens before the step, nats per token."""
    learning_rate: float
    """Step size used."""
    grad_norm: float
    """2-norm of the adapter's gradient before it was clipped."""


class Evaluation(NamedTuple):
    """How the model does on held-out samples."""

    ce: float
    """Mean over samples of the cross-entropy of the right answer (or the text), nats per token."""
    accuracy: float | None
    """Share of choice samples whose right choice is the likeliest; None if there are only texts."""
    accuracy_per_token: float | None
    """The same by log-likelihood per token."""
    n_samples: int
    """Number of samples."""


class FinetuneResult(NamedTuple):
    """What came of a fine-tuning."""

    path: Path
    """Folder of the adapter."""
    steps: tuple[TrainingStep, ...]
    """The optimiser steps, in order."""
    before: Evaluation | None
    """The held-out samples without the adapter; None if there are none."""
    after: Evaluation | None
    """The held-out samples with the trained adapter; None if there are none."""
    train_seconds: float
    """Wall time of the training's steps, with what MIUB took of it; before it was stopped, of those that counted."""
    miub: MiubCurve | None
    """MIUB on held-out samples while it trained; None where it wasn't measured."""


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
    """Train a LoRA adapter and save it as a PEFT folder; returns losses and held-out scores, in nats per token.

    Parameters
    ----------
    model
        A causal language model of transformers without adapters. It trains on the device where it is, and is
        afterwards as it was before.
    tokenizer
        Its fast tokenizer.
    items_train
        What to train on: for multiple-choice items the loss is on the right answer's tokens, for texts on every token
        but a window's first.
    out
        The adapter's folder, new or empty.
    config
        How to train.
    items_eval
        Held-out items, scored before and after; a few of them are what MIUB is measured on.
    progress
        Called after each optimiser step with the number of steps done and of all, and where it goes on.

    Raises
    ------
    FileExistsError
        If `out` exists and isn't an empty folder, or another process trains it.
    StoreError
        If a training of other settings, data, base weights or libraries was stopped there.
    ValueError
        If the model has an adapter already, no linear layers, or no stated context where `max_length` isn't given; or
        if items can't be encoded (see `encode_items`); or if MIUB is to be measured without held-out items; or the
        checkpoint of a training that was stopped isn't what was written.
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

    Every five minutes all that the training needs goes to `.{name}.training` beside `out`. One that was stopped goes on
    from there when it is called again likewise, and ends with the same weights, losses and scores: on the same CPU with
    as many threads, to the last bit. One that diverged or ended leaves nothing there.
    """
    place = Path(os.path.abspath(out))
    refuse_used(place)
    if hasattr(model, "peft_config"):
        raise ValueError("the model has an adapter already; give the base model, loaded without it")
    if config.miub_every is not None and not items_eval:
        raise ValueError(
            f"`miub_every` is {config.miub_every}, but there are no held-out items to measure MIUB on; give some, or "
            "leave it out"
        )
    max_length = config.max_length or context_length(model)
    if max_length is None:
        raise ValueError(f"the model is a {type(model).__name__}, which states no context; give `max_length`")

    def encode(items: Sequence[Item]) -> list[EncodedSample]:
        return encode_items(items, tokenizer, max_length=max_length, window_tokens=config.window_tokens)

    train_samples = encode(items_train)
    eval_samples = None if items_eval is None else encode(items_eval)
    fingerprints = {
        "data": data_fingerprint(train_samples),
        "held_out": data_fingerprint(eval_samples) if eval_samples else None,
    }
    with (
        alone(place),
        _restoring(model),
        _seeding(config.seed, model),
        going_on(place) as folder,
    ):
        refuse_used(place)  # another process may have made it meanwhile
        model.eval()
        base = model_identity(model, str(getattr(model, "name_or_path", "")))
        checkpoint = begin(folder, _recipe(config, base, fingerprints, next(model.parameters()).device))
        before = _evaluate(model, eval_samples, config)
        with _lora(model, config) as peft_model:
            checkpoints = Checkpoints(folder, checkpoint)
            probe = _probe(eval_samples, config)
            steps, settings, curve = _train(peft_model, train_samples, checkpoints, config, progress, probe)
            _refuse_non_finite(peft_model, steps)
            after = _evaluate(peft_model.eval(), eval_samples, config)
            # Else PEFT asks the hub whether the base model's vocabulary was resized.
            adapter = folder / "adapter"
            if adapter.exists():  # of an attempt that was killed while it saved
                shutil.rmtree(adapter)
            peft_model.save_pretrained(adapter, save_embedding_layers=False)
        result = FinetuneResult(Path(out), steps, before, after, checkpoints.seconds, curve)
        record = _record(result, config, settings, train_samples)
        record |= {"model": base, "adapter_sha256": adapter_identity(adapter)["sha256"]}
        (adapter / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        adapter.rename(place)
    return result


def lora_targets(model: torch.nn.Module) -> list[str]:
    """Names of the linear layers (Linear, Conv1D) inside the model's numbered blocks: those of attention and FFN.

    Embeddings, the output layer and what else stands outside the blocks are left out, as are experts that a model
    keeps as one three-dimensional weight.

    Raises
    ------
    ValueError
        If there are none.
    """
    targets = [
        name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear | Conv1D) and any(part.isdecimal() for part in name.split("."))
    ]
    if not targets:
        raise ValueError(
            f"the model is a {type(model).__name__} without linear layers in numbered blocks; nothing to adapt"
        )
    return targets


def refuse_used(out: Path) -> None:
    """Raise a `FileExistsError` unless an adapter may be written here."""
    if out.is_symlink() or (out.exists() and not (out.is_dir() and not any(out.iterdir()))):
        raise FileExistsError(f"`out` is {str(out)!r}, which is there already; give a new or empty folder")


@contextmanager
def _restoring(model: Any) -> Iterator[None]:
    """Puts training modes, requires_grad flags and the model's settings back."""
    training = [(module, module.training) for module in model.modules()]
    trainable = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    settings = dict(vars(model.config))
    try:
        yield
    finally:
        for module, mode in training:
            module.training = mode
        for parameter, flag in trainable:
            parameter.requires_grad_(flag)
        # Trainer sets use_cache, also where a model has no such setting.
        vars(model.config).clear()
        vars(model.config).update(settings)


@contextmanager
def _seeding(seed: int, model: torch.nn.Module) -> Iterator[None]:
    """Seeds the global generators, which PEFT and Trainer draw from, and puts their states back."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 - it is the global state that must be kept
    devices = [device for device in {p.device for p in model.parameters()} if device.type == "cuda"]
    try:
        with torch.random.fork_rng(devices):
            torch.manual_seed(seed)
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002 - see above


@contextmanager
def _lora(model: Any, config: FinetuneConfig) -> Iterator[Any]:
    """The model with a new adapter, taken out of it afterwards."""
    targets = lora_targets(model)
    peft_config = LoraConfig(
        task_type="CAUSAL_LM",
        r=config.rank,
        lora_alpha=2 * config.rank if config.alpha is None else config.alpha,
        lora_dropout=config.dropout,
        target_modules=targets,
        fan_in_fan_out=all(isinstance(model.get_submodule(name), Conv1D) for name in targets),
    )
    peft_model = get_peft_model(model, peft_config)
    try:
        yield peft_model
    finally:
        peft_model.unload()


class _Report(TrainerCallback):
    """Passes the number of steps on; at the start, of those done before it was stopped."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step:
            self._progress(state.global_step, state.max_steps)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._progress(state.global_step, state.max_steps)


def _probe(samples: Sequence[EncodedSample] | None, config: FinetuneConfig) -> MiubCallback | None:
    """What measures MIUB while the model trains, on a few of the held-out samples."""
    if samples is None or config.miub_every is None:
        return None
    return MiubCallback(few_of_each(samples, config.miub_samples), every=config.miub_every)


class _Trainer(Trainer):
    """Trainer whose checkpoints hold the adapter alone, and count once they are on the disk."""

    def __init__(self, checkpoints: Checkpoints, **options: Any) -> None:
        super().__init__(**options)
        self._checkpoints = checkpoints

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        with self._checkpoints.saving(self.state.global_step):
            super()._save_checkpoint(model, trial)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        model: Any = self.model
        model.save_pretrained(output_dir, save_embedding_layers=False)  # as `finetune` does


def _train(
    model: Any,
    samples: Sequence[EncodedSample],
    checkpoints: Checkpoints,
    config: FinetuneConfig,
    progress: Progress | None,
    probe: MiubCallback | None,
) -> tuple[tuple[TrainingStep, ...], dict[str, Any], MiubCurve | None]:
    """The steps taken, what Trainer was told or took by default, and MIUB meanwhile."""
    arguments = _arguments(checkpoints.folder, config, next(model.parameters()).device)
    trainer = _Trainer(
        checkpoints,
        model=model,
        args=arguments,
        train_dataset=list(samples),
        data_collator=_collate,
        callbacks=[callback for callback in (probe, progress and _Report(progress), checkpoints) if callback],
    )
    trainer.remove_callback(PrinterCallback)  # it prints every step where there is no progress bar
    trainer.train(resume_from_checkpoint=checkpoints.last and str(checkpoints.last.path))
    steps = tuple(
        TrainingStep(entry["loss"], entry["learning_rate"], entry["grad_norm"])
        for entry in trainer.state.log_history
        if "loss" in entry
    )
    names = ("optim", "adam_beta1", "adam_beta2", "adam_epsilon", "weight_decay", "max_grad_norm", "lr_scheduler_type")
    # to_dict turns the enumerations among them into plain texts.
    settings = arguments.to_dict()  # type: ignore[no-untyped-call]  # transformers leaves it untyped
    curve = None if probe is None else miub_curve(trainer.state.log_history, probe.samples, checkpoints.seconds)
    told = {name: settings[name] for name in names} | {"mixed_precision": trainer.accelerator.mixed_precision}
    return steps, told, curve


def _arguments(folder: Path, config: FinetuneConfig, device: torch.device) -> TrainingArguments:
    micro_batch_size = config.micro_batch_size or config.batch_size
    arguments = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=micro_batch_size,
        gradient_accumulation_steps=config.batch_size // micro_batch_size,
        num_train_epochs=config.epochs,
        max_steps=config.max_steps or -1,
        learning_rate=config.learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=0,
        weight_decay=0.0,
        seed=config.seed,
        use_cpu=device.type == "cpu",
        dataloader_pin_memory=device.type == "cuda",
        remove_unused_columns=False,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        logging_steps=1,
        logging_nan_inf_filter=False,
    )
    # Trainer would spread a batch over all GPUs, and so multiply the batch size by their number.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments


def _collate(samples: Sequence[EncodedSample]) -> dict[str, Tensor]:
    """Inputs and labels of a batch; labels stand only where there is something to predict."""
    input_ids, attention_mask = pad(samples)
    labels = torch.full_like(input_ids, IGNORED)
    for row, sample in enumerate(samples):
        targets = torch.from_numpy(np.flatnonzero(sample.is_target))
        labels[row, targets] = input_ids[row, targets]
    return {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels}


def _refuse_non_finite(model: torch.nn.Module, steps: Sequence[TrainingStep]) -> None:
    for number, step in enumerate(steps, start=1):
        if not math.isfinite(step.loss):
            raise FloatingPointError(f"the loss of step {number} is {step.loss!r}; give a lower `learning_rate`")
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and not parameter.isfinite().all():
            raise FloatingPointError(f"the trained weight {name!r} isn't finite; give a lower `learning_rate`")


def _evaluate(model: Any, samples: Sequence[EncodedSample] | None, config: FinetuneConfig) -> Evaluation | None:
    if samples is None:
        return None
    scores = score(model, samples, batch_tokens=config.score_batch_tokens)
    return Evaluation(
        ce=float(scores.ce.mean()),
        accuracy=_share(scores.correct),
        accuracy_per_token=_share(scores.correct_per_token),
        n_samples=len(samples),
    )


def _share(correct: np.ndarray) -> float | None:
    """Share of hits among the samples with choices."""
    known = correct[correct >= 0]
    return float(known.mean()) if len(known) else None


def _recipe(
    config: FinetuneConfig, base: dict[str, Any], fingerprints: dict[str, Any], device: torch.device
) -> dict[str, Any]:
    """What shapes a training's numbers: the same for two attempts at one."""
    return {
        "config": dataclasses.asdict(config),
        "model": {key: value for key, value in base.items() if key != "name"},
        **fingerprints,
        "libraries": _library_versions(),
        # Another machine may go on, within one type of device.
        "device": {key: value for key, value in device_description(device).items() if key not in MACHINE},
        "mixed_precision": os.environ.get("ACCELERATE_MIXED_PRECISION", "no"),  # which Trainer obeys
    }


def _library_versions() -> dict[str, str]:
    return {name: version(name) for name in ("lorascope", "torch", "transformers", "peft", "accelerate")}


def _record(
    result: FinetuneResult, config: FinetuneConfig, settings: dict[str, Any], samples: Sequence[EncodedSample]
) -> dict[str, Any]:
    """What `finetune.json` holds."""
    return {
        "config": dataclasses.asdict(config),
        "trainer": settings,
        "data": sorted({f"{sample.dataset}.{sample.split}".strip(".") for sample in samples}),
        "n_samples": len(samples),
        "n_target_tokens": int(sum(sample.is_target.sum() for sample in samples)),
        "libraries": _library_versions(),
        "steps": [step._asdict() for step in result.steps],
        "before": result.before and result.before._asdict(),
        "after": result.after and result.after._asdict(),
        "train_seconds": result.train_seconds,
        "miub": result.miub and result.miub.as_dict(),
    }
