"""Training modes and gradient flags of a model, put back as they were."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from ..errors import CaptureError

__all__ = ["evaluating", "restoring_modes"]


@contextmanager
def restoring_modes(model: nn.Module) -> Iterator[None]:
    """Put every module's training mode and every parameter's requires_grad flag back afterwards."""
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
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode for every module, checked; afterwards all modes and requires_grad flags are as they were."""
    with restoring_modes(model):
        model.eval()
        stubborn = [name for name, module in model.named_modules() if module.training]
        if stubborn:
            raise CaptureError(
                f"module {stubborn[0]!r} stays in training mode after `eval()` ({len(stubborn)} such); "
                "dropout would add noise to every delta"
            )
        yield
