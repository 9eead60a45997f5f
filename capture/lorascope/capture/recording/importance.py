"""Gradients of a model's predictions by a scale on each direction of what an adapter adds, from backward passes.

To second order KL(adapted || adapted without a part) is half the Fisher information of a scale on that part. With
labels drawn from the adapted model's own predictions it is the mean of a squared gradient, divided by the tokens: cross
terms of tokens vanish, since labels are independent and a score has mean zero (Martens 2020, JMLR 21:146, section 5).
"""

import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from peft.tuners.lora import Embedding
from torch.nn.modules.module import register_module_forward_hook
from torch.utils.checkpoint import checkpoint

from ..errors import CaptureError
from ..models.branches import lora_bias, singular_directions
from ..models.components import LoraComponent
from ..models.passes import Pass, disabled_adapters, restoring_modes
from ..models.ranks import Ranks
from ..samples.encoded import EncodedSample, plan_batches
from ..samples.scoring import draw_ids, logit_parts
from .forward import run_pass
from .layout import Layout
from .progress import Report, counting

MOST_SAMPLES = 32
"""Largest number of samples whose gradients are taken: enough for errors over samples."""

NO_GRADIENT = (
    "no gradient passes {}, and importance needs those of every layer: leave `importance` out, or load the model "
    "without quantising it"
)
"""Message on a module or operation that stops gradients."""


def choose_samples(n_samples: int, seed: int) -> np.ndarray:
    """Return the indices, ascending, of the samples whose gradients are taken: a seeded choice of at most 32."""
    return np.sort(np.random.default_rng(seed).permutation(n_samples)[:MOST_SAMPLES])


def all_gradients(
    layout: Layout, model: Any, device: torch.device, ranks: Ranks, progress: Report, *, draws: int, batch_tokens: int
) -> dict[str, np.ndarray]:
    """Return path in the run -> gradients of every adapter's directions, and what they are of; ranks share the batches.

    Raises
    ------
    CaptureError
        If a layer stops gradients, or a gradient isn't finite.
    """
    seed = layout.plan.seed
    chosen = choose_samples(len(layout.samples), seed)
    numbered = [(int(number), layout.samples[number]) for number in chosen]
    lengths = [len(sample.token_ids) for _, sample in numbered]
    axis = {component.path: index for index, component in enumerate(layout.spec.components)}
    values: dict[str, np.ndarray] = {}
    for adapter, components in layout.components.items():
        scaled = [_ScaledDelta(component, adapter) for component in components]

        def work(own: Sequence[tuple[int, EncodedSample]], scaled: list[_ScaledDelta] = scaled) -> np.ndarray:
            """Return the gradients (pass, direction) of samples, each given with its number in the run."""
            report, blocks = counting(progress, "importance", "batches"), []
            batches = plan_batches([len(sample.token_ids) for _, sample in own], batch_tokens=batch_tokens)
            for batch in batches:
                blocks.append(_gradients(model, own[batch], device, scaled, draws=draws, seed=seed))
                report(len(blocks), len(batches))
            return np.concatenate(blocks)

        with Pass("adapted", adapter).enabled(model), _scaling(model, scaled):
            parts = ranks.map_batches(numbered, plan_batches(lengths, batch_tokens=batch_tokens), work)
        columns = {
            "gradient": np.concatenate(parts),
            "sample": chosen.repeat(draws),
            "draw": np.tile(np.arange(draws), len(chosen)),
            "n_tokens": np.repeat(lengths, draws),
            "component": np.concatenate([np.full(len(delta.numbers), axis[delta.path]) for delta in scaled]),
            "direction": np.concatenate([delta.numbers for delta in scaled]),
            "singular_value": np.concatenate([delta.sizes for delta in scaled]),
        }
        values |= {f"adapters/{adapter}/importance/{name}": column for name, column in columns.items()}
    return values


