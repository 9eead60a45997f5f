"""A new LoRA adapter in a model that is afterwards as it was before."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from transformers.pytorch_utils import Conv1D

from ..adapters.passes import restoring_modes
from ..config import FinetuneConfig

__all__ = ["lora_targets", "new_adapter", "restoring", "seeding"]


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


@contextmanager
def restoring(model: Any) -> Iterator[None]:
    """Puts training modes, requires_grad flags and the model's settings back."""
    settings = dict(vars(model.config))
    with restoring_modes(model):
        try:
            yield
        finally:  # Trainer sets use_cache, also where a model has no such setting
            vars(model.config).clear()
            vars(model.config).update(settings)


@contextmanager
def seeding(seed: int, model: torch.nn.Module) -> Iterator[None]:
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
def new_adapter(model: Any, config: FinetuneConfig) -> Iterator[Any]:
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
