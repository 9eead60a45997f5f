"""The final norm and the output embedding of a model, recognised by what they compute, not by their names."""

import dataclasses
from collections import deque
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any, NamedTuple

import numpy as np
import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import nn

from lorascope.stores.format.spec import Unembedding

from .device import real_tensor
from .model import is_causal
from .passes import Pass
from .weights import plain_model, plain_path

N_LAST = 16
"""Modules whose outputs are kept before the output embedding runs: few run after the final norm, such as a dropout."""
MAGNITUDE = 64.0
"""Absolute value of a probe's features: large enough to hide a norm's epsilon in rounding, small enough for float16."""
LEAST_COSINE = 0.99
"""Smallest cosine, over tokens, of a norm's output and the output predicted from its weight and input."""


class FinalNorm(NamedTuple):
    """Weight of the norm before the output embedding, and whether that norm subtracts the mean.

    Its division by the input's size and its bias aren't kept.
    """

    weight: np.ndarray
    """Float32 (feature,)."""
    centred: bool
    """Whether the norm subtracts the mean over features."""


def describe_unembedding(model: Any) -> Unembedding:
    """Return shape and type of a model's output embedding; `centred` is False until a pass has shown the norm.

    The model may be on the meta device.

    Raises
    ------
    ValueError
        If the model predicts no tokens, or its output embedding is quantised.
    """
    weight = _output_embedding(model).weight
    if type(weight) not in {torch.Tensor, nn.Parameter} or not weight.is_floating_point():
        raise ValueError(
            f"the output embedding is kept quantised, as a {type(weight).__name__} of {weight.dtype}; load the model "
            "without quantising it, or leave `unembedding` out"
        )
    n_vocabulary, n_features = weight.shape
    dtype = str(weight.dtype).removeprefix("torch.")
    return Unembedding(n_vocabulary=n_vocabulary, n_features=n_features, dtype=dtype, centred=False)


def read_unembedding(model: Any, inputs: Mapping[str, torch.Tensor]) -> tuple[Unembedding, FinalNorm]:
    """Run a pass without adapters; return what describes the output embedding, and the norm before it.

    Raises what `describe_unembedding` and `final_norm` raise.
    """
    kind = describe_unembedding(model)
    with Pass("base", None).enabled(model):
        norm = final_norm(model, inputs)
    return dataclasses.replace(kind, centred=norm.centred), norm


@torch.inference_mode()
def final_norm(model: Any, inputs: Mapping[str, torch.Tensor]) -> FinalNorm:
    """Return the norm before the output embedding, recognised by what it computes in a pass over `inputs`.

    Raises
    ------
    ValueError
        If the output embedding's input is no module's output, or that module is no norm over features.

    Notes
    -----
    A norm's output is linear in its weight. For x whose features are all +c or -c, x and -x give the weight and the
    bias by their difference and sum; x + c/2 shows whether the mean is subtracted, 2x whether the size is divided out.
    """
    path, module, inner, outer = _module_before(model, _output_embedding(model), inputs)
    signs = torch.ones(outer.shape[-1], dtype=torch.float64)
    signs[1::2] = -1
    x = MAGNITUDE * signs
    rows = torch.stack([x, -x, x + MAGNITUDE / 2, 2 * x])[None].to(inner)
    plus, minus, moved, doubled = module(rows)[0].double().cpu()
    weight, bias = (plus - minus) / 2, (plus + minus) / 2
    most = plus.abs().max() / 100
    centred = bool((moved - plus).abs().max() < most)
    weight = weight / _normalise(x[None], centred=centred)[0]
    expected = weight * _normalise(inner.double().cpu(), centred=centred)
    cosine = torch.cosine_similarity(expected, outer.double().cpu() - bias, dim=-1)
    if (doubled - plus).abs().max() < most and (cosine > LEAST_COSINE).all():
        return FinalNorm(weight.float().numpy(), centred)
    raise ValueError(
        f"the output embedding gets the output of {path!r}, a {type(module).__name__}, which is no norm over features "
        "(RMSNorm, LayerNorm); leave `unembedding` out"
    )


def unembedding_values(model: Any, tokenizer: Any, norm: FinalNorm) -> dict[str, Any]:
    """Return path in a run -> the output embedding's weight (bfloat16 as bits), norm, and text of each token id."""
    head = _output_embedding(model)
    weight = real_tensor(head, "weight", head.weight).detach().cpu().contiguous()
    bits = weight.view(torch.int16).numpy().view(np.uint16) if weight.dtype == torch.bfloat16 else weight.numpy()
    texts = tokenizer.batch_decode([[index] for index in range(len(weight))])
    return {"unembedding/weight": bits, "unembedding/norm": norm.weight, "unembedding/text": texts}


def _output_embedding(model: Any) -> Any:
    """Return the base model's output embedding without PEFT's wrapper; raise ValueError if it has no such layer."""
    head = plain_model(model).get_output_embeddings() if is_causal(model) else None
    while isinstance(head, BaseTunerLayer | AuxiliaryTrainingWrapper):
        head = head.original_module if isinstance(head, AuxiliaryTrainingWrapper) else head.get_base_layer()
    if head is None or getattr(head, "weight", None) is None:
        kind = type(plain_model(model)).__name__
        raise ValueError(f"a {kind} has no output embedding that makes next tokens; leave `unembedding` out")
    return head


def _module_before(
    model: Any, head: nn.Module, inputs: Mapping[str, torch.Tensor]
) -> tuple[str, nn.Module, torch.Tensor, torch.Tensor]:
    """Return (path, module, input, output) of the module whose output enters `head`, the output embedding."""
    latest: deque[tuple[str, nn.Module, torch.Tensor, torch.Tensor]] = deque(maxlen=N_LAST)
    before: list[Any] = []

    def keep(path: str, module: nn.Module, args: Any, output: Any) -> None:
        """Forward hook: keep path, module, input and output of this call if both are floating-point tensors."""
        both = (args[0] if args else None, output)
        if all(isinstance(tensor, torch.Tensor) and tensor.is_floating_point() for tensor in both):
            latest.append((path, module, args[0], output))

    with ExitStack() as hooks:
        for name, module in model.named_modules():
            path = plain_path(name)
            hook = module.register_forward_hook(lambda *call, path=path: keep(path, *call))
            hooks.callback(hook.remove)
        hook = head.register_forward_pre_hook(lambda _, args: before.append((args[0], [*latest])))
        hooks.callback(hook.remove)
        model(**inputs)
    if len(before) != 1:
        raise ValueError(f"the output embedding runs {len(before)} times in a pass, not once; leave `unembedding` out")
    hidden, candidates = before[0]
    for path, module, entering, output in reversed(candidates):
        same = entering.shape == output.shape and output.numel() == hidden.numel()
        if same and torch.equal(output.to(hidden).flatten(), hidden.flatten()) and not torch.equal(entering, output):
            return path, module, entering, output
    last = (
        f"the last before it is {candidates[-1][0]!r}, a {type(candidates[-1][1]).__name__}"
        if candidates
        else "none is before it"
    )
    raise ValueError(
        f"what the output embedding gets is no module's output as it is ({last}), so its norm isn't known; leave "
        "`unembedding` out"
    )


def _normalise(x: torch.Tensor, *, centred: bool) -> torch.Tensor:
    """Return x divided by its root mean square over features, after subtracting the mean if `centred`."""
    x = x - x.mean(-1, keepdim=True) if centred else x
    return x / x.square().mean(-1, keepdim=True).sqrt()
