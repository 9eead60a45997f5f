"""An adapter's delta at one layer, computed as PEFT does, but without the frozen layer's output.

Which form it takes depends on the layer and on the variant of LoRA:

- `factor`: scaling * (B z + bias), z = A x. Plain LoRA, and the variants that only change how A or B are kept.
- `branch`: DoRA, whose magnitude module outputs the whole delta.
- `difference`: only the layer's output with and without the adapter is known.
"""

from typing import Any, Literal

import numpy as np
import torch
from accelerate.utils import align_module_device  # type: ignore[import-untyped]  # it has no stubs
from peft.tuners.lora import Embedding, LoraLayer
from peft.tuners.lora.layer import ParamWrapper

from .passes import Pass
from .shards import whole

DeltaForm = Literal["factor", "branch", "difference"]

IN_FACTOR_FORM = frozenset(
    {"MiCALinearVariant", "MiCAEmbeddingVariant", "VeloraLinearVariant", "BdLoraLinearVariant", "KasaLinearVariant"}
)
"""Variants that call lora_A as a module and are linear in its output (PEFT's `lora/variants.py`)."""
THROUGH_MAGNITUDE = frozenset({"DoraLinearVariant", "DoraEmbeddingVariant"})


def delta_form(module: Any, adapter: str) -> DeltaForm:
    """Return the form of a layer's delta: `factor` (from B A x), `branch` (DoRA) or `difference` (of outputs)."""
    if not isinstance(module, LoraLayer) or isinstance(module, ParamWrapper):
        return "difference"
    name = type(module.lora_variant.get(adapter)).__name__
    if name in THROUGH_MAGNITUDE:
        return "branch"
    return "factor" if name == "NoneType" or name in IN_FACTOR_FORM else "difference"


def adds_in_place(module: Any, adapter: str) -> bool:
    """Return whether PEFT may change the frozen layer's output in place, which would destroy base."""
    names = {type(module.lora_variant.get(adapter)).__name__, type(module).__name__}
    return delta_form(module, adapter) == "difference" or bool(names & {"BdLoraLinearVariant", "AqlmLoraLinear"})


def effective_scaling(module: Any, adapter: str) -> float:
    """Return the factor on B A x in a layer: LoRA's scaling times an embedding's own scale; 1 for other modules."""
    if not isinstance(module, LoraLayer):
        return 1.0
    scaling = float(module.scaling[adapter])
    scale = embed_scale(module)
    if scale is None or scale.is_meta:
        return scaling
    # PEFT casts the scale to the adapter's type.
    return scaling * float(scale.to(module.lora_embedding_B[adapter].dtype))


def embed_scale(module: Any) -> torch.Tensor | None:
    """Return the factor that an embedding multiplies its rows by (as in Gemma 3); None if it doesn't scale them."""
    if not isinstance(module, Embedding):
        return None
    scale: torch.Tensor | None = module._get_embed_scale()  # type: ignore[no-untyped-call]
    return scale


def lora_b(module: Any, adapter: str) -> np.ndarray:
    """Return a copy of a layer's lora_B, float32 (feature, rank), with KaSA's diagonal multiplied into it."""
    if isinstance(module, Embedding):
        with align_module_device(module):
            return _to_float32(module.lora_embedding_B[adapter])
    layer = module.lora_B[adapter]
    with align_module_device(layer), align_module_device(module):
        blocks = getattr(layer, "weight_as_blockdiagonal_matrix", None)
        weight = blocks() if blocks is not None else layer.weight
        diagonal = getattr(module, "lora_diag", {})
        return _to_float32(weight * diagonal[adapter] if adapter in diagonal else weight)


