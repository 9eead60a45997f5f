"""A new LoRA adapter, and transformers' Trainer with the settings of `FinetuneConfig`.

MIUB is the Jensen-Shannon divergence of softmax(base) and softmax(base + delta), summed over components.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import PrinterCallback, Trainer, TrainingArguments
from transformers.pytorch_utils import Conv1D

from ..config import FinetuneConfig
from ..models.passes import restoring_modes
from ..samples.encoded import EncodedSample, pad
from ..samples.records import IGNORED
from .callback import KIND, LAYER, MiubCallback
from .checkpoints import Checkpoints


class TrainingStep(NamedTuple):
    """Loss, learning rate and gradient norm of one optimiser step."""

    loss: float
    """Mean negative log-likelihood of the batch's target tokens before the step, nats per token."""
    learning_rate: float
    """Learning rate of the step."""
    grad_norm: float
    """2-norm of the adapter's gradient before clipping."""


def lora_targets(model: torch.nn.Module) -> list[str]:
    """Return the names of the linear layers (Linear, Conv1D) in the model's numbered blocks: attention and FFN.

    Embeddings, the output layer and other modules outside the blocks are excluded, and so are experts that a model
    keeps as one three-dimensional weight. Raises a ValueError if there are no such layers.
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


@contextmanager
def seed_and_restore(model: Any, seed: int) -> Iterator[None]:
    """Seed the global random generators within the context; afterwards restore them, and the model's modes.

    PEFT and Trainer use these generators.
    """
    settings = dict(vars(model.config))
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 - it is the global state that must be kept
    devices = [device for device in {p.device for p in model.parameters()} if device.type == "cuda"]
    try:
        with restoring_modes(model), torch.random.fork_rng(devices):
            torch.manual_seed(seed)
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002 - see above
        vars(model.config).clear()  # Trainer sets use_cache, also where a model has no such setting
        vars(model.config).update(settings)


@contextmanager
def new_adapter(model: Any, config: FinetuneConfig) -> Iterator[Any]:
    """Yield the model wrapped by PEFT with a new LoRA adapter; the adapter is removed afterwards."""
    targets = lora_targets(model)
    peft_model = get_peft_model(
        model,
        LoraConfig(
            task_type="CAUSAL_LM",
            r=config.rank,
            lora_alpha=2 * config.rank if config.alpha is None else config.alpha,
            lora_dropout=config.dropout,
            target_modules=targets,
            fan_in_fan_out=all(isinstance(model.get_submodule(name), Conv1D) for name in targets),
        ),
    )
    try:
        yield peft_model
    finally:
        peft_model.unload()


def train(
    model: Any,
    samples: Sequence[EncodedSample],
    checkpoints: Checkpoints,
    config: FinetuneConfig,
    probe: MiubCallback | None,
) -> tuple[tuple[TrainingStep, ...], dict[str, Any], dict[str, Any] | None]:
    """Train the adapter; return the optimiser steps, Trainer's settings, and MIUB by step (None without `probe`)."""
    device = next(model.parameters()).device
    micro_batch_size = config.micro_batch_size or config.batch_size
    arguments = TrainingArguments(
        output_dir=str(checkpoints.folder),
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
    trainer = _Trainer(
        checkpoints,
        model=model,
        args=arguments,
        train_dataset=list(samples),
        data_collator=collate,
        callbacks=[checkpoints] if probe is None else [probe, checkpoints],
    )
    trainer.remove_callback(PrinterCallback)  # it prints every step if there is no progress bar
    trainer.train(resume_from_checkpoint=None if checkpoints.last is None else str(checkpoints.last))
    history = trainer.state.log_history
    names = ("optim", "adam_beta1", "adam_beta2", "adam_epsilon", "weight_decay", "max_grad_norm", "lr_scheduler_type")
    # to_dict turns the enumerations among them into plain texts.
    settings = arguments.to_dict()  # type: ignore[no-untyped-call]  # transformers leaves it untyped
    used = {name: settings[name] for name in names} | {"mixed_precision": trainer.accelerator.mixed_precision}
    steps = tuple(TrainingStep(*(entry[name] for name in TrainingStep._fields)) for entry in history if "loss" in entry)
    return steps, used, None if probe is None else _miub_curve(history, probe.samples, checkpoints.seconds)


def _miub_curve(
    history: Sequence[Mapping[str, Any]], samples: Sequence[EncodedSample], train_seconds: float
) -> dict[str, Any]:
    """Return MIUB by step from Trainer's log, as JSON values in nats; its parts are lists in the order of names.

    Parts are the sums over the components of a layer, or of a kind such as `q_proj`.
    """
    entries = [entry for entry in history if "miub" in entry]
    layers, kinds = ([key for key in entries[-1] if key.startswith(start)] for start in (LAYER, KIND))
    seconds = sum(entry["miub_seconds"] for entry in entries)
    return {
        "unit": "nat",
        "samples": [[sample.dataset, sample.id] for sample in samples],
        "n_tokens": sum(len(sample.token_ids) for sample in samples),
        "layers": [int(key.removeprefix(LAYER)) for key in layers],
        "kinds": [key.removeprefix(KIND) for key in kinds],
        "steps": [
            {
                "step": entry["step"],
                "miub": entry["miub"],
                "ce": entry.get("ce"),
                "layers": [entry[key] for key in layers],
                "kinds": [entry[key] for key in kinds],
                "seconds": entry["miub_seconds"],
            }
            for entry in entries
        ],
        "seconds": seconds,
        "share": seconds / train_seconds,
    }


def collate(samples: Sequence[EncodedSample]) -> dict[str, Tensor]:
    """Return Trainer's inputs and labels for a batch of samples; non-target tokens have the label `IGNORED`."""
    input_ids, attention_mask = pad(samples)
    labels = torch.full_like(input_ids, IGNORED)
    for row, sample in enumerate(samples):
        targets = torch.from_numpy(np.flatnonzero(sample.is_target))
        labels[row, targets] = input_ids[row, targets]
    return {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels}


class _Trainer(Trainer):
    """Trainer whose checkpoints contain the adapter only, and count once they are on the disk."""

    def __init__(self, checkpoints: Checkpoints, **options: Any) -> None:
        """Make a Trainer with these options; `checkpoints` decides which checkpoints count and stay."""
        super().__init__(**options)
        self._checkpoints = checkpoints

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Save a checkpoint, which counts once all of it is on the disk."""
        with self._checkpoints.saving(self.state.global_step):
            super()._save_checkpoint(model, trial)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Save the adapter alone, without the base model and its embeddings."""
        model: Any = self.model
        model.save_pretrained(output_dir, save_embedding_layers=False)  # as `finetune` does
