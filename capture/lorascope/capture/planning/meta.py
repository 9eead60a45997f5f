"""The model with its adapters on the meta device, which has names, shapes and types but no numbers."""

import copy
import warnings
from collections.abc import Mapping, Sequence
from inspect import signature
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import torch
from peft import LoraConfig, PeftModel
from peft.tuners.lora import LoraLayer
from safetensors import safe_open
from torch import nn
from transformers import AutoTokenizer

from lorascope.stores import Problem

from ..models.adapter import read_adapter
from ..models.components import LoraComponent
from ..models.model import DTYPES, model_on_meta, one_line_errors, read_config
from ..models.refusal import fit_problems, init_problems, raise_for_problems, weight_problems
from ..models.sharing import layer_sharing, share_layers
from ..models.source import locate_model
from ..models.training_record import read_training

META_TOKENS = 4
"""Number of tokens in the pass that shows how often each layer runs."""
SAFETENSORS_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "F64": torch.float64}


class MetaModel(NamedTuple):
    """A model on the meta device (shapes and types without numbers), and its tokenizer."""

    model: Any
    tokenizer: Any
    has_weights: bool
    """Whether its weights can be loaded, as far as this disk shows."""
    quantized: bool
    """Whether its weights are quantised."""


def load_on_meta(
    source: str, *, dtype: str = "auto", trust_remote_code: bool = False, share: int = 1, shared_layers: int = 16,
    **_: Any,
) -> MetaModel:  # fmt: skip
    """Build a model on the meta device, in eval mode, from its configuration alone, and load its tokenizer.

    Parameters and errors are those of `load_model`, except that weights may be missing. Other parameters of it than
    these change only where and which the numbers are.
    """
    folder = Path(source).expanduser()
    bare = (folder / "config.json").is_file() and not any(folder.glob("*.safetensors"))
    where, options = locate_model(source, dtype=dtype, weights=False)
    options["trust_remote_code"] = trust_remote_code
    with one_line_errors(f"model {source!r}"):
        config = read_config(where, **options)
        model = model_on_meta(config, _choose_dtype(config, folder, dtype), trust_remote_code=trust_remote_code)
    with one_line_errors(f"tokenizer of {source!r}"):
        tokenizer = AutoTokenizer.from_pretrained(where, **options)
    quantized = getattr(config, "quantization_config", None) is not None
    share_layers(model, share, shared_layers=shared_layers)
    return MetaModel(model.eval(), tokenizer, not bare, quantized)


def attach_on_meta(
    model: Any, folders: Mapping[str, str], *, allow_zero: bool = False
) -> tuple[PeftModel, list[Problem]]:
    """Attach adapters (name -> folder) to a model on the meta device; return it and the adapters' problems.

    Raises an AdapterError if a folder holds no LoRA adapter, or one that fits no layer of this model.
    """
    configs: dict[str, LoraConfig] = {}
    problems: list[Problem] = []
    for name, folder in folders.items():
        configs[name], tensors = read_adapter(folder)
        misfits = fit_problems(model, configs[name], tensors, name)
        raise_for_problems([problem for problem in misfits if problem.kind in {"no-layers", "config"}], folder)
        # An empty module, since a model on the meta device looks as if it were offloaded.
        problems += init_problems(nn.Module(), configs[name], len(folders))
        problems += misfits
        if not any(problem.kind in {"shape", "unexpected"} for problem in misfits):  # of any size, and mapped only
            problems += weight_problems(tensors, allow_zero=allow_zero)
        problems += read_training(folder, name, layer_sharing(model)).problems
    adapted: Any = None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the same come again when the model itself is adapted
        for name, config in configs.items():
            plain = copy.copy(config)
            plain.init_lora_weights = True  # it affects numbers only, and others may need data or libraries
            if adapted is None:
                adapted = PeftModel(model, plain, adapter_name=name, low_cpu_mem_usage=True)
            else:
                adapted.add_adapter(name, plain, low_cpu_mem_usage=True)
    for name, config in configs.items():
        adapted.peft_config[name].init_lora_weights = config.init_lora_weights
    return adapted.to("meta").eval(), problems


def meta_inputs(model: PeftModel) -> dict[str, Any] | None:
    """Return the arguments of a pass on the meta device; None if the model can't run there.

    The mask has four axes, since models look at the numbers of a mask with two.
    """
    base: Any = model.get_base_model()
    shape = (1, META_TOKENS)
    known = {
        "input_ids": torch.zeros(shape, dtype=torch.int64, device="meta"),
        "attention_mask": torch.zeros((1, 1, META_TOKENS, META_TOKENS), dtype=base.dtype, device="meta"),
        "position_ids": torch.zeros(shape, dtype=torch.int64, device="meta"),
        "use_cache": False,
    }
    accepted = signature(base.forward).parameters
    inputs = {name: value for name, value in known.items() if name in accepted}
    try:
        with torch.inference_mode():
            model(**inputs)
    except Exception:  # operations without a meta kernel, and those that look at numbers, raise whatever they like
        return None
    return inputs


def output_dtypes(components: Mapping[str, Sequence[LoraComponent]]) -> dict[str, torch.dtype]:
    """Return component path -> type of its output: a linear layer's output has the type of its weights."""
    dtypes: dict[str, torch.dtype] = {}
    for component in chain.from_iterable(components.values()):
        module = component.module
        inner = module.get_base_layer() if isinstance(module, LoraLayer) else module.original_module
        dtypes[component.path] = next(inner.parameters()).dtype
    return dtypes


def _choose_dtype(config: Any, folder: Path, dtype: str) -> torch.dtype:
    """Return the dtype that `load_model` would give the weights: `dtype`, or the configuration's or the files' own."""
    named: Any = config.dtype if dtype == "auto" else DTYPES[dtype]
    if named is not None:
        return named if isinstance(named, torch.dtype) else getattr(torch, named)
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as tensors:
            kinds = [tensors.get_slice(key).get_dtype() for key in tensors.keys()]  # noqa: SIM118 (it is no mapping)
        if known := [SAFETENSORS_DTYPES[kind] for kind in kinds if kind in SAFETENSORS_DTYPES]:
            return known[0]
    return torch.float32