def singular_directions(module: Any, adapter: str, scaling: float) -> tuple[np.ndarray, np.ndarray]:
    """Return left singular vectors (feature, rank) and values (rank,) of scaling * B A, float64, by descending value.

    Where the rank is larger than the layer, the last columns and values are 0.
    """
    b = lora_b(module, adapter).astype(np.float64)
    if isinstance(module, Embedding):
        a = _to_float32(module.lora_embedding_A[adapter])
    else:
        blocks = getattr(module.lora_A[adapter], "weight_as_blockdiagonal_matrix", None)
        a = _to_float32(blocks() if blocks is not None else module.lora_A[adapter].weight)
    (q, left), (_, right) = np.linalg.qr(b), np.linalg.qr(a.T.astype(np.float64))
    vectors, values, _ = np.linalg.svd(scaling * left @ right.T, full_matrices=False)
    columns, missing = q @ vectors, b.shape[1] - len(values)
    return np.pad(columns, ((0, 0), (0, missing))), np.pad(values, (0, missing))


def lora_bias(module: Any, adapter: str) -> np.ndarray | None:
    """Return a copy of the bias of a layer's lora_B, float32 (feature,); None if it has no bias."""
    if isinstance(module, Embedding) or not module.lora_bias.get(adapter):
        return None
    with align_module_device(module.lora_B[adapter]):
        return _to_float32(module.lora_B[adapter].bias)


def compute_factor(module: Any, adapter: str, x: torch.Tensor) -> torch.Tensor:
    """Return LoRA's z = A x, shape (..., rank), for a layer's input x, which for an embedding is token ids."""
    if isinstance(module, Embedding):
        ends = {"input_fn": module.input_fns.get(adapter), "output_fn": module.output_fns.get(adapter)}
        rows: torch.Tensor = module._embed(x, module.lora_embedding_A[adapter].T, **ends)
        return rows
    lora_A = module.lora_A[adapter]
    factor: torch.Tensor = lora_A(module.lora_dropout[adapter](module._cast_input_dtype(x, lora_A.weight.dtype)))
    return factor


def dora_output(module: Any, adapter: str, x: torch.Tensor, base: torch.Tensor) -> Any:
    """Return the output of DoRA's magnitude module for a layer's input x and frozen output `base`; see `dora_delta`."""
    magnitude = module.lora_magnitude_vector[adapter]
    frozen = module.get_base_layer()
    shared = {"scaling": module.scaling[adapter], "base_layer": frozen, "adapter_name": adapter}
    if isinstance(module, Embedding):
        down, up = module.lora_embedding_A[adapter].T, module.lora_embedding_B[adapter].T
        return magnitude(x, lora_A=down, lora_B=up, embed_fn=module._embed, **shared)
    lora_A, lora_B = module.lora_A[adapter], module.lora_B[adapter]
    x = module._cast_input_dtype(x, lora_A.weight.dtype)
    return magnitude(x, lora_A=lora_A, lora_B=lora_B, base_result=base, **shared)


def dora_delta(module: Any, output: Any, base: torch.Tensor) -> torch.Tensor:
    """Return DoRA's delta, float32 (token, feature), from its magnitude module's output and the frozen layer's.

    For a linear layer delta is the module's output; for an embedding that is (scale, rest) of scale * base + rest.
    """
    if not isinstance(module, Embedding):
        delta: torch.Tensor = output.detach().flatten(0, -2).float()
        return delta
    scale, rest = output
    stretch = embed_scale(module)
    rest = (rest if stretch is None else rest * stretch.to(rest.dtype)).flatten(0, -2)
    whole: torch.Tensor = (scale.double() - 1) * base.double() + rest.double()
    return whole.float()


def dora_dtype(output: Any) -> torch.dtype:
    """Return the dtype in which DoRA's magnitude module computed: that of the least precise tensor in `output`."""
    tensors = (output,) if isinstance(output, torch.Tensor) else output
    return min((tensor.dtype for tensor in tensors), key=lambda dtype: -torch.finfo(dtype).eps)


def replaced_output(module: Any, adapter: str, args: Any, kwargs: Any) -> torch.Tensor:
    """Run PEFT's wrapper of a module in `modules_to_save` with this adapter's trained copy; return its output."""
    with Pass("adapted", adapter).enabled(module):
        output: torch.Tensor = module(*args, **kwargs)
    return output


def _to_float32(tensor: torch.Tensor) -> np.ndarray:
    """Return a tensor's numbers as a new float32 array on the host."""
    return np.array(whole(tensor.detach()).float().cpu().numpy())