class _ScaledDelta:
    """A component's delta with a scale of 1 on each of its directions; autograd takes gradients by these scales."""

    def __init__(self, component: LoraComponent, adapter: str) -> None:
        """Find the directions: those of scaling * B A and of a bias of lora_B; else the whole delta is one."""
        self.path, module = component.path, component.module
        self.columns: torch.Tensor | None = None
        self.bias = torch.zeros(())
        self.numbers, self.sizes = np.zeros(1, np.int32), np.full(1, np.nan)
        self.module = module
        """Module whose output has delta: lora_B, or the whole layer where delta isn't its output."""
        if component.delta_source == "factor":
            columns, self.sizes = singular_directions(module, adapter, component.scaling)
            self.numbers = np.arange(len(self.sizes), dtype=np.int32)
            self.module = module if isinstance(module, Embedding) else module.lora_B[adapter]
            if (bias := lora_bias(module, adapter)) is not None:
                self.bias, columns = torch.from_numpy(bias), np.column_stack([columns, bias])
                self.numbers = np.append(self.numbers, np.int32(-1))
                self.sizes = np.append(self.sizes, np.linalg.norm(component.scaling * bias))
            self.columns = torch.from_numpy(columns)
        self.scale = torch.empty(0)
        """Scale (sequence, direction) of the batch that passes."""

    def hook(self, module: Any, args: Any, kwargs: Any, output: torch.Tensor) -> torch.Tensor | None:
        """Return the output of `module` as it is, as a function of the scale too."""
        dtype = torch.promote_types(output.dtype, torch.float32)
        added = output.detach().to(dtype)
        if hasattr(module, "_disable_adapters"):  # the whole layer
            if module._disable_adapters:  # the call of the next lines
                return None
            with disabled_adapters([module]), torch.no_grad():
                added = added - module(*args, **kwargs)
        if self.columns is not None:
            self.columns, self.bias = (each.to(output.device, dtype) for each in (self.columns, self.bias))
            added = (added - self.bias) @ self.columns
            added[..., self.numbers == -1] = 1
        scale = self.scale.to(output.device, dtype)
        result: torch.Tensor = _Scale.apply(output, scale, added, self.columns)  # type: ignore[no-untyped-call]
        return result


class _Scale(torch.autograd.Function):
    """Scale directions of what a layer adds by 1: as arithmetic of autograd it would take half as long again."""

    @staticmethod
    def forward(ctx: Any, output: Any, scale: Any, added: Any, columns: Any) -> Any:
        """Return `output`; in it are `added` (..., direction) times `columns`, or without these `added` itself."""
        ctx.save_for_backward(added, columns)
        ctx.n_sequences = len(scale)
        return output.view_as(output)

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        """Return the gradient by `output`, and by `scale` (sequence, direction) its sums over a sequence's tokens."""
        added, columns = ctx.saved_tensors
        own = gradient.to(added.dtype)
        by_token = (added * own).sum(-1, keepdim=True) if columns is None else added * (own @ columns)
        return gradient, by_token.reshape(ctx.n_sequences, -1, by_token.shape[-1]).sum(1), None, None


@contextmanager
def _scaling(model: Any, scaled: Sequence[_ScaledDelta]) -> Iterator[None]:
    """Let passes within the context make graphs by the scales alone; afterwards the model is as before.

    Only what enters a decoder layer is kept, and a backward pass computes the layer again.
    """
    base = model.get_base_model()
    stacks = {match[1] for delta in scaled if (match := re.match(r"(.*?)\.\d+\.", delta.path))}
    layers = [layer for stack in stacks for layer in base.get_submodule(stack)]
    with restoring_modes(model), torch.enable_grad(), ExitStack() as hooks:
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        for delta in scaled:
            hooks.callback(delta.module.register_forward_hook(delta.hook, with_kwargs=True).remove)
        hooks.callback(register_module_forward_hook(_require_gradient).remove)
        for layer in layers:
            if "forward" in vars(layer):
                hooks.callback(setattr, layer, "forward", layer.forward)
            else:
                hooks.callback(delattr, layer, "forward")
            layer.forward = partial(checkpoint, layer.forward, use_reentrant=False, preserve_rng_state=False)
        yield


