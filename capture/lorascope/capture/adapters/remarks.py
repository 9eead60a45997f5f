"""What a reader of a run should know about its adapters and its base: nothing that keeps them from being captured."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from peft import PeftModel
from peft.tuners.lora import Embedding, LoraLayer
from torch import nn
from transformers.pytorch_utils import Conv1D

from .components import adapted_modules, left_out
from .fit import is_residual
from .refusal import adapter_tensors, idle_layers

__all__ = ["Note", "remarks"]


class Note(NamedTuple):
    """Something worth knowing."""

    kind: str
    """One of `zero`, `residual`, `quantised`, `skipped`, `training`."""
    message: str
    places: tuple[str, ...]
    """Layers or weights that it is true of."""

    def as_dict(self) -> dict[str, Any]:
        """The note as JSON has it."""
        return {"kind": self.kind, "message": self.message, "places": list(self.places)}


def remarks(model: PeftModel, adapters: Sequence[str], *, skipped: Sequence[str]) -> Iterator[Note]:
    """Notes on adapters that can be captured; `skipped` are paths that were found to have no token axis.

    What the run's own columns say (`delta_source`, `fused`) isn't repeated.
    """
    for name in adapters:
        yield from _weights(model, name)
        yield from _left_out(model, name, skipped)
    yield from _base(model, adapters)


def _weights(model: PeftModel, name: str) -> Iterator[Note]:
    config: Any = model.peft_config[name]
    idle = idle_layers(adapter_tensors(model, name))
    zero = tuple(path for path, is_idle in idle.items() if is_idle)
    if zero:
        message = f"{len(zero)} of {len(idle)} lora_B of {name!r} are zero, so it leaves those layers alone"
        yield Note("zero", message, zero)
    if is_residual(config):
        made = "kasa" if getattr(config, "kasa_config", None) else config.init_lora_weights
        yield Note("residual", f"residual base: the init {made!r} of {name!r} changed the base weights", (name,))


def _left_out(model: PeftModel, name: str, skipped: Sequence[str]) -> Iterator[Note]:
    """Layers that the adapter changes and that aren't captured, by reason."""
    reasons: dict[str, list[str]] = {}
    for path, (_, module) in adapted_modules(model, name).items():
        pooled = "it puts out something else than one vector a token" if path in skipped else None
        if reason := left_out(path, module) or pooled:
            reasons.setdefault(reason, []).append(path)
    for reason, places in reasons.items():
        message = f"{name!r} changes this too, which isn't captured: {reason}; the other layers' states are unaffected"
        yield Note("skipped", message, tuple(places))


def _base(model: PeftModel, adapters: Sequence[str]) -> Iterator[Note]:
    quantised: dict[str, list[str]] = {}
    modules = {path: m for name in adapters for path, (_, m) in adapted_modules(model, name).items()}
    for path, module in modules.items():
        if isinstance(module, LoraLayer) and left_out(path, module) is None and (kind := _quantised(module)):
            quantised.setdefault(kind, []).append(path)
    for kind, places in quantised.items():
        message = f"quantised base ({kind}): its outputs are those of the quantised layer"
        if kind == "Linear8bitLt":
            message += ", which depend on what else is in the batch"
        yield Note("quantised", message, tuple(places))


def _quantised(module: Any) -> str | None:
    """What keeps the frozen weights in fewer bits; None where they are plain floating-point numbers."""
    inner: Any = module.get_base_layer()
    weight = getattr(inner, "weight", None)
    if not isinstance(inner, nn.Linear | nn.Embedding | Conv1D) and not isinstance(module, Embedding):
        return type(inner).__name__
    if type(inner).__module__.startswith("bitsandbytes"):
        return type(inner).__name__
    if isinstance(weight, torch.Tensor) and type(weight) not in {torch.Tensor, nn.Parameter}:
        return type(weight).__name__
    return None if isinstance(weight, torch.Tensor) and weight.is_floating_point() else type(inner).__name__
