"""The model of a capture, with its adapters attached, on its device."""

from typing import Any, NamedTuple

import torch
from peft import PeftModel

from .adapters.adapter import attach_adapters, require_folder
from .adapters.preflight import require_adapter
from .config import CaptureConfig
from .models.device import input_device, named_device
from .models.model import load_model, model_identity
from .ranks import Ranks

__all__ = ["Loaded", "load"]


class Loaded(NamedTuple):
    """A model ready to be measured."""

    model: Any
    """A `PeftModel` in whatever mode it came."""
    tokenizer: Any
    adapters: tuple[str, ...]
    """Names of the adapters that are captured."""
    device: torch.device
    """Where token ids go in."""
    identity: dict[str, Any]
    """Of the base model."""


def load(config: CaptureConfig, model: Any, tokenizer: Any, ranks: Ranks) -> Loaded:
    """The model that `config` names with its adapters, or the one given, which stays where it is.

    Raises
    ------
    AdapterError
        If an adapter doesn't fit the model, or is untrained, merged or disabled.
    ValueError, FileNotFoundError
        If the model can't be read.
    """
    if model is not None:
        identity = model_identity(model, config.model)
        return Loaded(model, tokenizer, _carried(model, config), input_device(model), identity)
    for folder in config.adapters.values():
        require_folder(folder)  # before minutes of loading
    model, tokenizer = load_model(
        config.model,
        dtype=config.dtype,
        device=str(named_device(config.device, local_rank=ranks.local_rank)),
        device_map=config.device_map,
        trust_remote_code=config.trust_remote_code,
    )
    # Before the adapters: PiSSA and its like change the base weights while they are attached.
    identity = model_identity(model, config.model)
    model = attach_adapters(model, config.adapters, allow_zero=config.allow_zero)
    return Loaded(model, tokenizer, tuple(config.adapters), input_device(model), identity)


def _carried(model: Any, config: CaptureConfig) -> tuple[str, ...]:
    """Adapters of a model that was given: all of them in stream base, else the active one."""
    if config.stream == "base" and isinstance(model, PeftModel):
        return tuple(model.peft_config)
    return (require_adapter(model, allow_zero=config.allow_zero),)
