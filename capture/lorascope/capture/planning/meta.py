"""The model with its adapters on the meta device: every name, shape and type, and no numbers."""

import copy
import warnings
from collections.abc import Callable, Mapping, Sequence
from inspect import signature
from pathlib import Path
from typing import Any, NamedTuple

import torch
from peft import LoraConfig, PeftModel
from safetensors import safe_open
from torch import nn
from transformers import AutoConfig, AutoTokenizer

from lorascope.stores import Problem

from ..adapters.adapter import read_adapter
from ..adapters.components import LoraComponent, adapted_modules
from ..adapters.fit import fit_problems, init_problems
from ..adapters.refusal import require, weight_problems
from ..adapters.training_record import read_training
from ..models.model import DTYPES, locate, model_class, one_line
from ..models.sharing import share_layers, sharing_of
from .memory import tensor_bytes

__all__ = ["MetaModel", "attach_on_meta", "load_on_meta", "meta_inputs", "output_dtypes"]

PROBE_TOKENS = 4
SAFETENSORS_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "F64": torch.float64}


class MetaModel(NamedTuple):
    """A model without numbers, and the tokenizer that goes with it."""

    model: Any
    tokenizer: Any
    has_weights: bool
    """Whether its weights can be loaded, as far as this disk tells."""
    quantized: bool
    """Whether its weights are kept quantised."""
    dtype_basis: str
    """Where the type of its weights is known from."""
    loaded_bytes: int
    """Bytes of its weights as they are loaded, before layers share any."""


def load_on_meta(
    source: str, *, dtype: str = "auto", trust_remote_code: bool = False, share: int = 1, shared_layers: int = 16
) -> MetaModel:
    """A model on the meta device, in eval mode, from its configuration alone; its tokenizer is the real one.

    Parameters
    ----------
    source
        Hub id, local folder, which here needs no weights, or path of a `.gguf` file.
    dtype
        Type of the weights: `auto`, `float32`, `float16` or `bfloat16`.
    trust_remote_code
        Whether Python code that the model brings may run.
    share, shared_layers
        How the last layers share their weights, as for `load_model`; whose weights they are makes no difference here.

    Raises
    ------
    FileNotFoundError, ValueError
        As `load_model`, but for missing weights.
    """
    folder = Path(source).expanduser()
    has_config = (folder / "config.json").is_file()
    bare = has_config and not any(folder.glob("*.safetensors"))
    where, options = (str(folder), {"local_files_only": True}) if bare else locate(source)
    options["trust_remote_code"] = trust_remote_code
    with one_line(f"model {source!r}"):
        config = AutoConfig.from_pretrained(where, **options)
        chosen, basis = _choose_dtype(config, folder if has_config else None, dtype)
        with torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the same come again when the model itself is loaded
            model = model_class(config).from_config(config, dtype=chosen, trust_remote_code=trust_remote_code)
    with one_line(f"tokenizer of {source!r}"):
        tokenizer = AutoTokenizer.from_pretrained(where, **options)
    quantized = getattr(config, "quantization_config", None) is not None
    loaded = tensor_bytes(model)
    share_layers(model, share, shared_layers=shared_layers)
    return MetaModel(model.eval(), tokenizer, not bare, quantized, basis, sum(loaded.values()))


def attach_on_meta(
    model: Any, folders: Mapping[str, str], *, allow_zero: bool = False
) -> tuple[PeftModel, list[Problem]]:
    """The model with these adapters (name -> folder) attached, still on the meta device, and what is wrong with them.

    Raises
    ------
    AdapterError
        If a folder holds no LoRA adapter, or one that fits no layer of this model.
    """
    configs: dict[str, LoraConfig] = {}
    problems: list[Problem] = []
    sharing = sharing_of(model)
    for name, folder in folders.items():
        configs[name], tensors = read_adapter(folder)
        found = fit_problems(model, configs[name], tensors, name)
        require([problem for problem in found if problem.kind in {"no-layers", "config"}], folder)
        # An empty module, since this model, unlike the one to come, looks as if it were offloaded.
        problems += init_problems(nn.Module(), configs[name], len(folders))
        problems += found + weight_problems(tensors, allow_zero=allow_zero)
        problems += read_training(folder, name, sharing).problems
    first, *others = configs
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the same come again when the model itself is adapted
        adapted = PeftModel(model, _plain(configs[first]), adapter_name=first, low_cpu_mem_usage=True)
        for name in others:
            adapted.add_adapter(name, _plain(configs[name]), low_cpu_mem_usage=True)
    for name, config in configs.items():
        attached: Any = adapted.peft_config[name]
        attached.init_lora_weights = config.init_lora_weights
    return adapted.to("meta").eval(), problems


def meta_inputs(model: PeftModel) -> dict[str, Any] | None:
    """Arguments of a pass on the meta device; None where the model can't run there.

    A mask of four axes, since models look at the numbers of one of two.
    """
    base: Any = model.get_base_model()
    shape = (1, PROBE_TOKENS)
    known = {
        "input_ids": torch.zeros(shape, dtype=torch.int64, device="meta"),
        "attention_mask": torch.zeros((1, 1, PROBE_TOKENS, PROBE_TOKENS), dtype=base.dtype, device="meta"),
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


def output_dtypes(
    model: PeftModel, components: Mapping[str, Sequence[LoraComponent]], inputs: Mapping[str, Any] | None
) -> dict[str, torch.dtype]:
    """Type of each component's output, from a pass with these inputs, or else its weights' own."""
    modules: dict[str, Any] = {
        component.path: adapted_modules(model, name)[component.path][1]
        for name, found in components.items()
        for component in found
    }
    dtypes = {path: _weight_dtype(module) for path, module in modules.items()}
    if inputs is None:
        return dtypes

    def hook(path: str) -> Callable[..., None]:
        return lambda module, args, output: dtypes.__setitem__(path, output.dtype)

    handles = [module.register_forward_hook(hook(path)) for path, module in modules.items()]
    try:
        with torch.inference_mode():
            model(**inputs)
    finally:
        for handle in handles:
            handle.remove()
    return dtypes


def _choose_dtype(config: Any, folder: Path | None, dtype: str) -> tuple[torch.dtype, str]:
    """The type that `load_model` would give the weights, and how that is known."""
    if dtype != "auto":
        return DTYPES[dtype], "the setting `dtype`"
    if config.dtype is not None:
        named = config.dtype
        return named if isinstance(named, torch.dtype) else getattr(torch, named), "the model's configuration"
    for file in sorted(folder.glob("*.safetensors")) if folder is not None else ():
        with safe_open(file, "pt") as tensors:
            found = (SAFETENSORS_DTYPES.get(tensors.get_slice(key).get_dtype()) for key in tensors.keys())  # noqa: SIM118
            kinds = [kind for kind in found if kind is not None]
        if kinds:
            return kinds[0], "the header of its weights"
    return torch.float32, "torch, since nothing names another"


def _plain(config: LoraConfig) -> LoraConfig:
    """The same without its init, which only decides numbers, and may need data or libraries."""
    plain = copy.copy(config)
    plain.init_lora_weights = True
    return plain


def _weight_dtype(module: Any) -> torch.dtype:
    inner = getattr(module, "base_layer", None) or module.original_module
    dtype: torch.dtype = next(inner.parameters()).dtype
    return dtype
