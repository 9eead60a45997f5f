"""The forward passes of a stream, and context managers for the state of model and adapters that a pass needs."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from peft.helpers import rescale_adapter_scale
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper

from lorascope.capture.errors import CaptureError


@dataclass(frozen=True, slots=True)
class Pass:
    """One forward pass over a batch: with one adapter active (`adapted`) or with none (`base`)."""

    name: Literal["adapted", "base"]
    adapter: str | None
    """The adapter that is active; None in a base pass."""

    @contextmanager
    def enabled(self, model: torch.nn.Module) -> Iterator[None]:
        """Let only this pass's adapter (or none) act on the model within the context; afterwards restore all flags.

        PEFT's own switches would also change `requires_grad` and enable disabled layers, so its flags are set directly.
        """
        layers: list[Any] = [m for m in model.modules() if isinstance(m, BaseTunerLayer | AuxiliaryTrainingWrapper)]
        before = [(layer, layer._disable_adapters, layer._active_adapter) for layer in layers]
        try:
            for layer in layers:
                layer._disable_adapters = self.adapter is None
                if self.adapter is not None:
                    layer._active_adapter = [self.adapter] if self.adapter in layer._get_available_adapters() else []
            yield
        finally:
            for layer, disabled, active in before:
                layer._disable_adapters, layer._active_adapter = disabled, active


@contextmanager
def scaled_adapter(model: torch.nn.Module, adapter: str, scale: float) -> Iterator[None]:
    """Let only this adapter act within the context, with its scaling multiplied by `scale`; no adapter for 0.

    Weights that replace the base's (`modules_to_save`) have no scaling, and act as they are.
    """
    pass_ = Pass("adapted", adapter) if scale else Pass("base", None)
    with rescale_adapter_scale(model, scale), pass_.enabled(model):
        yield


@contextmanager
def disabled_adapters(layers: Sequence[Any]) -> Iterator[None]:
    """Make these PEFT layers compute without their adapter within the context; other layers stay as they are.

    This removes exactly what an adapter does in them: DoRA's scaling, a bias, trained weights that replace the base's.
    """
    before = [(layer, layer._disable_adapters) for layer in layers]
    try:
        for layer in layers:
            layer._disable_adapters = True
        yield
    finally:
        for layer, disabled in before:
            layer._disable_adapters = disabled


def stream_passes(stream: str, adapters: Sequence[str]) -> tuple[Pass, ...]:
    """Return the forward passes over a batch for `stream`: adapter on (`adapted`), off (`base`) or both (`pair`).

    Raises
    ------
    ValueError
        If the stream isn't known, or doesn't take this number of adapters.
    """
    if stream not in {"adapted", "base", "pair"}:
        raise ValueError(f"`stream` is {stream!r}; allowed are 'adapted', 'base' and 'pair'")
    if stream == "base" and adapters:
        return (Pass("base", None),)
    if len(adapters) != 1:
        allowed = "at least one adapter" if stream == "base" else "exactly one adapter ('base' takes any number)"
        raise ValueError(f"stream {stream!r} has adapters {list(adapters)}; it takes {allowed}")
    adapted = Pass("adapted", adapters[0])
    return (adapted,) if stream == "adapted" else (Pass("base", None), adapted)


def n_change_passes(stream: str, adapters: Sequence[str]) -> int:
    """Return the number of passes over a batch that next-token changes take apart from those of `stream`."""
    return 1 + len(adapters) - len(stream_passes(stream, adapters))


@contextmanager
def restoring_modes(model: torch.nn.Module) -> Iterator[None]:
    """Restore every module's training mode and every parameter's requires_grad flag when the context ends."""
    modes = [(module, module.training) for module in model.modules()]
    gradients = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
        for parameter, flag in gradients:
            parameter.requires_grad_(flag)


@contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Put every module into eval mode within the context, and raise CaptureError if one stays in training mode.

    Afterwards modes and requires_grad flags are as before.
    """
    with restoring_modes(model):
        model.eval()
        stubborn = [name for name, module in model.named_modules() if module.training]
        if stubborn:
            raise CaptureError(
                f"module {stubborn[0]!r} stays in training mode after `eval()` ({len(stubborn)} such); "
                "dropout would add noise to every delta"
            )
        yield


@contextmanager
def isolated(model: torch.nn.Module, device: torch.device) -> Iterator[None]:
    """Put the model into eval mode within the context, without the caller's autocast and inference mode."""
    with evaluating(model), torch.inference_mode(False), torch.autocast(device.type, enabled=False):
        yield
