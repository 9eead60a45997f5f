"""transformers' Trainer, told what `FinetuneConfig` says and nothing else, and what it logged."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from lorascope.stores.progress import Progress

from ..config import FinetuneConfig
from ..samples.batches import pad
from ..samples.encode import EncodedSample
from .callback import MiubCallback
from .checkpoints import Checkpoints
from .curve import MiubCurve, miub_curve

__all__ = ["TrainingStep", "collate", "train"]

IGNORED = -100
"""The label that transformers' losses pass over."""


class TrainingStep(NamedTuple):
    """One optimiser step."""

    loss: float
    """Mean negative log-likelihood of the batch's target tokens before the step, nats per token."""
    learning_rate: float
    """Step size used."""
    grad_norm: float
    """2-norm of the adapter's gradient before it was clipped."""


def train(
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
        data_collator=collate,
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


def collate(samples: Sequence[EncodedSample]) -> dict[str, Tensor]:
    """Inputs and labels of a batch; labels stand only where there is something to predict."""
    input_ids, attention_mask = pad(samples)
    labels = torch.full_like(input_ids, IGNORED)
    for row, sample in enumerate(samples):
        targets = torch.from_numpy(np.flatnonzero(sample.is_target))
        labels[row, targets] = input_ids[row, targets]
    return {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels}


class _Report(TrainerCallback):
    """Passes the number of steps on; at the start, of those done before it was stopped."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step:
            self._progress(state.global_step, state.max_steps)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._progress(state.global_step, state.max_steps)


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
