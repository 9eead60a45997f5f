"""The final norm and the output embedding of a model, recognised by what they compute and not by their names."""

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
from .weights import plain_model, plain_path

N_LAST = 16
"""Outputs that are kept before the output embedding's: between it and the final norm is little, such as a dropout."""
MAGNITUDE = 64.0
"""Size of a probe vector's features: so large that a norm's epsilon is lost in rounding, and within float16."""
LEAST_COSINE = 0.99
"""Cosine of a norm's output and what its weight gives of its input, which each token has at least."""


class FinalNorm(NamedTuple):
    """The final norm without its division by the size of its input, and without its bias."""

    weight: np.ndarray
    """Float32 (feature,)."""
    centred: bool
    """Whether it subtracts the mean over features."""


def unembedding_kind(model: Any) -> Unembedding:
    """Sizes and type of the output embedding; the model may be on the meta device. `centred` isn't known yet.

    Raises
    ------
    ValueError
        If the model foresees no tokens, or its output embedding is quantised.
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


@torch.inference_mode()
def final_norm(model: Any, inputs: Mapping[str, torch.Tensor]) -> FinalNorm:
    """The norm that feeds the output embedding, recognised in one pass over these inputs.

    Raises
    ------
    ValueError
        If what the output embedding gets is no module's output, or its module is no norm over features.

    Notes
    -----
    A norm's output is linear in its weight. For x whose features are all +c or -c, x and -x give the weight and the
    bias by their difference and sum; x + c/2 tells whether the mean is taken off, and 2x whether the size is.
    """
    path, module, inner, outer = _last_before(model, _output_embedding(model), inputs)
    signs = torch.ones(outer.shape[-1], dtype=torch.float64)
    signs[1::2] = -1
    x = MAGNITUDE * signs
    rows = torch.stack([x, -x, x + MAGNITUDE / 2, 2 * x])[None].to(inner)
    plus, minus, moved, doubled = module(rows)[0].double().cpu()
    weight, bias = (plus - minus) / 2, (plus + minus) / 2
    most = plus.abs().max() / 100
    centred = bool((moved - plus).abs().max() < most)
    weight = weight / _normalised(x[None], centred=centred)[0]
    expected = weight * _normalised(inner.double().cpu(), centred=centred)
    cosine = torch.cosine_similarity(expected, outer.double().cpu() - bias, dim=-1)
    if (doubled - plus).abs().max() < most and (cosine > LEAST_COSINE).all():
        return FinalNorm(weight.float().numpy(), centred)
    raise ValueError(
        f"the output embedding gets what {path!r} puts out, a {type(module).__name__}, which is no norm over features "
        "(RMSNorm, LayerNorm); leave `unembedding` out"
    )


def unembedding_values(model: Any, tokenizer: Any, norm: FinalNorm) -> dict[str, Any]:
    """Weight (of bfloat16 its bits), norm, and text of each token id, by their paths in a run."""
    head = _output_embedding(model)
    weight = real_tensor(head, "weight", head.weight).detach().cpu().contiguous()
    bits = weight.view(torch.int16).numpy().view(np.uint16) if weight.dtype == torch.bfloat16 else weight.numpy()
    texts = tokenizer.batch_decode([[index] for index in range(len(weight))])
    return {"unembedding/weight": bits, "unembedding/norm": norm.weight, "unembedding/text": texts}


def _output_embedding(model: Any) -> Any:
    """The base model's own output embedding, whatever an adapter puts around it or in its place."""
    head = plain_model(model).get_output_embeddings() if is_causal(model) else None
    while isinstance(head, BaseTunerLayer | AuxiliaryTrainingWrapper):
        head = head.original_module if isinstance(head, AuxiliaryTrainingWrapper) else head.get_base_layer()
    if head is None or getattr(head, "weight", None) is None:
        kind = type(plain_model(model)).__name__
        raise ValueError(f"a {kind} has no output embedding that makes next tokens; leave `unembedding` out")
    return head


def _last_before(
    model: Any, head: nn.Module, inputs: Mapping[str, torch.Tensor]
) -> tuple[str, nn.Module, torch.Tensor, torch.Tensor]:
    """Path, module, input and output of the module that makes the output embedding's input."""
    latest: deque[tuple[str, nn.Module, torch.Tensor, torch.Tensor]] = deque(maxlen=N_LAST)
    before: list[Any] = []

    def keep(path: str, module: nn.Module, args: Any, output: Any) -> None:
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


def _normalised(x: torch.Tensor, *, centred: bool) -> torch.Tensor:
    x = x - x.mean(-1, keepdim=True) if centred else x
    return x / x.square().mean(-1, keepdim=True).sqrt()