def _require_gradient(module: torch.nn.Module, args: Any, output: Any) -> None:
    """Raise CaptureError if gradients pass from a module's output no further, as in some kernels for quantised weights.

    Only modules with no others in them that turn tensors into one tensor are looked at.
    """
    if not torch.is_grad_enabled() or not isinstance(output, torch.Tensor) or output.requires_grad:
        return
    tracked = any(isinstance(value, torch.Tensor) and value.requires_grad for value in args)
    if tracked and output.is_floating_point() and next(module.children(), None) is None:
        raise CaptureError(NO_GRADIENT.format(f"a {type(module).__name__}"))


def _gradients(
    model: Any,
    numbered: Sequence[tuple[int, EncodedSample]],
    device: torch.device,
    scaled: Sequence[_ScaledDelta],
    *,
    draws: int,
    seed: int,
) -> np.ndarray:
    """Return the gradients (pass, direction), float32, of a batch of samples, each with its number in the run."""
    for delta in scaled:
        delta.scale = torch.ones((len(numbered), len(delta.numbers)), requires_grad=True)
    logits = run_pass(model, [sample for _, sample in numbered], device)
    assert logits is not None
    scales = [delta.scale for delta in scaled]
    by_draw = []
    for draw, by_logit in enumerate(_label_gradients(logits.detach(), numbered, draws, seed)):
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("error", ".*an autograd kernel was not registered", UserWarning)
                by_scale = torch.autograd.grad(logits, scales, by_logit, retain_graph=draw + 1 < draws)
        except UserWarning as warning:  # as of bitsandbytes' 4 bits on CPUs with AVX512-BF16
            raise CaptureError(NO_GRADIENT.format(str(warning).partition(": ")[0])) from None
        by_draw.append(torch.cat(by_scale, 1).numpy())
    gradients = np.stack(by_draw, 1).reshape(len(numbered) * draws, -1)
    if not np.isfinite(gradients).all():
        raise CaptureError(
            f"gradients of sample {numbered[0][1].id!r} or one after it aren't all finite; in float16 they overflow, "
            "so load the model in bfloat16 or float32, or leave `importance` out"
        )
    return gradients


def _label_gradients(
    logits: torch.Tensor, numbered: Sequence[tuple[int, EncodedSample]], draws: int, seed: int
) -> Iterator[torch.Tensor]:
    """Yield by draw the gradient, by the logits, of the labels' summed log-probabilities: label minus probabilities.

    A label depends on the seed, the sample's number, the draw and the position, not on the batch. The tensor is the
    same each time, changed in place; it is 0 at padding.
    """
    lengths = [len(sample.token_ids) for _, sample in numbered]
    places = np.concatenate([row * logits.shape[1] + np.arange(length) for row, length in enumerate(lengths)])
    uniform = np.hstack(
        [
            [np.random.default_rng((seed, number, draw)).random(length) for draw in range(draws)]
            for (number, _), length in zip(numbered, lengths, strict=True)
        ]
    )
    where, targets = (torch.from_numpy(values).to(logits.device) for values in (places, uniform))
    gradient = torch.zeros_like(logits)
    flat, flat_logits = gradient.flatten(0, 1), logits.flatten(0, 1)
    labels = torch.empty(targets.shape, dtype=torch.int64, device=logits.device)
    for part in logit_parts(len(where), logits):
        probability = flat_logits[where[part]].double().softmax(-1)
        flat[where[part]] = -probability.to(flat.dtype)
        labels[:, part] = draw_ids(probability, targets[:, part].T.contiguous()).T
    for own in labels:
        without = flat[where, own]
        flat[where, own] = without + 1
        yield gradient
        flat[where, own] = without
